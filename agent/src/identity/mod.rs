//! Who is on the protected side: hardware addresses, the addresses and names behind them, who made them, and what their peers are
//! called.
//!
//! Pure but for reading the vendor registry at start: frames and flows come in, events and views go out. Whether a conflict is an
//! attack is the detector's to say.

mod device;
mod dhcp;
mod dns;
mod fingerprint;
#[cfg(test)]
mod hostile_tests;
mod mac;
mod names;
mod registry;
mod routers;
mod sample;
mod servers;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod vendor;
mod view;

pub use device::{Contest, Device, IdentityEvent, NameSource};
pub use dns::{DnsAnswer, DnsMessage, NXDOMAIN, Registered, rcode_name, registered, type_name};
pub use fingerprint::{ClientPrint, ServerPrint, version_name};
pub use mac::{Mac, MacError};
pub use names::{DevicePrint, Heard, NameOrigin, Names, PeerName, TlsConnection};
pub use registry::Registry;
pub use routers::{RouterClaim, RouterSaying};
pub use servers::DhcpServer;
pub use vendor::Vendors;
