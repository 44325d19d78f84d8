//! Profiles in force: which device is held to which, and their entries in the kernel.
//!
//! A changed profile is written whole under a new number before the device's entry names that number, so there is no moment in which
//! half of one holds. What went before is deleted afterwards.

use std::collections::BTreeMap;

use super::{
    enforcer::Enforcer,
    profile::{Profile, ProfileEntries, TooLarge},
    record::{Author, Drift, EnforceError, Refusal},
    target::{TableError, Target, VerdictTable},
};
use crate::identity::Mac;

#[derive(Debug)]
struct Held {
    number: u32,
    profile: Profile,
    entries: ProfileEntries,
}

/// The devices that are held to a profile.
#[derive(Debug, Default)]
pub(super) struct Profiles {
    held: BTreeMap<Mac, Held>,
    last: u32,
}

/// A profile in force, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProfileState {
    /// Networks in the kernel.
    pub nets: usize,
    /// Rules in the kernel.
    pub rules: usize,
    /// Packets dropped, together with those that an isolation dropped.
    pub hits: u64,
}

impl Profiles {
    /// Number of the profile that `target` is held to, 0 for none.
    pub(super) fn number(&self, target: &Target) -> u32 {
        match target {
            Target::Device(mac) => self.held.get(mac).map_or(0, |held| held.number),
            _ => 0,
        }
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = Target> {
        self.held.keys().copied().map(Target::Device)
    }

    fn entries(&self) -> ProfileEntries {
        let mut all = ProfileEntries::default();
        self.held.values().for_each(|held| all.extend(&held.entries));
        all
    }
}

impl<T: VerdictTable> Enforcer<T> {
    /// Holds a device to `profile`, in place of its earlier one. `aliases` are its addresses.
    ///
    /// An operator's order: it has no expiry, no cap and no trial, and a never-block entry wins over it.
    pub fn set_profile(
        &mut self,
        device: Mac,
        profile: &Profile,
        aliases: &[Target],
        who: &Author,
    ) -> Result<(), EnforceError> {
        let target = Target::Device(device);
        self.never_block.refuse(&target, aliases, who)?;
        if !device.is_device() {
            let cause = "no device sends from this hardware address: name a unicast address";
            return Err(Refusal::Invalid { target, cause }.into());
        }
        if self.profiles.held.get(&device).is_some_and(|held| held.profile == *profile) {
            return Ok(());
        }
        let before = self.hold(device, profile)?;
        self.settle(&target)?;
        if let Some(before) = before {
            self.kernel.table_mut().profile_delete(&before.entries)?;
        }
        Ok(())
    }

    /// Holds a device to the profile of an earlier run; [`Self::restore`], which comes next, puts it in force.
    pub fn resume_profile(&mut self, device: Mac, profile: &Profile) -> Result<(), EnforceError> {
        self.hold(device, profile).map(drop)
    }

    /// Writes a profile that no entry names yet; the one it replaces.
    fn hold(&mut self, device: Mac, profile: &Profile) -> Result<Option<Held>, EnforceError> {
        if self.profiles.last == 0 {
            self.profiles.last = self.kernel.table().profiles()?.last_profile();
        }
        let number = self.profiles.last + 1;
        let entries = profile.compile(number).map_err(|TooLarge| {
            let cause = "its profile is too large: the kernel takes 1024 networks and 4096 rules a device";
            Refusal::Invalid { target: Target::Device(device), cause }
        })?;
        self.profiles.last = number;
        if let Err(cause) = self.kernel.table_mut().profile_add(&entries) {
            self.kernel.table_mut().profile_delete(&entries)?;
            return Err(cause.into());
        }
        let held = Held { number, profile: profile.clone(), entries };
        Ok(self.profiles.held.insert(device, held))
    }

    /// Lets a device do everything again; whether it was held to a profile.
    pub fn clear_profile(&mut self, device: Mac) -> Result<bool, EnforceError> {
        let Some(before) = self.profiles.held.remove(&device) else { return Ok(false) };
        self.settle(&Target::Device(device))?;
        self.kernel.table_mut().profile_delete(&before.entries)?;
        Ok(true)
    }

    /// The profile a device is held to.
    pub fn profile(&self, device: Mac) -> Option<&Profile> {
        self.profiles.held.get(&device).map(|held| &held.profile)
    }

    /// Numbers about the profile of a device.
    pub fn profile_state(&self, device: Mac) -> Result<Option<ProfileState>, TableError> {
        let Some(held) = self.profiles.held.get(&device) else { return Ok(None) };
        let entry = self.kernel.table().get(&Target::Device(device))?;
        Ok(Some(ProfileState {
            nets: held.entries.nets.len(),
            rules: held.entries.rules.len(),
            hits: entry.map_or(0, |entry| entry.hits),
        }))
    }

    /// Makes the kernel's profile tables what they should be; the devices whose entries differed.
    pub(super) fn mend_profiles(&mut self) -> Result<Vec<(Drift, Target)>, TableError> {
        let (found, wanted) = (self.kernel.table().profiles()?, self.profiles.entries());
        if found == wanted {
            return Ok(Vec::new());
        }
        let differs = |held: &Held| {
            let ProfileEntries { nets, rules } = &held.entries;
            nets.iter().any(|(key, net)| found.nets.get(key) != Some(net))
                || rules.iter().any(|(key, may)| found.rules.get(key) != Some(may))
        };
        let held = self.profiles.held.iter().filter(|(_, held)| differs(held));
        let drifted = held.map(|(mac, _)| (Drift::Different, Target::Device(*mac))).collect();
        let mut strange = found;
        strange.subtract(&wanted);
        self.kernel.table_mut().profile_add(&wanted)?;
        self.kernel.table_mut().profile_delete(&strange)?;
        Ok(drifted)
    }
}
