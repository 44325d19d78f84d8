//! Loading the programs and opening their tables, pinned or private.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapError, MapInfo},
    programs::{SchedClassifier, Xdp},
};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use tidegate_common::{
    device::{DEVICE_WAYS, device_sets},
    forest::TREES,
    maps,
};

use super::{Datapath, DatapathError, Tables, chain};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tidegate-ebpf.o"));

/// Names of the programs in the object.
pub(super) const INGRESS: &str = "ingress";
pub(super) const EGRESS: &str = "egress";

/// Tables that outlive the agent. Scratch memory, the replay clock and the log ring do not.
const PINNED: [&str; 18] = [
    maps::CONFIG,
    maps::COUNTERS,
    maps::FLOWS,
    maps::DEVICES,
    maps::VERDICT_V4,
    maps::VERDICT_V6,
    maps::VERDICT_FILTER,
    maps::PREFIXES,
    maps::ALLOWED,
    maps::VERDICT_DEVICE,
    maps::PROFILE_NETS,
    maps::PROFILE_RULES,
    maps::FEED_V4,
    maps::FEED_V6,
    maps::FORESTS,
    maps::MODELS,
    maps::EVENTS,
    maps::BINDINGS,
];

/// How to load the programs.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Directory on the BPF file system to pin under; `None` keeps everything private to the process.
    pub pin_path: Option<PathBuf>,
    /// Flows the table holds.
    pub max_flows: u32,
    /// Devices the table holds.
    pub max_devices: u32,
    /// Forests the kernel judges flows with.
    pub max_forests: u32,
    /// Bytes of the event ring, a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Take time from the replay clock instead of the kernel's.
    pub replay: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            pin_path: None,
            max_flows: maps::FLOW_CAPACITY,
            max_devices: maps::DEVICE_CAPACITY,
            max_forests: maps::FOREST_CAPACITY,
            ring_bytes: maps::EVENT_BYTES,
            replay: false,
        }
    }
}

/// Whether this binary was built with the kernel programs in it.
pub fn object_is_embedded() -> bool {
    !OBJECT.is_empty()
}

/// Major and minor version of the running kernel; (0, 0) when it does not say.
pub fn kernel_version() -> (u32, u32) {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

impl Datapath {
    /// Loads the programs and opens their tables, taking over pinned ones. Nothing is attached yet.
    pub fn load(options: &LoadOptions) -> Result<Self, DatapathError> {
        if !object_is_embedded() {
            return Err(DatapathError::NoObject);
        }
        let pins = options.pin_path.as_deref().map(prepare_pins).transpose()?;
        let coarse_clock = u32::from(kernel_version() >= (5, 11));
        let replay = u32::from(options.replay);
        let pinned = |name| pins.as_deref().and_then(|pins| pinned_entries(pins, name));
        let trees = pinned(maps::FORESTS).unwrap_or(options.max_forests * TREES as u32);
        let device_sets =
            pinned(maps::DEVICES).map_or(device_sets(options.max_devices), |places| places / DEVICE_WAYS);
        let mut loader = EbpfLoader::new();
        loader
            .override_global(maps::COARSE_CLOCK, &coarse_clock, true)
            .override_global(maps::REPLAY, &replay, true)
            .override_global(maps::DEVICE_SETS, &device_sets, true)
            .map_max_entries(maps::FLOWS, options.max_flows)
            .map_max_entries(maps::DEVICES, device_sets * DEVICE_WAYS)
            .map_max_entries(maps::FORESTS, trees)
            .map_max_entries(maps::EVENTS, options.ring_bytes);
        if let Some(pins) = &pins {
            for name in PINNED {
                loader.map_pin_path(name, pins.join(name));
            }
        }
        let mut programs = loader.load(OBJECT).map_err(|error| DatapathError::Load(chain(&error)))?;
        load_programs(&mut programs)?;
        let tables = Tables {
            counters: open(&mut programs, maps::COUNTERS)?,
            flow_fd: flow_fd(&programs)?,
            flows: open(&mut programs, maps::FLOWS)?,
            devices: open(&mut programs, maps::DEVICES)?,
        };
        Ok(Self { programs, pins, tables, attached: Vec::new() })
    }
}

/// Entries of a table that an earlier agent left: it keeps its size until the pins are gone.
fn pinned_entries(pins: &Path, name: &str) -> Option<u32> {
    Some(MapInfo::from_pin(pins.join(name)).ok()?.max_entries())
}

fn load_programs(programs: &mut Ebpf) -> Result<(), DatapathError> {
    let failed = |error: aya::programs::ProgramError| DatapathError::Load(chain(&error));
    let missing = || DatapathError::Load("the object lacks a program".to_owned());
    let ingress: &mut Xdp = programs.program_mut(INGRESS).ok_or_else(missing)?.try_into().map_err(failed)?;
    ingress.load().map_err(failed)?;
    let egress: &mut SchedClassifier =
        programs.program_mut(EGRESS).ok_or_else(missing)?.try_into().map_err(failed)?;
    egress.load().map_err(failed)
}

pub(super) fn open<T: TryFrom<Map, Error = MapError>>(
    programs: &mut Ebpf,
    name: &'static str,
) -> Result<T, DatapathError> {
    let failed = |cause: String| DatapathError::Table { table: name, cause };
    let map = programs.take_map(name).ok_or_else(|| failed("the object lacks it".to_owned()))?;
    map.try_into().map_err(|error: MapError| failed(chain(&error)))
}

fn flow_fd(programs: &Ebpf) -> Result<OwnedFd, DatapathError> {
    let failed = |cause: String| DatapathError::Table { table: maps::FLOWS, cause };
    match programs.map(maps::FLOWS) {
        Some(Map::HashMap(map)) => {
            map.fd().as_fd().try_clone_to_owned().map_err(|error| failed(error.to_string()))
        }
        _ => Err(failed("the object lacks it".to_owned())),
    }
}

/// The directory for this layout's pins, made if it is missing.
fn prepare_pins(root: &Path) -> Result<PathBuf, DatapathError> {
    let failed = |cause: io::Error| DatapathError::Pin { path: root.to_owned(), cause };
    let path = root.join(layout_dir());
    fs::create_dir_all(path.join(super::attach::LINKS)).map_err(failed)?;
    let kind = statfs(&path).map_err(|error| failed(error.into()))?.filesystem_type();
    if kind != BPF_FS_MAGIC {
        return Err(failed(io::Error::other("not a BPF file system")));
    }
    Ok(path)
}

/// Directory name of the current layout.
pub(super) fn layout_dir() -> String {
    format!("{:016x}", maps::LAYOUT_HASH)
}
