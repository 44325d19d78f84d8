//! Bytes for the packet tables.

/// The bytes of `text`, hexadecimal digits with any spacing.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

/// Destination and source hardware address, without the EtherType.
pub(crate) const MACS: &str = "02 00 00 00 00 01  02 00 00 00 00 02";
/// Source hardware address of [`MACS`].
pub(crate) const SRC_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Destination hardware address of [`MACS`].
pub(crate) const DST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
