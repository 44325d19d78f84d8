//! Published vectors, and hellos made by hand.

#![allow(clippy::unwrap_used, reason = "hellos made here are valid")]

use proptest::prelude::*;

use super::*;
use crate::identity::testing::{client_hello, server_hello};

/// Type, length and record header in front of a hello's body.
const FRONT: usize = 9;

#[test]
fn the_published_ja3_vectors_come_out() {
    // README of github.com/salesforce/ja3.
    for (text, hash) in [
        (
            "769,47-53-5-10-49161-49162-49171-49172-50-56-19-4,0-10-11,23-24-25,0",
            "ada70206e40642a3e4461f35503241d5",
        ),
        ("769,4-5-10-9-100-98-3-6-19-18-99,,,", "de350869b8c85de67a350c8d186f11e6"),
    ] {
        assert_eq!(hex(&Md5::digest(text)), hash);
    }
}

#[test]
fn the_published_ja4_vector_comes_out() {
    // JA4 technical details, github.com/FoxIO-LLC/ja4: the ciphers, extensions and algorithms of a Chrome.
    let ciphers = [
        0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c,
        0x009d, 0x002f, 0x0035,
    ];
    let kinds = [
        0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023, 0x0012, 0x002b,
        0xff01, 0x000b, 0x000a, 0x0015,
    ];
    let algorithms = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601];
    assert_eq!(
        ja4(0x0304, &ciphers, &kinds, &algorithms, Some(b"h2")),
        "t13d1516h2_8daaf6152771_e5627efa2ab1"
    );
}

#[test]
fn a_client_without_anything_has_zeros() {
    assert_eq!(ja4(0x0301, &[], &[], &[], None), "t10i000000_000000000000_000000000000");
}

#[test]
fn protocols_are_named_by_their_ends() {
    for (alpn, expected) in [
        (Some(&b"http/1.1"[..]), "h1"),
        (Some(b"h"), "hh"),
        (Some(&[0xab, 0xcd]), "ad"),
        (Some(&[]), "00"),
        (None, "00"),
    ] {
        assert_eq!(ends(alpn), expected);
    }
}

#[test]
fn a_client_hello_is_read_without_its_grease() {
    let print = ClientPrint::read(&client_hello("Camera.Vendor.Example", 5)[FRONT..]).unwrap();
    assert_eq!(print.sni.as_deref(), Some("camera.vendor.example"));
    assert_eq!(print.alpn.as_deref(), Some("h2"));
    assert_eq!(print.ja3_text, "771,49199-49195,0-10-11-13-16-21,29,0");
    assert_eq!(print.ja3, hex(&Md5::digest("771,49199-49195,0-10-11-13-16-21,29,0")));
    assert!(print.ja4.starts_with("t12d0206h2_"), "{}", print.ja4);
}

#[test]
fn a_server_hello_is_read() {
    let print = ServerPrint::read(&server_hello()[FRONT..]).unwrap();
    assert_eq!((print.version, print.ja3s_text.as_str()), (0x0303, "771,49199,65281-16"));
}

#[test]
fn a_name_that_is_none_is_not_taken() {
    assert_eq!(server_name(b"a.example."), Some("a.example".to_owned()));
    for bad in [&b""[..], b"a b", b"\x1b[2J", &[b'a'; 300]] {
        assert_eq!(server_name(bad), None);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = ClientPrint::read(&bytes);
        let _ = ServerPrint::read(&bytes);
    }

    #[test]
    fn a_changed_hello_is_read_or_refused(changes in prop::collection::vec((0_usize..150, any::<u8>()), 0..12), length in 0_usize..200) {
        let mut hello = client_hello("vendor.example", 20);
        for (at, byte) in changes {
            if let Some(place) = hello.get_mut(FRONT + at) {
                *place = byte;
            }
        }
        hello.truncate(FRONT + length);
        if let Some(print) = ClientPrint::read(&hello[FRONT.min(hello.len())..]) {
            prop_assert_eq!(print.ja3.len(), 32);
            prop_assert_eq!(print.ja4.len(), 36);
        }
    }
}
