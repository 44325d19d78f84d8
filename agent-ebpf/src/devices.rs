//! The table of devices: this CPU's records, in sets of places.

use aya_ebpf::{Global, btf_maps::PerCpuArray, macros::btf_map};
use bytemuck::Zeroable as _;
use tidegate_common::{
    device::{DEVICE_AGE_NS, DEVICE_WAYS, DeviceKey, DeviceRecord, device_sets},
    maps::DEVICE_CAPACITY,
};

use crate::maps;

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
    let first = place(key.set(DEVICE_SETS.load()) * DEVICE_WAYS)?;
    if first.key.is(key) {
        return Some(first);
    }
    let (mac, ifindex) = key.words();
    place(device_place(mac, ifindex, now_ns))
}

/// Where the record of a device is, made its own if need be; `u32::MAX` when it has no place.
///
/// A global function of numbers alone: the verifier follows it once, whatever leads to it and however often.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn device_place(mac: u64, ifindex: u32, now_ns: u64) -> u32 {
    let key = DeviceKey::from_words(mac, ifindex);
    let first = key.set(DEVICE_SETS.load()) * DEVICE_WAYS;
    let (mut oldest, mut oldest_ns) = (first, now_ns);
    let mut way = 0;
    while way < DEVICE_WAYS {
        let Some(record) = place(first + way) else { return u32::MAX };
        if record.key.is(key) {
            return first + way;
        }
        if record.key.is_vacant() {
            record.key = key;
            return first + way;
        }
        if record.last_ns < oldest_ns {
            (oldest, oldest_ns) = (first + way, record.last_ns);
        }
        way += 1;
    }
    if now_ns.saturating_sub(oldest_ns) < DEVICE_AGE_NS {
        return u32::MAX;
    }
    let Some(record) = place(oldest) else { return u32::MAX };
    *record = DeviceRecord::zeroed();
    record.key = key;
    oldest
}

/// Counts an answered SYN of a device; whether the device is counted at all. Global for the same reason.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn device_answered(mac: u64, ifindex: u32, now_ns: u64) -> u32 {
    let (Some(config), Some(device)) = (maps::config(), record(DeviceKey::from_words(mac, ifindex), now_ns))
    else {
        return 0;
    };
    device.window(now_ns, config.window_ns).syn_answered += 1;
    1
}
