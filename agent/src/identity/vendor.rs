//! Who made a device, from the prefix of its hardware address.
//!
//! The IEEE registry as some package installed it, else a small table of makers often seen in homes and plants. Read once at start.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use super::mac::Mac;

/// Where packages put the IEEE registry: ieee-data, nmap and arp-scan on Debian.
const FILES: [&str; 3] =
    ["/usr/share/ieee-data/oui.csv", "/usr/share/nmap/nmap-mac-prefixes", "/usr/share/arp-scan/ieee-oui.txt"];
/// A registry file larger than this is something else; the full one has 6 MB.
const FILE_BYTES: u64 = 32 << 20;
/// Assignments have 24, 28 or 36 bits; the longest match is the right one.
const LENGTHS: [u8; 3] = [36, 28, 24];
/// Longest name kept, in characters.
const NAME_CHARS: usize = 48;

/// Without any registry: prefixes from the public IEEE assignments (MA-L).
#[allow(clippy::unreadable_literal, reason = "written as the registry writes them")]
const BUILT_IN: &[(u32, &str)] = &[
    (0x0004a3, "Microchip Technology"),
    (0x000d6f, "Ember"),
    (0x000e58, "Sonos"),
    (0x00124b, "Texas Instruments"),
    (0x001788, "Philips Lighting"),
    (0x001a22, "eQ-3"),
    (0x00408c, "Axis Communications"),
    (0x10d561, "Tuya Smart"),
    (0x18b430, "Nest Labs"),
    (0x18fe34, "Espressif"),
    (0x240ac4, "Espressif"),
    (0x246f28, "Espressif"),
    (0x24a43c, "Ubiquiti Networks"),
    (0x2857be, "Hangzhou Hikvision Digital Technology"),
    (0x286c07, "Xiaomi Electronics"),
    (0x28cdc1, "Raspberry Pi Trading"),
    (0x30aea4, "Espressif"),
    (0x3cef8c, "Zhejiang Dahua Technology"),
    (0x4419b6, "Hangzhou Hikvision Digital Technology"),
    (0x44650d, "Amazon Technologies"),
    (0x50c7bf, "TP-Link Technologies"),
    (0x546009, "Google"),
    (0x5caafd, "Sonos"),
    (0x5ccf7f, "Espressif"),
    (0x600194, "Espressif"),
    (0x641666, "Nest Labs"),
    (0x74c246, "Amazon Technologies"),
    (0x9002a9, "Zhejiang Dahua Technology"),
    (0x94103e, "Belkin International"),
    (0x98dac4, "TP-Link Technologies"),
    (0xa4cf12, "Espressif"),
    (0xaccc8e, "Axis Communications"),
    (0xb827eb, "Raspberry Pi Foundation"),
    (0xb8a44f, "Axis Communications"),
    (0xb8e937, "Sonos"),
    (0xc056e3, "Hangzhou Hikvision Digital Technology"),
    (0xdca632, "Raspberry Pi Trading"),
    (0xe45f01, "Raspberry Pi Trading"),
    (0xec1a59, "Belkin International"),
    (0xecb5fa, "Philips Lighting"),
    (0xf4f5d8, "Google"),
];

/// Prefixes and makers.
#[derive(Debug, Clone, Default)]
pub struct Vendors {
    /// Length in bits, prefix, and where its name is in `names`; sorted.
    prefixes: Vec<(u8, u64, u32, u16)>,
    names: String,
}

impl Vendors {
    /// The first registry installed on this machine, else the built-in table.
    pub fn installed() -> Self {
        FILES.iter().find_map(|path| Self::read(Path::new(path)).ok()).unwrap_or_else(Self::built_in)
    }

    /// The built-in table alone.
    pub fn built_in() -> Self {
        let mut vendors = Self::default();
        for (prefix, name) in BUILT_IN {
            vendors.add(24, u64::from(*prefix), name);
        }
        vendors.prefixes.sort_unstable();
        vendors
    }

    /// A registry file in the format of ieee-data (CSV), nmap or arp-scan. A file with no prefix in it is an error.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut text = Vec::new();
        fs::File::open(path)?.take(FILE_BYTES).read_to_end(&mut text)?;
        let vendors = Self::parse(&String::from_utf8_lossy(&text));
        if vendors.is_empty() {
            let cause = format!("{} holds no hardware address prefixes", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, cause));
        }
        Ok(vendors)
    }

    fn parse(text: &str) -> Self {
        let mut vendors = Self::default();
        for line in text.lines() {
            if let Some((digits, name)) = fields(line)
                && matches!(digits.len(), 6 | 7 | 9)
                && let Ok(prefix) = u64::from_str_radix(digits, 16)
            {
                vendors.add(digits.len() as u8 * 4, prefix, name);
            }
        }
        vendors.prefixes.sort_unstable();
        vendors
    }

    fn add(&mut self, bits: u8, prefix: u64, name: &str) {
        let offset = self.names.len() as u32;
        self.names.extend(name.trim().chars().filter(|c| !c.is_control()).take(NAME_CHARS));
        let length = self.names.len() as u32 - offset;
        if length > 0 {
            self.prefixes.push((bits, prefix, offset, length as u16));
        }
    }

    /// How many prefixes are known.
    pub fn len(&self) -> usize {
        self.prefixes.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }

    /// The maker of `mac`; `None` for unknown prefixes and for addresses that hosts chose themselves.
    pub fn of(&self, mac: Mac) -> Option<&str> {
        if mac.is_locally_administered() {
            return None;
        }
        let address = mac.0.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        LENGTHS.iter().find_map(|bits| {
            let wanted = (*bits, address >> (48 - bits));
            let found =
                self.prefixes.binary_search_by_key(&wanted, |(bits, prefix, ..)| (*bits, *prefix)).ok()?;
            let (_, _, offset, length) = self.prefixes[found];
            self.names.get(offset as usize..offset as usize + usize::from(length))
        })
    }
}

/// Prefix and name of a line: `MA-L,00408C,"Axis Communications AB",…`, or `00408C Axis Communications AB`.
fn fields(line: &str) -> Option<(&str, &str)> {
    if let Some(row) = line.strip_prefix("MA-") {
        let (digits, rest) = row.split_once(',')?.1.split_once(',')?;
        let name = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next()?,
            None => rest.split(',').next()?,
        };
        return Some((digits, name));
    }
    let line = line.trim_start();
    if line.starts_with('#') { None } else { line.split_once(|c: char| c.is_ascii_whitespace()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "fixed addresses are valid")]

    use proptest::prelude::*;

    use super::*;

    fn mac(text: &str) -> Mac {
        text.parse().unwrap()
    }

    #[test]
    fn every_format_is_read_and_the_longest_prefix_wins() {
        let text = "Registry,Assignment,Organization Name,Organization Address\n\
            MA-L,00408C,\"Axis, Communications\",Lund\nMA-M,0055DA1,KoolPOS,x\n# comment\n\
            70B3D5ABC\tNine Digits\n70B3D5 Registration\n0055da Registration\nnonsense\n00:11:22 Colons\n";
        let vendors = Vendors::parse(text);
        for (address, maker) in [
            ("00:40:8c:01:02:03", Some("Axis, Communications")),
            ("00:55:da:1f:ff:ff", Some("KoolPOS")),
            ("00:55:da:2f:ff:ff", Some("Registration")),
            ("70:b3:d5:ab:c0:00", Some("Nine Digits")),
            ("70:b3:d5:ab:d0:00", Some("Registration")),
            ("00:11:22:00:00:00", None),
            ("02:40:8c:01:02:03", None),
        ] {
            assert_eq!(vendors.of(mac(address)), maker, "{address}");
        }
    }

    #[test]
    fn the_built_in_table_knows_common_devices() {
        let vendors = Vendors::built_in();
        assert_eq!(vendors.of(mac("24:6f:28:01:02:03")), Some("Espressif"));
        assert_eq!(vendors.len(), BUILT_IN.len());
        assert!(BUILT_IN.is_sorted_by_key(|(prefix, _)| prefix));
    }

    #[test]
    fn whatever_is_installed_is_not_smaller_than_the_built_in_table() {
        assert!(Vendors::installed().len() >= BUILT_IN.len());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(MA-L,)?[0-9A-F]{0,10}[ ,\"\t]?.{0,30}", octets: [u8; 6]) {
            let _ = Vendors::parse(&text).of(Mac(octets));
        }
    }
}
