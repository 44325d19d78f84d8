//! Descriptions in force: given by operators, kept in the store, enforced with the addresses that their names have now.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use tidegate_common::device::DeviceKey;
use tokio::sync::watch;

use super::{
    answer::{Answer, SEEN, failed, refused},
    gateway::{Gateway, now},
    names::Resolved,
};
use crate::{
    api::{DeviceRef, Operator, Refusal, view::ProfileView},
    enforce::{Author, Enforcer, Profile, Target, VerdictTable},
    identity::Mac,
    mud::{self, Policy},
    store::{Durability, Store, StoredProfile},
};

/// An address counts for so long after it was last an answer: clients keep connections, and clouds take turns with addresses.
const KEPT_NS: u64 = 6 * 3_600 * 1_000_000_000;
/// Addresses of one name at most.
const MOST: usize = 64;

struct Held {
    stored: StoredProfile,
    policy: Policy,
    /// When an address of a name was last an answer, kernel clock.
    heard: BTreeMap<(String, IpAddr), u64>,
}

impl Held {
    fn profile(&self) -> Profile {
        let known =
            |name: &str| self.stored.names.get(name).into_iter().flatten().copied().collect::<Vec<IpAddr>>();
        self.policy.profile(&known)
    }
}

/// The descriptions.
pub(super) struct Profiles {
    held: BTreeMap<Mac, Held>,
    wanted: watch::Sender<BTreeSet<String>>,
}

impl Profiles {
    /// Takes the descriptions of earlier runs up, before the enforcer takes up their devices' entries.
    pub(super) fn restore<T: VerdictTable>(
        store: &Store,
        enforcer: &mut Enforcer<T>,
        problems: &mut Vec<String>,
    ) -> Result<Self, crate::store::StoreError> {
        let mut held = BTreeMap::new();
        for stored in store.profiles()? {
            let device = stored.device;
            let resumed = mud::read(stored.description.as_bytes())
                .map_err(|error| error.to_string())
                .and_then(|policy| {
                    let item = Held { stored, policy, heard: BTreeMap::new() };
                    enforcer.resume_profile(device, &item.profile()).map_err(|error| error.to_string())?;
                    Ok(item)
                });
            match resumed {
                Ok(item) => _ = held.insert(device, item),
                Err(cause) => problems.push(format!("the profile of {device} is not in force: {cause}")),
            }
        }
        let profiles = Self { held, wanted: watch::Sender::new(BTreeSet::new()) };
        profiles.tell_names();
        Ok(profiles)
    }

    /// The names that are to be resolved, as they change.
    pub(super) fn wanted_names(&self) -> watch::Receiver<BTreeSet<String>> {
        self.wanted.subscribe()
    }

    /// Where the description of a device says it comes from.
    pub(super) fn url(&self, device: Mac) -> Option<&str> {
        self.held.get(&device).map(|held| held.policy.url.as_str())
    }

    /// Who holds this device to a description.
    pub(super) fn author(&self, device: Mac) -> Option<&str> {
        self.held.get(&device).map(|held| held.stored.author.as_str())
    }

    /// The devices held by an author that is meant.
    pub(super) fn by_author(&self, is_meant: impl Fn(&str) -> bool) -> Vec<Mac> {
        let meant = self.held.iter().filter(|(_, held)| is_meant(&held.stored.author));
        meant.map(|(device, _)| *device).collect()
    }

    fn tell_names(&self) {
        let names: BTreeSet<String> =
            self.held.values().flat_map(|held| held.policy.names()).map(str::to_owned).collect();
        self.wanted.send_if_modified(|known| {
            let changed = *known != names;
            *known = names;
            changed
        });
    }
}

impl Gateway {
    /// A description of what the device was seen to do.
    pub(super) fn description(&self, device: &DeviceRef) -> Answer<serde_json::Value> {
        let key = self.find(device)?;
        let mac = Mac(key.mac);
        let services = self.learner.services(key).filter(|services| !services.is_empty());
        let services = services.ok_or_else(|| {
            Refusal::not_found(
                format!("{mac} was not seen to use any service"),
                "wait until it has been learned",
            )
        })?;
        let name = self.registry.name(key).map_or_else(|| mac.to_string(), str::to_owned);
        let url = format!("https://tidegate.invalid/{}", mac.to_string().replace(':', "-"));
        let author = mud::Author { url: &url, systeminfo: &name, at: now().wall };
        let name_of = |address| self.learner.service_name(key, address);
        Ok(mud::write(&services, &name_of, author))
    }

    /// Holds a device to a description; nothing of it is in force when any of it cannot be.
    pub(super) fn apply_profile(
        &mut self,
        device: &DeviceRef,
        description: &[u8],
        who: &Operator,
    ) -> Answer<ProfileView> {
        let mac = self.mac_of(device)?;
        self.hold(mac, description, who.to_string())?;
        self.profile_view(mac)
    }

    /// The same for whoever asks.
    pub(super) fn hold(&mut self, mac: Mac, description: &[u8], author: String) -> Answer<()> {
        let policy = mud::read(description).map_err(|error| {
            let hint =
                "nothing was changed; `tidegate devices mud --check FILE` tells the same without a device";
            Refusal::refused(error.to_string(), hint)
        })?;
        let stored = StoredProfile {
            device: mac,
            author: author.clone(),
            since: now().wall,
            description: String::from_utf8_lossy(description).into_owned(),
            names: policy.names().into_iter().map(|name| (name.to_owned(), BTreeSet::new())).collect(),
        };
        let mut held = Held { stored, policy, heard: BTreeMap::new() };
        if let Some(before) = self.profiles.held.get(&mac) {
            // What is known of a name need not be found out again.
            for (name, addresses) in &mut held.stored.names {
                addresses.extend(before.stored.names.get(name).into_iter().flatten());
            }
        }
        let aliases = self.aliases(&Target::Device(mac));
        let author = Author::Operator(author);
        self.enforcer.set_profile(mac, &held.profile(), &aliases, &author).map_err(refused)?;
        let saved = self.store.batch(Durability::Disk, |store| store.save_profile(&held.stored));
        self.stored(saved);
        self.profiles.held.insert(mac, held);
        self.profiles.tell_names();
        Ok(())
    }

    /// Lets a device do everything again.
    pub(super) fn remove_profile(&mut self, device: &DeviceRef) -> Answer<ProfileView> {
        let mac = self.mac_of(device)?;
        let view = self.profile_view(mac)?;
        self.end_profile(mac)?;
        Ok(view)
    }

    /// The same for whoever asks.
    pub(super) fn end_profile(&mut self, mac: Mac) -> Answer<()> {
        self.enforcer.clear_profile(mac).map_err(refused)?;
        let saved = self.store.batch(Durability::Disk, |store| store.delete_profile(mac).map(drop));
        self.stored(saved);
        self.profiles.held.remove(&mac);
        self.profiles.tell_names();
        Ok(())
    }

    /// The description in force for a device.
    pub(super) fn profile_of(&self, device: &DeviceRef) -> Answer<ProfileView> {
        self.profile_view(self.mac_of(device)?)
    }

    fn profile_view(&self, mac: Mac) -> Answer<ProfileView> {
        let state = self.enforcer.profile_state(mac).map_err(failed)?;
        let (Some(held), Some(state)) = (self.profiles.held.get(&mac), state) else {
            let hint = format!("`tidegate devices mud {mac} --apply FILE` holds it to one");
            return Err(Refusal::not_found(format!("{mac} is held to no profile"), hint));
        };
        let names = held.stored.names.iter();
        Ok(ProfileView {
            device: mac,
            url: held.policy.url.clone(),
            systeminfo: held.policy.systeminfo.clone(),
            entries: held.policy.entries.len() as u64,
            names: names.map(|(name, known)| (name.clone(), known.iter().copied().collect())).collect(),
            nets: state.nets as u64,
            rules: state.rules as u64,
            refused: state.hits,
            author: held.stored.author.clone(),
            since: held.stored.since,
        })
    }

    /// A device may be held to a profile before it is seen.
    fn mac_of(&self, device: &DeviceRef) -> Answer<Mac> {
        match device {
            DeviceRef::Mac(mac) => Ok(*mac),
            other => self.find(other).map(|DeviceKey { mac, .. }| Mac(mac)),
        }
        .map_err(|refusal| Refusal { hint: SEEN.to_owned(), ..refusal })
    }

    /// A name was resolved, for the device `only` or for everybody: profiles that have it follow.
    pub(super) fn on_resolved(&mut self, resolved: &Resolved, only: Option<Mac>) {
        let now_ns = now().kernel_ns;
        let mut changed = Vec::new();
        for (mac, held) in &mut self.profiles.held {
            if only.is_some_and(|only| only != *mac) {
                continue;
            }
            let Some(known) = held.stored.names.get_mut(&resolved.name) else { continue };
            let mut next = known.clone();
            next.extend(&resolved.addresses);
            for address in &resolved.addresses {
                held.heard.insert((resolved.name.clone(), *address), now_ns);
            }
            let heard = |address: &IpAddr| held.heard.get(&(resolved.name.clone(), *address)).copied();
            // Addresses of an earlier run count from now on.
            let is_fresh =
                |address: &IpAddr| heard(address).is_none_or(|at| now_ns.saturating_sub(at) < KEPT_NS);
            next.retain(|address| is_fresh(address));
            while next.len() > MOST {
                let Some(oldest) = next.iter().min_by_key(|address| heard(address)).copied() else { break };
                next.remove(&oldest);
            }
            held.heard.retain(|(name, address), _| *name != resolved.name || next.contains(address));
            if *known != next {
                *known = next;
                changed.push(*mac);
            }
        }
        for mac in changed {
            let Some(held) = self.profiles.held.get(&mac) else { continue };
            let aliases = self.aliases(&Target::Device(mac));
            let author = Author::Operator(held.stored.author.clone());
            if let Err(error) = self.enforcer.set_profile(mac, &held.profile(), &aliases, &author) {
                self.degraded(&format!("the profile of {mac} could not follow {}: {error}", resolved.name));
                continue;
            }
            let saved = self.store.batch(Durability::Process, |store| store.save_profile(&held.stored));
            self.stored(saved);
        }
    }
}
