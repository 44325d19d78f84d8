//! What a TLS hello says about the program behind it: JA3, JA3S and JA4, and the name it asks for. Pure; the bytes are hostile.
//!
//! JA3 and JA3S (Althouse, Atkinson, Atkins, 2017) are MD5 over version, ciphers, extensions and curves as they stand; JA4 (FoxIO, 2023) is
//! readable in its first part and SHA-256 over sorted ciphers and extensions in the others, so that a client that shuffles its
//! extensions keeps its print. Of FoxIO's family JA4 alone is free for every use; no other is computed. Values that clients
//! make up to keep servers tolerant (GREASE, RFC 8701) count nowhere.

use std::fmt::Write as _;

use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tls_parser::{
    SNIType, TlsExtension, parse_tls_extension_alpn_content, parse_tls_extension_ec_point_formats_content,
    parse_tls_extension_elliptic_curves_content, parse_tls_extension_signature_algorithms_content,
    parse_tls_extension_sni_content, parse_tls_extension_supported_versions,
    parse_tls_handshake_client_hello, parse_tls_handshake_server_hello,
};

const SERVER_NAME: u16 = 0;
const GROUPS: u16 = 10;
const POINT_FORMATS: u16 = 11;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
/// Longest server name there can be, in bytes (RFC 1035).
const NAME_BYTES: usize = 253;

/// What a ClientHello says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientPrint {
    /// The server asked for.
    pub sni: Option<String>,
    /// The first protocol offered above TLS.
    pub alpn: Option<String>,
    /// Highest version offered.
    pub version: u16,
    /// What JA3 is the MD5 of.
    pub ja3_text: String,
    /// JA3.
    pub ja3: String,
    /// JA4.
    pub ja4: String,
}

/// What a ServerHello says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerPrint {
    /// Version chosen.
    pub version: u16,
    /// What JA3S is the MD5 of.
    pub ja3s_text: String,
    /// JA3S.
    pub ja3s: String,
}

/// Extensions in their order, each with its whole encoding.
struct Extensions<'a> {
    all: Vec<(u16, &'a [u8])>,
}

impl<'a> Extensions<'a> {
    /// `None` when they do not end where they should.
    fn read(mut bytes: &'a [u8]) -> Option<Self> {
        const HEADER: usize = 4;
        let mut all = Vec::new();
        while let [kind_high, kind_low, high, low, ..] = *bytes {
            let length = HEADER + usize::from(u16::from_be_bytes([high, low]));
            let (whole, rest) = bytes.split_at_checked(length)?;
            all.push((u16::from_be_bytes([kind_high, kind_low]), whole));
            bytes = rest;
        }
        bytes.is_empty().then_some(Self { all })
    }

    fn body(&self, kind: u16) -> Option<&'a [u8]> {
        self.all.iter().find(|(found, _)| *found == kind).map(|(_, whole)| &whole[4..])
    }

    fn kinds(&self) -> Vec<u16> {
        self.all.iter().map(|(kind, _)| *kind).filter(|kind| !is_grease(*kind)).collect()
    }

    fn parsed(
        &self,
        kind: u16,
        parse: fn(&'a [u8]) -> tls_parser::nom::IResult<&'a [u8], TlsExtension<'a>>,
    ) -> Option<TlsExtension<'a>> {
        parse(self.body(kind)?).ok().map(|(_, extension)| extension)
    }
}

impl ClientPrint {
    /// Reads the body of a ClientHello, behind its type and length.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let (_, hello) = parse_tls_handshake_client_hello(body).ok()?;
        let extensions = Extensions::read(hello.ext.unwrap_or_default())?;
        let ciphers: Vec<u16> =
            hello.ciphers.iter().map(|cipher| cipher.0).filter(|cipher| !is_grease(*cipher)).collect();
        let kinds = extensions.kinds();
        let groups = match extensions.parsed(GROUPS, parse_tls_extension_elliptic_curves_content) {
            Some(TlsExtension::EllipticCurves(groups)) => groups.iter().map(|group| group.0).collect(),
            _ => Vec::new(),
        };
        let formats = match extensions.parsed(POINT_FORMATS, parse_tls_extension_ec_point_formats_content) {
            Some(TlsExtension::EcPointFormats(formats)) => formats,
            _ => &[],
        };
        let algorithms =
            match extensions.parsed(SIGNATURE_ALGORITHMS, parse_tls_extension_signature_algorithms_content) {
                Some(TlsExtension::SignatureAlgorithms(algorithms)) => algorithms,
                _ => Vec::new(),
            };
        let alpn = match extensions.parsed(ALPN, parse_tls_extension_alpn_content) {
            Some(TlsExtension::ALPN(protocols)) => protocols.first().copied(),
            _ => None,
        };
        let sni = match extensions.parsed(SERVER_NAME, parse_tls_extension_sni_content) {
            Some(TlsExtension::SNI(names)) => names
                .iter()
                .find_map(|(kind, name)| (*kind == SNIType::HostName).then(|| server_name(name)).flatten()),
            _ => None,
        };
        let version = offered(&extensions).unwrap_or(hello.version.0);
        let ja3_text = [
            hello.version.0.to_string(),
            decimal(ciphers.iter().copied()),
            decimal(kinds.iter().copied()),
            decimal(without_grease(&groups)),
            decimal(formats.iter().map(|format| u16::from(*format))),
        ]
        .join(",");
        Some(Self {
            ja4: ja4(version, &ciphers, &kinds, &algorithms, alpn),
            ja3: hex(&Md5::digest(&ja3_text)),
            ja3_text,
            sni,
            alpn: alpn.map(|protocol| String::from_utf8_lossy(protocol).into_owned()),
            version,
        })
    }
}

impl ServerPrint {
    /// Reads the body of a ServerHello, behind its type and length.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let (_, hello) = parse_tls_handshake_server_hello(body).ok()?;
        let extensions = Extensions::read(hello.ext.unwrap_or_default())?;
        let ja3s_text = [
            hello.version.0.to_string(),
            hello.cipher.0.to_string(),
            decimal(extensions.all.iter().map(|(kind, _)| *kind)),
        ]
        .join(",");
        let chosen = extensions.body(SUPPORTED_VERSIONS).and_then(|body| body.try_into().ok());
        let version = chosen.map_or(hello.version.0, u16::from_be_bytes);
        Some(Self { version, ja3s: hex(&Md5::digest(&ja3s_text)), ja3s_text })
    }
}

/// The version as Suricata writes it.
pub fn version_name(version: u16) -> String {
    match version {
        0x0304 => "TLS 1.3".to_owned(),
        0x0303 => "TLS 1.2".to_owned(),
        0x0302 => "TLS 1.1".to_owned(),
        0x0301 => "TLSv1".to_owned(),
        0x0300 => "SSLv3".to_owned(),
        other => format!("0x{other:04x}"),
    }
}

/// The highest version that the client offers by its extension.
fn offered(extensions: &Extensions<'_>) -> Option<u16> {
    let (_, whole) = extensions.all.iter().find(|(kind, _)| *kind == SUPPORTED_VERSIONS)?;
    let Ok((_, TlsExtension::SupportedVersions(versions))) = parse_tls_extension_supported_versions(whole)
    else {
        return None;
    };
    versions.iter().map(|version| version.0).filter(|version| !is_grease(*version)).max()
}

fn ja4(version: u16, ciphers: &[u16], kinds: &[u16], algorithms: &[u16], alpn: Option<&[u8]>) -> String {
    let version = match version {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        0x0300 => "s3",
        0x0002 => "s2",
        _ => "00",
    };
    let named = if kinds.contains(&SERVER_NAME) { 'd' } else { 'i' };
    let (ciphers_count, kinds_count) = (ciphers.len().min(99), kinds.len().min(99));
    let mut sorted_ciphers = ciphers.to_vec();
    sorted_ciphers.sort_unstable();
    let mut sorted_kinds: Vec<u16> =
        kinds.iter().copied().filter(|kind| !matches!(*kind, SERVER_NAME | ALPN)).collect();
    sorted_kinds.sort_unstable();
    let mut what = hexadecimal(&sorted_kinds);
    let algorithms: Vec<u16> = without_grease(algorithms).collect();
    if !algorithms.is_empty() {
        what = format!("{what}_{}", hexadecimal(&algorithms));
    }
    let (ciphers, what) =
        (short_hash(&hexadecimal(&sorted_ciphers), ciphers.is_empty()), short_hash(&what, kinds.is_empty()));
    format!("t{version}{named}{ciphers_count:02}{kinds_count:02}{}_{ciphers}_{what}", ends(alpn))
}

/// First and last character of the first protocol offered; of its hexadecimal form when they are no letters or digits.
fn ends(alpn: Option<&[u8]>) -> String {
    let Some([first, .., last] | [first @ last]) = alpn else { return "00".to_owned() };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [char::from(*first), char::from(*last)].iter().collect();
    }
    let (first, last) = (format!("{first:02x}"), format!("{last:02x}"));
    format!("{}{}", &first[..1], &last[1..])
}

fn short_hash(text: &str, is_empty: bool) -> String {
    const CHARS: usize = 12;
    if is_empty {
        return "0".repeat(CHARS);
    }
    let mut hash = hex(&Sha256::digest(text));
    hash.truncate(CHARS);
    hash
}

/// `0x0a0a`, `0x1a1a`, …
const fn is_grease(value: u16) -> bool {
    value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff
}

fn without_grease(values: &[u16]) -> impl Iterator<Item = u16> {
    values.iter().copied().filter(|value| !is_grease(*value))
}

fn decimal(values: impl Iterator<Item = u16>) -> String {
    values.map(|value| value.to_string()).collect::<Vec<_>>().join("-")
}

fn hexadecimal(values: &[u16]) -> String {
    values.iter().map(|value| format!("{value:04x}")).collect::<Vec<_>>().join(",")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A host name that can be shown and compared: what is not of the letters of host names makes it none.
fn server_name(bytes: &[u8]) -> Option<String> {
    let is_name = !bytes.is_empty()
        && bytes.len() <= NAME_BYTES
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    is_name.then(|| String::from_utf8_lossy(bytes).trim_end_matches('.').to_ascii_lowercase())
}

#[cfg(test)]
#[path = "fingerprint_tests.rs"]
mod tests;
