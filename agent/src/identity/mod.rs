//! Who is on the protected side: hardware addresses and what is known about the devices behind them.

mod mac;

pub use mac::{Mac, MacError};
