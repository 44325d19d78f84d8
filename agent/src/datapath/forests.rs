//! The forests that the programs judge flows with, one a device.
//!
//! The table of trees has a fixed number of places. A new forest goes into a place that no model names, and only then does the
//! device's model point there, so the programs never walk half a forest. A place that was given up rests for a second first:
//! a program may still be in it.

use aya::maps::{Array, HashMap, MapData};
use tidegate_common::{
    device::DeviceKey,
    forest::{DeviceModel, TREES, Tree},
    maps,
};

use super::{Abi, Datapath, DatapathError, load::open, table};

/// Longer than any program runs.
const REST_NS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
enum Place {
    /// Not named by any model since then, kernel clock.
    FreeSince(u64),
    Of(DeviceKey),
}

/// Forests in force, and the places they are in.
pub struct KernelForests {
    trees: Array<MapData, Abi<Tree>>,
    models: HashMap<MapData, Abi<DeviceKey>, Abi<DeviceModel>>,
    places: Vec<Place>,
    generation: u32,
}

/// What became of a forest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// In force, with this [`DeviceModel::generation`].
    InForce(u32),
    /// Every place is taken or rests; the agent alone judges the device.
    NoPlace,
}

impl Datapath {
    /// Takes the forests out, those in force from before included.
    pub fn take_forests(&mut self) -> Result<KernelForests, DatapathError> {
        let trees: Array<MapData, Abi<Tree>> = open(&mut self.programs, maps::FORESTS)?;
        let models: HashMap<MapData, Abi<DeviceKey>, Abi<DeviceModel>> =
            open(&mut self.programs, maps::MODELS)?;
        let mut places = vec![Place::FreeSince(0); trees.len() as usize / TREES];
        let mut generation = 0;
        for entry in &models {
            let (Abi(device), Abi(model)) = entry.map_err(table(maps::MODELS))?;
            generation = generation.max(model.generation);
            if let Some(place) = places.get_mut(model.first_tree as usize / TREES) {
                *place = Place::Of(device);
            }
        }
        Ok(KernelForests { trees, models, places, generation })
    }
}

impl KernelForests {
    /// Puts a forest of [`TREES`] trees in force for `device`, in place of its earlier one. Flows that score below
    /// `cut_below` are cut; 0 cuts none.
    pub fn put(
        &mut self,
        device: DeviceKey,
        forest: &[Tree; TREES],
        cut_below: u32,
        now_ns: u64,
    ) -> Result<Placed, DatapathError> {
        let rested = |place: &Place| matches!(place, Place::FreeSince(since_ns) if *since_ns == 0 || now_ns.saturating_sub(*since_ns) >= REST_NS);
        let Some(place) = self.places.iter().position(rested) else {
            return Ok(Placed::NoPlace);
        };
        let first_tree = (place * TREES) as u32;
        for (index, tree) in (first_tree..).zip(forest) {
            self.trees.set(index, Abi(*tree), 0).map_err(table(maps::FORESTS))?;
        }
        let generation = self.generation.wrapping_add(1);
        let model = DeviceModel { first_tree, generation, cut_below, reserved: 0 };
        self.models.insert(Abi(device), Abi(model), 0).map_err(table(maps::MODELS))?;
        self.generation = generation;
        self.vacate(device, now_ns);
        self.places[place] = Place::Of(device);
        Ok(Placed::InForce(generation))
    }

    /// Changes the limit of the forest in force for `device`, if there is one.
    pub fn set_limit(&mut self, device: DeviceKey, cut_below: u32) -> Result<(), DatapathError> {
        let Ok(Abi(model)) = self.models.get(&Abi(device), 0) else { return Ok(()) };
        let model = DeviceModel { cut_below, ..model };
        self.models.insert(Abi(device), Abi(model), 0).map_err(table(maps::MODELS))
    }

    /// Stops judging `device`'s flows in the kernel.
    pub fn remove(&mut self, device: DeviceKey, now_ns: u64) -> Result<(), DatapathError> {
        if self.models.get(&Abi(device), 0).is_ok() {
            self.models.remove(&Abi(device)).map_err(table(maps::MODELS))?;
        }
        self.vacate(device, now_ns);
        Ok(())
    }

    /// Devices whose flows the kernel judges.
    pub fn devices(&self) -> impl Iterator<Item = DeviceKey> {
        self.places.iter().filter_map(|place| match place {
            Place::Of(device) => Some(*device),
            Place::FreeSince(_) => None,
        })
    }

    fn vacate(&mut self, device: DeviceKey, now_ns: u64) {
        for place in &mut self.places {
            if matches!(place, Place::Of(owner) if *owner == device) {
                *place = Place::FreeSince(now_ns);
            }
        }
    }
}

#[cfg(test)]
#[path = "forests_tests.rs"]
mod tests;
