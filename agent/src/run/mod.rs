//! The loop that carries the data from the kernel to the operator and back.

use anyhow::bail;

use crate::config::{Config, Source};

/// Guards the interfaces of `config` until a signal ends it; `source` is where a reload reads again.
pub fn run(config: &Config, source: &Source) -> anyhow::Result<()> {
    bail!(
        "cannot guard {:?} (configuration {:?}): the loop is not part of this build",
        config.gateway.interfaces,
        source.path
    )
}
