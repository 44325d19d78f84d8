//! Least privilege: once everything is attached, only what reading and writing tables needs is kept.

use caps::{CapSet, Capability, CapsHashSet};

/// `CAP_BPF` since 5.8; before, tables need `CAP_SYS_ADMIN`.
fn kept() -> CapsHashSet {
    let tables = if crate::datapath::kernel_version() >= (5, 8) {
        Capability::CAP_BPF
    } else {
        Capability::CAP_SYS_ADMIN
    };
    CapsHashSet::from([tables])
}

/// Gives up every capability that running does not need. Must be called before any thread is started, because capabilities
/// belong to threads.
pub(super) fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    let has = caps::read(None, CapSet::Permitted)?;
    let keep: CapsHashSet = kept().intersection(&has).copied().collect();
    for capability in caps::all().difference(&keep) {
        // The bounding set can only be cut by who may set capabilities; without that there is nothing to gain.
        if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)?
            && caps::has_cap(None, CapSet::Bounding, *capability)?
        {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)
}
