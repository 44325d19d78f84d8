//! Feature vector of a device's window, on the scales of the flow features.

use tidegate_common::{
    device::{DeviceWindow, Sketch},
    feature::{FEATURES, Feature, FeatureVector, Scale, TICK_NS, log2_q8},
};

const fn count(name: &'static str, unit: &'static str) -> Feature {
    Feature { name, scale: Scale::Log2, unit }
}

/// The window features in order.
pub const WINDOW_FEATURES: [Feature; FEATURES] = [
    count("flows_out", "flows"),
    count("flows_in", "flows"),
    count("remote_addresses", "addresses"),
    count("remote_ports", "ports"),
    count("syn_out", "connections"),
    count("syn_unanswered", "connections"),
    count("resets_out", "resets"),
    count("resets_in", "resets"),
    count("packets_out", "packets"),
    count("packets_in", "packets"),
    count("bytes_out", "bytes"),
    count("bytes_in", "bytes"),
    count("arp_requests", "requests"),
    count("arp_targets", "addresses"),
    count("arp_claims", "replies and announcements"),
    count("unparsed", "packets"),
];

/// Whose doing a large value of a window feature is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doer {
    /// The device's.
    Device,
    /// The device's, unless others call it more than usual: then it may be their answers.
    DeviceOrAnswer,
    /// That of others who begin conversations with it.
    Callers,
    /// That of those it talks to.
    Others,
}

/// Whose doing a large value of the window feature with this index is.
pub(super) fn done_by(index: usize) -> Doer {
    match WINDOW_FEATURES[index].name {
        "flows_in" => Doer::Callers,
        "packets_in" | "bytes_in" | "resets_in" => Doer::Others,
        "resets_out" | "packets_out" | "bytes_out" | "unparsed" => Doer::DeviceOrAnswer,
        _ => Doer::Device,
    }
}

/// The window as numbers.
pub fn window_features(window: &DeviceWindow) -> FeatureVector {
    let log = |value: u32| log2_q8(u64::from(value));
    [
        log(window.flows_out),
        log(window.flows_in),
        log2_q8(estimate(&window.remote_addrs)),
        log2_q8(estimate(&window.remote_ports)),
        log(window.syn_out),
        log(window.syn_out.saturating_sub(window.syn_answered)),
        log(window.resets_out),
        log(window.resets_in),
        log2_q8(window.packets_out),
        log2_q8(window.packets_in),
        log2_q8(window.bytes_out),
        log2_q8(window.bytes_in),
        log(window.arp_requests),
        log2_q8(estimate(&window.arp_targets)),
        log(window.arp_replies.saturating_add(window.arp_gratuitous)),
        log(window.unparsed.saturating_add(window.folded)),
    ]
}

/// Different values in a sketch of 256 bits (linear counting, Whang et al., 1990); 1,420 when it is full.
pub fn estimate(sketch: &Sketch) -> u64 {
    const BITS: f64 = 256.0;
    // A full sketch tells no number; half a bit left is the next best guess.
    let empty = (BITS - f64::from(sketch.ones())).max(0.5);
    (-BITS * (empty / BITS).ln()).round() as u64
}

/// What a feature's integer stands for, in the feature's unit.
pub fn read(feature: &Feature, value: u32) -> f64 {
    match feature.scale {
        Scale::Log2 => exp2_q8(value),
        Scale::Time => exp2_q8(value) * TICK_NS as f64 / 1e6,
        Scale::Share => f64::from(value) / 1_024.0,
        Scale::Ordinal => f64::from(value),
    }
}

/// The inverse of the piecewise linear logarithm, exact to its own resolution.
fn exp2_q8(value: u32) -> f64 {
    let mantissa = f64::from(value & 0xff) / 256.0;
    (1.0 + mantissa) * f64::from(value >> 8).exp2() - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sketches_and_logarithms_are_read_back() {
        let mut sketch = Sketch::default();
        for value in 0..100 {
            sketch.add(tidegate_common::pod::mix64(value));
        }
        assert!((80..=120).contains(&estimate(&sketch)), "{}", estimate(&sketch));
        for value in [0, 1, 5, 1_000, 1_500_000] {
            let read = read(&WINDOW_FEATURES[10], log2_q8(value));
            assert!((read - value as f64).abs() <= value as f64 / 200.0, "{value} became {read}");
        }
    }
}
