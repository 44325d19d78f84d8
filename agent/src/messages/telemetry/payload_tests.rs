//! What is read of payloads, and that no bytes make reading panic.

#![allow(clippy::unwrap_used, reason = "a refused payload is the test's failure")]

use proptest::prelude::*;

use super::*;

const SHAPE: Shape = Shape { bytes: 4_096, fields: 8, depth: 3 };

fn read(payload: &[u8]) -> Result<Vec<(String, Kind, f64)>, Unreadable> {
    let mut reading = Reading::new(SHAPE);
    reading.read(payload)?;
    Ok(reading.leaves().map(|(path, kind, value)| (path.to_owned(), kind, value)).collect())
}

fn cbor(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    cbor::ser::into_writer(value, &mut bytes).unwrap();
    bytes
}

#[test]
fn what_is_there_twice_has_no_value() {
    let twice =
        Value::Map(["t", "t"].map(|name| (Value::Text(name.to_owned()), Value::Float(21.5))).to_vec());
    for payload in [&br#"{"t": 21.5, "t": 40}"#[..], &cbor(&twice)] {
        assert_eq!(read(payload).unwrap(), [("t".to_owned(), Kind::Twice, 0.0)]);
    }
}

#[test]
fn json_cbor_and_plain_numbers_say_the_same() {
    let found =
        read(br#"{"t": 21.5, "in": {"h": 40, "on": true}, "id": "x7", "v": "3.3", "n": null}"#).unwrap();
    let expected = [
        ("t", Kind::Number, 21.5),
        ("in.h", Kind::Number, 40.0),
        ("in.on", Kind::Flag, 0.0),
        ("id", Kind::Text, 0.0),
        ("v", Kind::Quoted, 3.3),
        ("n", Kind::Null, 0.0),
    ];
    let named = |(path, kind, value): &(&str, Kind, f64)| ((*path).to_owned(), *kind, *value);
    assert_eq!(found, expected.iter().map(named).collect::<Vec<_>>());
    let text = |text: &str| Value::Text(text.to_owned());
    let map = Value::Map(vec![
        (text("t"), Value::Float(21.5)),
        (text("l"), Value::Array(vec![Value::from(1), Value::from(-2)])),
        (Value::from(7), Value::Tag(0, Box::new(text("x")))),
    ]);
    let expected = [
        ("t", Kind::Number, 21.5),
        ("l.0", Kind::Number, 1.0),
        ("l.1", Kind::Number, -2.0),
        ("7", Kind::Text, 0.0),
    ];
    assert_eq!(read(&cbor(&map)).unwrap(), expected.iter().map(named).collect::<Vec<_>>());
    for plain in [&b" 21.5 "[..], b"2.15e1", b"\"21.5\""] {
        let leaf = read(plain).unwrap().pop().unwrap();
        assert_eq!((leaf.0.as_str(), leaf.2), (PLAIN, 21.5));
    }
    assert_eq!(read(&cbor(&Value::Float(21.5))).unwrap(), read(b"21.5").unwrap());
}

#[test]
fn other_formats_are_told_apart_from_empty_ones() {
    for payload in
        [&b""[..], b"  ", b"t=21.5", b"<t>1</t>", b"{\"t\":", b"1 2", b"{\"t\":1e999}", &[0xa1, 0x61]]
    {
        assert_eq!(read(payload), Err(Unreadable), "{payload:?}");
    }
    assert_eq!(read(b"{}"), Ok(Vec::new()));
    assert_eq!(read(&vec![b' '; SHAPE.bytes + 1]), Err(Unreadable));
}

#[test]
fn what_readers_take_differently_is_told() {
    let kinds = |payload: &[u8]| read(payload).unwrap().iter().map(|leaf| leaf.1).collect::<Vec<_>>();
    assert_eq!(kinds(br#"{"t":20,"t":99}"#), [Kind::Twice]);
    for odd in [f64::NAN, f64::INFINITY, -1e300] {
        assert_eq!(kinds(&cbor(&Value::Float(odd))), [Kind::NotFinite]);
    }
    assert_eq!(kinds(br#"["nan", "inf", 1e200]"#), [Kind::NotFinite; 3]);
}

#[test]
fn what_lies_beyond_the_shape_is_counted() {
    let mut reading = Reading::new(SHAPE);
    reading.read(br#"{"a":{"b":{"c":{"d":1}}},"e":2}"#).unwrap();
    assert_eq!((reading.leaves().len(), reading.left_out), (1, 1));
    reading.read(br"[1,2,3,4,5,6,7,8,9,10]").unwrap();
    assert_eq!((reading.leaves().len(), reading.left_out), (SHAPE.fields, 2));
    let deep = [vec![b'['; 2_000], vec![b']'; 2_000]].concat();
    reading.read(&deep).unwrap();
    assert_eq!((reading.leaves().len(), reading.left_out), (0, 1));
    assert_eq!(reading.read(&vec![0x81; 4_000]), Err(Unreadable));
    let long = format!("{{\"{}\":1}}", "ä".repeat(200));
    reading.read(long.as_bytes()).unwrap();
    assert_eq!((reading.leaves().len(), reading.left_out), (0, 1));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut reading = Reading::new(SHAPE);
        let _ = reading.read(&payload);
        prop_assert!(reading.leaves().len() <= SHAPE.fields);
        prop_assert!(reading.leaves().all(|(_, _, value)| value.is_finite()));
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in r#"[\[\]{},:"0-9eE.+\-a-c ]{0,120}"#) {
        let _ = Reading::new(SHAPE).read(text.as_bytes());
    }

    #[test]
    fn cbor_that_is_cut_short_is_unreadable(values in prop::collection::vec(any::<f64>(), 1..20), cut in 1_usize..100) {
        let whole = cbor(&Value::Array(values.into_iter().map(Value::Float).collect()));
        let cut = cut.min(whole.len());
        prop_assert_eq!(Reading::new(SHAPE).read(&whole[..whole.len() - cut]), Err(Unreadable));
    }
}
