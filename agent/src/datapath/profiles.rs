//! The tables of device profiles: networks by longest prefix, and the rules under each.

use aya::{
    Ebpf,
    maps::{HashMap, LpmTrie, MapData, lpm_trie::Key},
};
use tidegate_common::{
    maps,
    pod::Addr,
    profile::{NetKey, PROFILE_BITS, RuleKey},
};

use super::{
    Abi, DatapathError,
    load::open,
    verdicts::{absent_is_fine, refused},
};
use crate::enforce::{ProfileEntries, TableError};

pub(super) struct Profiles {
    nets: LpmTrie<MapData, [u64; 3], u32>,
    rules: HashMap<MapData, Abi<RuleKey>, u32>,
}

impl Profiles {
    pub(super) fn open(programs: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self { nets: open(programs, maps::PROFILE_NETS)?, rules: open(programs, maps::PROFILE_RULES)? })
    }

    pub(super) fn read(&self) -> Result<ProfileEntries, TableError> {
        let mut entries = ProfileEntries::default();
        for entry in &self.nets {
            let (key, net) = entry.map_err(refused(maps::PROFILE_NETS, "read", 0))?;
            entries.nets.insert(net_of(&key), net);
        }
        for entry in &self.rules {
            let (Abi(key), may) = entry.map_err(refused(maps::PROFILE_RULES, "read", 0))?;
            entries.rules.insert(key, may);
        }
        Ok(entries)
    }

    /// Rules first: a network is only found once what is under it is complete.
    pub(super) fn add(&mut self, entries: &ProfileEntries) -> Result<(), TableError> {
        for (key, may) in &entries.rules {
            let full = refused(maps::PROFILE_RULES, "write", maps::PROFILE_RULE_CAPACITY);
            self.rules.insert(Abi(*key), *may, 0).map_err(full)?;
        }
        for (key, net) in &entries.nets {
            let full = refused(maps::PROFILE_NETS, "write", maps::PROFILE_NET_CAPACITY);
            self.nets.insert(&key_of(*key), *net, 0).map_err(full)?;
        }
        Ok(())
    }

    pub(super) fn delete(&mut self, entries: &ProfileEntries) -> Result<(), TableError> {
        for key in entries.nets.keys() {
            absent_is_fine(self.nets.remove(&key_of(*key)), maps::PROFILE_NETS)?;
        }
        for key in entries.rules.keys() {
            absent_is_fine(self.rules.remove(&Abi(*key)), maps::PROFILE_RULES)?;
        }
        Ok(())
    }
}

fn key_of(net: NetKey) -> Key<[u64; 3]> {
    Key::new(PROFILE_BITS + net.bits, net.words())
}

fn net_of(key: &Key<[u64; 3]>) -> NetKey {
    let [profile, first, second] = key.data();
    let address = Addr::v6(bytemuck::cast([first, second]));
    NetKey { profile: profile as u32, bits: key.prefix_len().saturating_sub(PROFILE_BITS), address }
}
