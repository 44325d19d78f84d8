//! Lab, packet builders and scenarios.
