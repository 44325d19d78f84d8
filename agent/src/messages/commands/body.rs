//! What a command says: a verb and parameters, read from JSON or CBOR.
//!
//! Names that come twice are refused: the gateway and the device could each believe another one. Everything is bounded by the size
//! of the message, and no bytes make anything here panic.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use coset::cbor;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};

/// Parameters that a command may have.
const MOST_PARAMETERS: usize = 64;
/// Whole numbers that a float holds exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Any value of JSON or CBOR.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// Null.
    #[default]
    Nothing,
    /// Truth.
    Flag(bool),
    /// A number; beyond 2^53 as the nearest that a float can be.
    Number(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Value>),
    /// Values by name.
    Map(BTreeMap<String, Value>),
}

impl Value {
    /// Whether it is null.
    pub const fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nothing => serializer.serialize_unit(),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Number(number) if number.fract() == 0.0 && number.abs() < EXACT => {
                serializer.serialize_i64(*number as i64)
            }
            Self::Number(number) => serializer.serialize_f64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Self::List(list) => list.serialize(serializer),
            Self::Map(map) => map.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Flag(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(Value::Bytes(bytes.to_vec()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((name, value)) = entries.next_entry::<String, Value>()? {
            if map.insert(name, value).is_some() {
                return Err(de::Error::custom("a name comes twice"));
            }
        }
        Ok(Value::Map(map))
    }
}

/// Reads JSON, or CBOR that begins with no character of text; `None` for anything else.
pub fn read(payload: &[u8]) -> Option<Value> {
    if payload.first()?.is_ascii() { serde_json::from_slice(payload).ok() } else { read_cbor(payload) }
}

/// Reads exactly one value of CBOR.
pub fn read_cbor(payload: &[u8]) -> Option<Value> {
    let mut rest = payload;
    let value = cbor::from_reader(&mut rest).ok()?;
    rest.is_empty().then_some(value)
}

/// One parameter, without structure.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// A number, always finite.
    Number(f64),
    /// Anything else, as text.
    Word(String),
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Word(word) => write!(f, "{word:?}"),
        }
    }
}

/// Verb and parameters of a command; inner names are joined by dots.
#[derive(Clone, Debug, PartialEq)]
pub struct Body {
    /// What is to be done.
    pub verb: String,
    /// With what.
    pub params: Vec<(String, Term)>,
}

impl Body {
    /// A command of a known verb; `None` when a name comes twice or there are too many.
    pub fn new(verb: String, params: &Value) -> Option<Self> {
        let mut body = Self { verb, params: Vec::new() };
        match params {
            Value::Map(map) => map.iter().try_for_each(|(name, value)| body.add(name, value))?,
            Value::Nothing => {}
            value => body.add("value", value)?,
        }
        body.sorted()
    }

    /// A command that nobody sealed: the verb stands under one of `verb_keys`, else in the topic. What stands under `params` are
    /// parameters, and so is everything else.
    pub fn of_plain(value: &Value, verb_keys: &[String], topic_verb: &str) -> Option<Self> {
        let Value::Map(map) = value else { return Self::new(topic_verb.to_owned(), value) };
        let named = verb_keys.iter().find_map(|key| match map.get(key) {
            Some(Value::Text(verb)) => Some((key, verb)),
            _ => None,
        });
        let verb = named.map_or(topic_verb, |(_, verb)| verb).to_owned();
        let mut body = Self { verb, params: Vec::new() };
        for (name, value) in map.iter().filter(|(name, _)| named.is_none_or(|(key, _)| key != *name)) {
            match (name.as_str(), value) {
                ("params", Value::Map(params)) => {
                    params.iter().try_for_each(|(name, value)| body.add(name, value))?;
                }
                _ => body.add(name, value)?,
            }
        }
        body.sorted()
    }

    fn add(&mut self, name: &str, value: &Value) -> Option<()> {
        let term = match value {
            Value::Map(map) => {
                return map.iter().try_for_each(|(inner, value)| self.add(&format!("{name}.{inner}"), value));
            }
            Value::List(list) => {
                return list
                    .iter()
                    .enumerate()
                    .try_for_each(|(index, value)| self.add(&format!("{name}.{index}"), value));
            }
            Value::Nothing => Term::Word("null".to_owned()),
            Value::Flag(flag) => Term::Word(flag.to_string()),
            Value::Number(number) if number.is_finite() => Term::Number(*number),
            Value::Number(number) => Term::Word(number.to_string()),
            Value::Text(text) => Term::Word(text.clone()),
            Value::Bytes(bytes) => Term::Word(bytes.iter().fold(String::new(), |mut text, byte| {
                // Writing to a string cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            })),
        };
        self.params.push((name.to_owned(), term));
        (self.params.len() <= MOST_PARAMETERS).then_some(())
    }

    fn sorted(mut self) -> Option<Self> {
        self.params.sort_by(|(a, _), (b, _)| a.cmp(b));
        let is_twice = self.params.windows(2).any(|pair| pair[0].0 == pair[1].0);
        (!is_twice && !self.verb.is_empty()).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a refused body is the test's failure")]
    #![allow(clippy::float_cmp, reason = "numbers are read as they are written")]
    use proptest::prelude::*;

    use super::*;

    fn plain(payload: &[u8]) -> Option<Body> {
        Body::of_plain(&read(payload)?, &["verb".to_owned(), "cmd".to_owned()], "set")
    }

    fn number(body: &Body, name: &str) -> f64 {
        match body.params.iter().find(|(found, _)| found == name) {
            Some((_, Term::Number(number))) => *number,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn verbs_and_parameters_are_found_in_what_devices_use() {
        let body = plain(br#"{"verb":"dim","params":{"level":40,"fade":{"ms":200}}}"#).unwrap();
        assert_eq!(body.verb, "dim");
        assert_eq!((number(&body, "level"), number(&body, "fade.ms")), (40.0, 200.0));
        let body = plain(br#"{"cmd":"dim","level":40,"list":[true,null]}"#).unwrap();
        assert_eq!(number(&body, "level"), 40.0);
        assert_eq!(body.params[1], ("list.0".to_owned(), Term::Word("true".to_owned())));
        let body = plain(b"21.5").unwrap();
        assert_eq!((body.verb.as_str(), number(&body, "value")), ("set", 21.5));
        // {"level": 5} in CBOR.
        let body = plain(&[0xa1, 0x65, b'l', b'e', b'v', b'e', b'l', 0x05]).unwrap();
        assert_eq!((body.verb.as_str(), number(&body, "level")), ("set", 5.0));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for payload in [
            &br#"{"level":1,"level":2}"#[..],
            br#"{"level":1,"params":{"level":2}}"#,
            br#"{"a.b":1,"a":{"b":2}}"#,
            br#"{"verb":""}"#,
            b"{} {}",
            b"ON",
            b"",
            // {"a": 1, "a": 2} in CBOR, a map cut short, and a map with a number for a name.
            &[0xa2, 0x61, b'a', 1, 0x61, b'a', 2],
            &[0xa1, 0x61],
            &[0xa1, 1, 1],
        ] {
            assert_eq!(plain(payload), None, "{payload:x?}");
        }
        let many: Vec<String> = (0..65).map(|number| format!("\"p{number}\":1")).collect();
        assert_eq!(plain(format!("{{{}}}", many.join(",")).as_bytes()), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(body) = plain(&bytes) {
                prop_assert!(body.params.len() <= MOST_PARAMETERS);
            }
            let _ = read_cbor(&bytes);
        }
    }
}
