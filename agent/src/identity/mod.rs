//! Who is on the protected side: hardware addresses, the addresses and names behind them, and who made them.
//!
//! Pure but for reading the vendor registry at start: frames and flows come in, events and views go out. Whether a conflict is an
//! attack is the detector's to say.

mod device;
mod dhcp;
#[cfg(test)]
mod hostile_tests;
mod mac;
mod registry;
mod sample;
mod servers;
#[cfg(test)]
mod tests;
mod vendor;
mod view;

pub use device::{Contest, Device, IdentityEvent, NameSource};
pub use mac::{Mac, MacError};
pub use registry::Registry;
pub use servers::DhcpServer;
pub use vendor::Vendors;
