//! What kind of device a device is, from how it behaves and what it says about itself; and what devices of a kind do not do.
//!
//! Knowledge, not training: `rules.toml` lists what devices of each kind are commonly built to do, each with a weight and a reason, so
//! every answer can be explained by the rules that held. A device may lie about itself and may be of a kind nobody listed; a kind is
//! shown, and its contradiction is told, but nothing is ever blocked for it. Pure.

mod rules;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use self::rules::RULES;
use crate::{
    identity::Device,
    learn::{Service, Whom},
};

/// Below this confidence a device is of no kind.
const LEAST_CONFIDENCE: f64 = 0.5;
/// How much speaks for none of the kinds, in the measure of [`weight_of`].
const UNKNOWN: f64 = 2.0;
/// Reasons that are told.
const MOST_REASONS: usize = 4;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident = $word:literal,)+) => {
        /// A kind of device.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[doc = $doc])+ #[serde(rename = $word)] $variant,)+
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its word in tables and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

kinds! {
    /// Kettle, coffee machine, vacuum cleaner, washing machine.
    Appliance = "appliance",
    /// Lamp.
    Bulb = "bulb",
    /// Camera or video doorbell.
    Camera = "camera",
    /// Desktop, laptop or server.
    Computer = "computer",
    /// Controller of machines in a plant.
    Controller = "controller",
    /// Bridge of a radio network: Zigbee, Z-Wave, 868 MHz.
    Hub = "hub",
    /// Door lock.
    Lock = "lock",
    /// Telephone or tablet.
    Phone = "phone",
    /// Socket or switch.
    Plug = "plug",
    /// Printer or scanner.
    Printer = "printer",
    /// Recorder of the pictures of cameras.
    Recorder = "recorder",
    /// Router or access point.
    Router = "router",
    /// Bathroom scale, blood-pressure meter.
    Scale = "scale",
    /// Motion, water, door or air sensor.
    Sensor = "sensor",
    /// Siren or alarm.
    Siren = "siren",
    /// Loudspeaker or voice assistant.
    Speaker = "speaker",
    /// Network storage.
    Storage = "storage",
    /// Television or a box beside it.
    Television = "television",
    /// Thermostat or heating valve.
    Thermostat = "thermostat",
}

/// Everything a kind is told from.
#[derive(Clone, Debug, Default)]
pub struct Traits {
    /// Maker of its hardware address.
    maker: String,
    /// What it calls itself.
    name: String,
    /// What else it says about itself.
    says: Vec<String>,
    services: Vec<Service>,
    bytes_out: u64,
    bytes_in: u64,
}

impl Traits {
    /// Those of a device with its learned services and the bytes it sent and was sent so far.
    pub fn of(device: &Device, services: Vec<Service>, (bytes_out, bytes_in): (u64, u64)) -> Self {
        let lower = |text: &Option<String>| text.as_deref().unwrap_or_default().to_lowercase();
        // A hardware address that was made up has no maker.
        let maker = if device.randomised { String::new() } else { lower(&device.vendor) };
        let says = device.says.iter().map(|text| text.to_lowercase()).collect();
        Self { maker, name: lower(&device.name), says, services, bytes_out, bytes_in }
    }

    fn hosts(&self) -> usize {
        let remote = self.services.iter().filter(|service| service.whom == Whom::Remote);
        remote.map(|service| service.peer).collect::<std::collections::BTreeSet<_>>().len()
    }
}

/// What a device seems to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opinion {
    /// The kind.
    pub kind: Kind,
    /// How sure that is, 0.5 to 1.
    pub confidence: f64,
    /// Why, the weightiest first.
    pub reasons: Vec<String>,
}

/// How much `sum` speaks for a kind: like odds, and nothing when no rule held.
fn weight_of(sum: f64) -> f64 {
    sum.max(0.0).exp() - 1.0
}

/// The kind of a device; `None` when too little speaks for any.
pub fn classify(traits: &Traits) -> Option<Opinion> {
    let mut sums = vec![0.0; Kind::ALL.len()];
    let held: Vec<_> = RULES.rule.iter().filter(|rule| rule.holds(traits)).collect();
    for rule in &held {
        for kind in &rule.kinds {
            sums[*kind as usize] += rule.weight;
        }
    }
    let all: f64 = sums.iter().copied().map(weight_of).sum::<f64>() + UNKNOWN;
    let (kind, sum) = Kind::ALL.iter().zip(&sums).max_by(|a, b| a.1.total_cmp(b.1))?;
    let confidence = weight_of(*sum) / all;
    if confidence < LEAST_CONFIDENCE {
        return None;
    }
    let mut reasons: Vec<_> =
        held.iter().filter(|rule| rule.weight > 0.0 && rule.kinds.contains(kind)).collect();
    reasons.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    let reasons = reasons.iter().take(MOST_REASONS).map(|rule| rule.because.clone()).collect();
    Some(Opinion { kind: *kind, confidence, reasons })
}

/// Why devices of `kind` do not use or offer `service`; `None` when they may.
pub fn objection(kind: Kind, service: &Service) -> Option<&'static str> {
    RULES.never.iter().find(|never| never.objects(kind, service)).map(|never| never.because.as_str())
}
