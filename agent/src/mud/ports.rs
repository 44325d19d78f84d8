//! Ports of an access list (RFC 8519, `port-range-or-operator`).

use serde_json::Value;

/// Ranges up to this many ports are written out as single ports.
const MOST: u16 = 64;

/// The single ports that `value` means; empty for all of them.
pub(super) fn read(value: &Value) -> Result<Vec<u16>, String> {
    let number = |name: &str| {
        let number = value.get(name)?;
        Some(number.as_u64().and_then(|number| u16::try_from(number).ok()).ok_or(name.to_owned()))
    };
    let known = ["operator", "port", "lower-port", "upper-port"];
    if let Some(strange) =
        value.as_object().and_then(|fields| fields.keys().find(|key| !known.contains(&key.as_str())))
    {
        return Err(format!("`{strange}` of a port is not supported"));
    }
    let invalid = |name: String| format!("`{name}` is no port");
    let (lower, upper) = match (number("port"), number("lower-port"), number("upper-port")) {
        (Some(port), None, None) => {
            let port = port.map_err(invalid)?;
            match value.get("operator").and_then(Value::as_str).unwrap_or("eq") {
                "eq" => (port, port),
                "lte" => (0, port),
                "gte" => (port, u16::MAX),
                other => return Err(format!("the port operator `{other}` is not supported")),
            }
        }
        (None, Some(lower), upper) => {
            let lower = lower.map_err(invalid)?;
            (lower, upper.unwrap_or(Ok(lower)).map_err(invalid)?)
        }
        _ => return Err("a port is neither `operator` and `port` nor a range".to_owned()),
    };
    match (lower, upper) {
        (0 | 1, u16::MAX) => Ok(Vec::new()),
        (0, 0) => Err("port 0 is no port".to_owned()),
        (lower, upper) if lower > upper => Err(format!("the range {lower} to {upper} is empty")),
        (lower, upper) if upper - lower.max(1) >= MOST => Err(format!(
            "the range {lower} to {upper} is too wide: name at most {MOST} ports, or none for all"
        )),
        (lower, upper) => Ok((lower.max(1)..=upper).collect()),
    }
}
