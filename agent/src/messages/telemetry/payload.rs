//! What a payload says: its leaves by path, out of JSON, CBOR or a plain number.
//!
//! Bounded by [`Shape`], whatever the bytes; what lies beyond is counted in the reading and not looked at. No bytes make it panic.
//! It knows nothing of earlier messages.

use std::str;

use coset::cbor::{self, Value};
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Name of the only leaf of a payload that is a plain number.
const PLAIN: &str = "value";
/// Longest path of a leaf, in bytes.
const LONGEST_PATH: usize = 128;
/// Longest text that may be a number in quotes, in bytes.
const LONGEST_NUMBER: usize = 32;
/// Numbers from here on are taken for no measurement; squares of smaller ones stay finite.
const HUGE: f64 = 1e100;
/// CBOR nested deeper is not read at all.
const CBOR_DEPTH: usize = 32;

/// How much of a payload is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Longest payload, in bytes.
    pub bytes: usize,
    /// Leaves.
    pub fields: usize,
    /// Maps and lists within each other.
    pub depth: usize,
}

/// What a leaf is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A finite number below [`HUGE`].
    Number,
    /// The same, written as text.
    Quoted,
    /// Other text, or bytes.
    Text,
    /// True or false.
    Flag,
    /// Nothing.
    Null,
    /// NaN, an infinity, or a number that measures nothing.
    NotFinite,
    /// The path occurs twice, which readers take differently.
    Twice,
}

impl Kind {
    /// Its word in explanations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Number => "a number",
            Self::Quoted => "a number in quotes",
            Self::Text => "text",
            Self::Flag => "true or false",
            Self::Null => "null",
            Self::NotFinite => "no finite number",
            Self::Twice => "there twice",
        }
    }

    /// Its bit in a set of kinds.
    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Whether it has a value.
    pub const fn is_number(self) -> bool {
        matches!(self, Self::Number | Self::Quoted)
    }
}

/// A leaf.
#[derive(Clone, Copy, Debug)]
struct Leaf {
    path: (u32, u32),
    kind: Kind,
    value: f64,
}

/// The payload is of no format that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// The leaves of the payload read last; its buffers are used again.
#[derive(Debug)]
pub struct Reading {
    shape: Shape,
    names: String,
    path: String,
    leaves: Vec<Leaf>,
    /// Leaves and branches beyond the shape.
    pub left_out: u32,
}

impl Reading {
    /// Nothing read yet.
    pub const fn new(shape: Shape) -> Self {
        Self { shape, names: String::new(), path: String::new(), leaves: Vec::new(), left_out: 0 }
    }

    /// Its leaves: path, kind, and value of a number (else 0).
    pub fn leaves(&self) -> impl ExactSizeIterator<Item = (&str, Kind, f64)> {
        self.leaves.iter().map(|leaf| (self.name(leaf), leaf.kind, leaf.value))
    }

    fn name(&self, leaf: &Leaf) -> &str {
        &self.names[leaf.path.0 as usize..leaf.path.1 as usize]
    }

    /// Reads a payload in place of the one before.
    pub fn read(&mut self, payload: &[u8]) -> Result<(), Unreadable> {
        self.names.clear();
        self.path.clear();
        self.leaves.clear();
        self.left_out = 0;
        if payload.len() > self.shape.bytes {
            return Err(Unreadable);
        }
        let depth = self.shape.depth;
        match payload.trim_ascii_start().first() {
            None => Err(Unreadable),
            // Every map, list, tag and float of CBOR begins so, and no text in UTF-8 that is JSON.
            Some(0x80..) => {
                let mut rest = payload;
                let value: Value = cbor::de::from_reader_with_recursion_limit(&mut rest, CBOR_DEPTH)
                    .map_err(|_| Unreadable)?;
                if !rest.is_empty() {
                    return Err(Unreadable);
                }
                self.cbor(&value, depth);
                Ok(())
            }
            Some(_) => {
                let mut json = serde_json::Deserializer::from_slice(payload);
                let read = Walk { reading: self, depth }.deserialize(&mut json).and_then(|()| json.end());
                read.map_err(|_| Unreadable)
            }
        }
    }

    fn leaf(&mut self, kind: Kind, value: f64) {
        let path = if self.path.is_empty() { PLAIN } else { &self.path };
        let earlier = self
            .leaves
            .iter()
            .position(|leaf| &self.names[leaf.path.0 as usize..leaf.path.1 as usize] == path);
        if let Some(earlier) = earlier {
            (self.leaves[earlier].kind, self.leaves[earlier].value) = (Kind::Twice, 0.0);
        } else if self.leaves.len() >= self.shape.fields || path.len() > LONGEST_PATH {
            self.left_out = self.left_out.saturating_add(1);
        } else {
            let start = self.names.len() as u32;
            self.names.push_str(path);
            self.leaves.push(Leaf { path: (start, self.names.len() as u32), kind, value });
        }
    }

    fn number(&mut self, value: f64, kind: Kind) {
        let is_sound = value.abs() < HUGE;
        self.leaf(if is_sound { kind } else { Kind::NotFinite }, if is_sound { value } else { 0.0 });
    }

    fn text(&mut self, text: &str) {
        let number = (text.len() <= LONGEST_NUMBER).then(|| text.trim().parse::<f64>().ok()).flatten();
        match number {
            Some(value) => self.number(value, Kind::Quoted),
            None => self.leaf(Kind::Text, 0.0),
        }
    }

    /// Goes into a branch; what [`Self::leave`] wants to come back.
    fn enter(&mut self, name: &str) -> usize {
        let before = self.path.len();
        if before > 0 {
            self.path.push('.');
        }
        // Longer paths are refused as a whole, so how they end does not matter.
        self.path.push_str(&name[..name.floor_char_boundary(LONGEST_PATH + 4)]);
        before
    }

    fn leave(&mut self, before: usize) {
        self.path.truncate(before);
    }

    fn cbor(&mut self, value: &Value, depth: usize) {
        match value {
            Value::Integer(integer) => self.number(i128::from(*integer) as f64, Kind::Number),
            Value::Float(float) => self.number(*float, Kind::Number),
            Value::Bool(_) => self.leaf(Kind::Flag, 0.0),
            Value::Null => self.leaf(Kind::Null, 0.0),
            Value::Text(text) => self.text(text),
            Value::Tag(_, inner) => self.cbor(inner, depth),
            Value::Array(items) if depth > 0 => {
                for (index, item) in items.iter().enumerate() {
                    self.branch(&index.to_string(), item, depth);
                }
            }
            Value::Map(entries) if depth > 0 => {
                for (key, item) in entries {
                    match key {
                        Value::Text(name) => self.branch(name, item, depth),
                        Value::Integer(number) => self.branch(&i128::from(*number).to_string(), item, depth),
                        _ => self.left_out = self.left_out.saturating_add(1),
                    }
                }
            }
            Value::Array(_) | Value::Map(_) => self.left_out = self.left_out.saturating_add(1),
            _ => self.leaf(Kind::Text, 0.0),
        }
    }

    fn branch(&mut self, name: &str, value: &Value, depth: usize) {
        let before = self.enter(name);
        self.cbor(value, depth - 1);
        self.leave(before);
    }
}

/// Reads JSON as it lies there, leaf by leaf.
struct Walk<'a> {
    reading: &'a mut Reading,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.reading.leaf(Kind::Flag, 0.0);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.reading.number(value as f64, Kind::Number);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.reading.number(value as f64, Kind::Number);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.reading.number(value, Kind::Number);
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.reading.text(text);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.reading.leaf(Kind::Null, 0.0);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { reading, depth } = self;
        let mut index = 0_usize;
        if depth == 0 {
            reading.left_out = reading.left_out.saturating_add(1);
            while items.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        loop {
            let before = reading.enter(&index.to_string());
            let more = items.next_element_seed(Walk { reading: &mut *reading, depth: depth - 1 })?;
            reading.leave(before);
            if more.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Self { reading, depth } = self;
        if depth == 0 {
            reading.left_out = reading.left_out.saturating_add(1);
            while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        while let Some(before) = entries.next_key_seed(Name { reading: &mut *reading })? {
            entries.next_value_seed(Walk { reading: &mut *reading, depth: depth - 1 })?;
            reading.leave(before);
        }
        Ok(())
    }
}

/// Reads the name of a branch and goes into it.
struct Name<'a> {
    reading: &'a mut Reading,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = usize;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<usize, E> {
        Ok(self.reading.enter(name))
    }
}

#[cfg(test)]
#[path = "payload_tests.rs"]
mod tests;
