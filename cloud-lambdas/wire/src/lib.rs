//! Versioned messages between gateways and the cloud.
