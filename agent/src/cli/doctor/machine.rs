//! Checks of the kernel and of this process's rights.

use std::{fs, path::Path};

use caps::{CapSet, Capability};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{fail, ok, warn};
use crate::{
    api::view::CheckView,
    datapath::{kernel_version, object_is_embedded},
};

/// The ring buffer came with 5.8, the coarse clock with 5.11, TCX with 6.6.
const RING_BUFFER: (u32, u32) = (5, 8);
const COARSE_CLOCK: (u32, u32) = (5, 11);
const TCX: (u32, u32) = (6, 6);

pub(super) fn checks() -> Vec<CheckView> {
    vec![kernel(), programs(), rights(), bpf_fs(), jit(), clock()]
}

fn kernel() -> CheckView {
    let version = kernel_version();
    let found = format!("{}.{}", version.0, version.1);
    if version < RING_BUFFER {
        return fail("kernel", found, "5.8 is the oldest that can work: it brought the ring buffer");
    }
    if version < COARSE_CLOCK {
        return warn("kernel", found, "each packet costs more before 5.11, which brought the coarse clock");
    }
    let hook = if version < TCX { "TC filters on clsact" } else { "TCX" };
    ok("kernel", format!("{found}, {hook} for frames that leave"))
}

fn programs() -> CheckView {
    if object_is_embedded() {
        return ok("kernel programs", "built into this binary");
    }
    fail("kernel programs", "not built into this binary", "build it with `cargo xtask build`")
}

fn rights() -> CheckView {
    let wanted = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];
    let has = |capability| {
        let held = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
        held(capability) || (capability != Capability::CAP_NET_ADMIN && held(Capability::CAP_SYS_ADMIN))
    };
    let missing: Vec<_> =
        wanted.into_iter().filter(|wanted| !has(*wanted)).map(|cap| cap.to_string()).collect();
    if missing.is_empty() {
        return ok("rights", "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON");
    }
    fail(
        "rights",
        format!("without {}", missing.join(", ")),
        "run it as root or through packaging/tidegate.service",
    )
}

fn bpf_fs() -> CheckView {
    let path = Path::new("/sys/fs/bpf");
    match statfs(path) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => {
            ok("BPF file system", "mounted at /sys/fs/bpf")
        }
        _ => fail(
            "BPF file system",
            "not mounted at /sys/fs/bpf",
            "mount -t bpf bpf /sys/fs/bpf; without it no enforcement outlives the agent",
        ),
    }
}

fn jit() -> CheckView {
    match fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").as_deref().map(str::trim) {
        Ok("0") => {
            warn("JIT", "off: every packet costs several times more", "sysctl net.core.bpf_jit_enable=1")
        }
        Ok(_) => ok("JIT", "on"),
        // Kernels built with the JIT always on, and readers without rights, have no such file to read.
        Err(_) => ok("JIT", "not switchable here"),
    }
}

fn clock() -> CheckView {
    /// 2025-01-01: no gateway that runs this program is older.
    const PLAUSIBLE_S: i64 = 1_735_689_600;
    let now = jiff::Timestamp::now();
    if now.as_second() < PLAUSIBLE_S {
        let hint = "set it, or start an NTP client: times in the log and in `incidents` are taken from it";
        return warn("clock", format!("{now:.0} cannot be true"), hint);
    }
    ok("clock", format!("{now:.0}"))
}
