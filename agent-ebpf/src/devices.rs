//! The table of devices: this CPU's records, in sets of places.

use aya_ebpf::{Global, btf_maps::PerCpuArray, macros::btf_map};
use bytemuck::Zeroable as _;
use tidegate_common::{
    device::{DEVICE_AGE_NS, DEVICE_WAYS, DeviceKey, DeviceRecord, device_sets},
    maps::DEVICE_CAPACITY,
};

#[btf_map(name = "DEVICES")]
static DEVICES: PerCpuArray<DeviceRecord, { (device_sets(DEVICE_CAPACITY) * DEVICE_WAYS) as usize }> =
    PerCpuArray::new();

/// How many sets the table has; set by the loader when it makes the table larger or smaller.
#[unsafe(no_mangle)]
static DEVICE_SETS: Global<u32> = Global::new(device_sets(DEVICE_CAPACITY));

#[inline(always)]
fn place(index: u32) -> Option<&'static mut DeviceRecord> {
    // SAFETY: the record belongs to this CPU, and programs are not preempted by programs of the same kind.
    DEVICES.get_ptr_mut(index).map(|record| unsafe { &mut *record })
}

/// The record of a device, a new one if need be; `None` when all places of its set belong to devices heard lately.
#[inline(always)]
pub(crate) fn record(key: DeviceKey, now_ns: u64) -> Option<&'static mut DeviceRecord> {
    let first = key.set(DEVICE_SETS.load()) * DEVICE_WAYS;
    let record = place(first)?;
    if record.key.is(key) {
        return Some(record);
    }
    let found = place(choose(&key, first, now_ns))?;
    if found.key.is(key) {
        return Some(found);
    }
    if !found.key.is_vacant() {
        if now_ns.saturating_sub(found.last_ns) < DEVICE_AGE_NS {
            return None;
        }
        *found = DeviceRecord::zeroed();
    }
    found.key = key;
    Some(found)
}

/// The device's place in the set that begins at `first`: its own, else a vacant one, else that of the device heard longest
/// ago. Apart from the rest, because a program has little stack.
#[inline(never)]
fn choose(key: &DeviceKey, first: u32, now_ns: u64) -> u32 {
    let (mut oldest, mut oldest_ns) = (first, now_ns);
    let mut way = 0;
    while way < DEVICE_WAYS {
        let Some(record) = place(first + way) else { break };
        if record.key.is(*key) || record.key.is_vacant() {
            return first + way;
        }
        if record.last_ns < oldest_ns {
            (oldest, oldest_ns) = (first + way, record.last_ns);
        }
        way += 1;
    }
    oldest
}
