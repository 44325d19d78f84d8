//! Manufacturer Usage Descriptions (RFC 8520): what a device is meant to do, as its maker, its operator or its own baseline says.
//!
//! Reads a description's access lists (RFC 8519) into a [`Policy`], makes that a kernel profile once its names have addresses, and
//! writes a description from the services a device was seen to use. Pure; the files are hostile. What cannot be enforced exactly is
//! refused, entry by entry: half a description in force would be worse than none.

mod policy;
mod ports;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use policy::{Entry, Family, Party, Policy, Side};
pub use read::{MAX_BYTES, MudError, read};
pub use write::{Author, write};
