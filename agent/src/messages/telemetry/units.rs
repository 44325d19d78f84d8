//! Whether a number is what was expected, in another unit.

/// What becomes of `x` in another unit: `factor` · x + `offset`.
struct Change {
    name: &'static str,
    factor: f64,
    offset: f64,
}

/// Mistakes between units that sensors and their drivers are known for. Few, or every spike would be near one of them.
const CHANGES: &[Change] = &[
    Change { name: "°C to °F", factor: 1.8, offset: 32.0 },
    Change { name: "°F to °C", factor: 1.0 / 1.8, offset: -32.0 / 1.8 },
    Change { name: "°C to K", factor: 1.0, offset: 273.15 },
    Change { name: "K to °C", factor: 1.0, offset: -273.15 },
    Change { name: "x 1000", factor: 1_000.0, offset: 0.0 },
    Change { name: "/ 1000", factor: 0.001, offset: 0.0 },
    Change { name: "x 100", factor: 100.0, offset: 0.0 },
    Change { name: "/ 100", factor: 0.01, offset: 0.0 },
];

/// How far from the expected number another unit's may be, in parts of it, beside the noise.
const TOLERANCE: f64 = 0.01;
/// The same at most, in parts of the way from one to the other: what is nearer to neither proves nothing.
const NEAR: f64 = 0.25;

/// The change of units that leads from `expected` to `found`, where numbers vary by `noise` from one message to the next.
pub(super) fn change(expected: f64, found: f64, noise: f64) -> Option<&'static str> {
    CHANGES.iter().find_map(|change| {
        let other = change.factor * expected + change.offset;
        let way = (other - expected).abs();
        let near = (change.factor * noise + TOLERANCE * other.abs()).min(NEAR * way);
        ((found - other).abs() <= near && way > 2.0 * noise).then_some(change.name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_known_by_what_they_make_of_a_number() {
        for (expected, found, name) in [
            (21.0, 69.8, Some("°C to °F")),
            (70.0, 21.3, Some("°F to °C")),
            (21.0, 294.0, Some("°C to K")),
            (1.013, 1_012.0, Some("x 1000")),
            (230.0, 0.231, Some("/ 1000")),
            (21.0, 45.0, None),
            (0.0, 55.0, None),
            (21.0, 21.0, None),
            (21.0, f64::MAX, None),
        ] {
            assert_eq!(change(expected, found, 0.3), name, "{expected} {found}");
        }
    }
}
