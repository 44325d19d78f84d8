//! JSON, one object a line: which log it is, and Zeek's conn.log.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{
    BadLine, Format,
    eve::Kind,
    flow::LoggedFlow,
    zeek::{self, Column, NEEDED},
};

/// The log that has such a line.
pub(super) fn recognise(line: &str) -> Result<Format, String> {
    let object = object(line).map_err(|_| "it begins like JSON and is none".to_owned())?;
    if object.contains_key("event_type") {
        return Ok(Format::Eve(Kind::default()));
    }
    let lacking: Vec<&str> = NEEDED
        .into_iter()
        // Unset fields are left out in JSON; these always stand there.
        .filter(|column| {
            !matches!(column, Column::OrigPkts | Column::RespPkts) && find(&object, *column).is_none()
        })
        .map(Column::name)
        .collect();
    let counts = [Column::ConnState, Column::OrigPkts];
    if lacking.is_empty() && counts.into_iter().any(|column| find(&object, column).is_some()) {
        Ok(Format::ZeekJson)
    } else {
        Err("JSON, but neither of Suricata's EVE (no event_type) nor of Zeek's conn.log (no id.orig_h, orig_pkts)"
            .to_owned())
    }
}

/// The flow of a line.
pub(super) fn zeek(line: &str) -> Result<LoggedFlow, BadLine> {
    let object = object(line)?;
    zeek::flow(|column| find(&object, column))
}

pub(super) fn object(line: &str) -> Result<Map<String, Value>, BadLine> {
    serde_json::from_str(line).map_err(|_| BadLine::LineJson)
}

/// A column of a flat object, or of one with Zeek's `id` record nested in it.
fn find(object: &Map<String, Value>, column: Column) -> Option<Cow<'_, str>> {
    let name = column.name();
    let nested = || object.get("id")?.as_object()?.get(name.strip_prefix("id.")?);
    let others =
        || object.iter().find(|(other, _)| Column::named(other) == Some(column)).map(|(_, value)| value);
    object.get(name).or_else(nested).or_else(others).and_then(text)
}

/// A plain value as text; nothing for lists, objects and null.
pub(super) fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(flag) => Some(Cow::Borrowed(if *flag { "T" } else { "F" })),
        _ => None,
    }
}
