//! Keeps the forests in the kernel the same as the learner's: a device with a baseline is judged there, any other is not.

use std::collections::HashMap;

use tidegate_common::{device::DeviceKey, forest::TREES};

use super::gateway::Gateway;
use crate::datapath::{DatapathError, KernelForests, Placed};

/// The forests in the kernel, and which of the learner's models they are.
pub(super) struct Forests {
    kernel: KernelForests,
    placed: HashMap<DeviceKey, Version>,
}

/// What the kernel must be told about again when it changes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    model: u64,
    cuts: bool,
}

impl Forests {
    pub(super) fn new(kernel: KernelForests) -> Self {
        Self { kernel, placed: HashMap::new() }
    }
}

impl Gateway {
    /// Brings the kernel's forests up to date. Those of an earlier run go with the first call, and come back as the learner
    /// trains the baselines it restored.
    pub(super) fn sync_forests(&mut self, now_ns: u64) -> Result<(), DatapathError> {
        let cuts = self.config.response.cut_flows;
        let wanted: HashMap<DeviceKey, Version> = self
            .learner
            .status()
            .filter_map(|status| {
                let model = status.model?;
                Some((DeviceKey::new(status.mac.0, status.ifindex), Version { model, cuts }))
            })
            .collect();
        let gone: Vec<DeviceKey> =
            self.forests.kernel.devices().filter(|device| !wanted.contains_key(device)).collect();
        for device in gone {
            self.forests.kernel.remove(device, now_ns)?;
            self.forests.placed.remove(&device);
        }
        for (device, version) in wanted {
            let placed = self.forests.placed.get(&device).copied();
            if placed == Some(version) {
                continue;
            }
            let Some(forest) = self.learner.flow_forest(device) else { continue };
            let Ok(trees) = <&[_; TREES]>::try_from(&*forest.trees) else { continue };
            let cut_below = if cuts { forest.far_below } else { 0 };
            let kernel = &mut self.forests.kernel;
            if placed.is_some_and(|placed| placed.model == version.model) {
                kernel.set_limit(device, cut_below)?;
                self.forests.placed.insert(device, version);
                continue;
            }
            match kernel.put(device, trees, cut_below, now_ns)? {
                Placed::InForce(generation) => {
                    tracing::debug!(?device, generation, "forest in the kernel");
                    self.forests.placed.insert(device, version);
                }
                // An outdated forest judges no longer; its place is free for the new one once it has rested.
                Placed::NoPlace if placed.is_some() => {
                    kernel.remove(device, now_ns)?;
                    self.forests.placed.remove(&device);
                }
                Placed::NoPlace => {}
            }
        }
        Ok(())
    }
}
