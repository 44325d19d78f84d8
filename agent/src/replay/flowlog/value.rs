//! Texts of a log as values.

use std::{net::IpAddr, num::NonZeroU64};

use jiff::{Timestamp, civil::DateTime, fmt::strtime, tz::TimeZone};
use tidegate_common::parse::proto;

use super::BadLine;

const SECOND_NS: u64 = 1_000_000_000;
/// Seconds since the epoch beyond this are milliseconds: the year 5138.
const LATEST_S: u64 = 100_000_000_000;
/// From here on, nanoseconds do not fit into 64 bits: the year 2554.
const END_S: u64 = u64::MAX / SECOND_NS;

pub(super) fn address(text: &str) -> Result<IpAddr, BadLine> {
    // A link-local address may name its interface.
    let bare = text.split_once('%').map_or(text, |(bare, _)| bare);
    bare.parse::<IpAddr>().map(|address| address.to_canonical()).map_err(|_| BadLine::LineAddress)
}

pub(super) fn port(text: &str) -> Result<u16, BadLine> {
    text.parse().map_err(|_| BadLine::LinePort)
}

pub(super) fn count(text: &str) -> Result<u64, BadLine> {
    if let Ok(count) = text.parse() {
        return Ok(count);
    }
    // Tables that went through a data frame write whole numbers with a point.
    let number = text.parse::<f64>().map_err(|_| BadLine::LineCount)?;
    let whole = number >= 0.0 && number <= 2_f64.powi(53) && number.fract() == 0.0;
    if whole { Ok(number as u64) } else { Err(BadLine::LineCount) }
}

pub(super) fn protocol(text: &str) -> Result<u8, BadLine> {
    let number = |number| Ok(number);
    match text.to_ascii_lowercase().as_str() {
        "tcp" => number(proto::TCP),
        "udp" => number(proto::UDP),
        "icmp" => number(proto::ICMP),
        "icmp6" | "icmpv6" | "ipv6-icmp" => number(proto::ICMPV6),
        "igmp" => number(2),
        "gre" => number(47),
        "esp" => number(50),
        "ah" => number(51),
        "sctp" => number(132),
        // Reserved by IANA: whatever it is, the log does not say.
        "unknown_transport" | "unknown" => number(255),
        other => other.parse().map_err(|_| BadLine::LineProtocol),
    }
}

/// Seconds, with as many digits behind the point as there are, in nanoseconds.
pub(super) fn seconds(text: &str) -> Result<u64, BadLine> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        // Exponents: the log was written by something that knows no fixed point.
        let number = text.parse::<f64>().map_err(|_| BadLine::LineTime)?;
        let in_range = (0.0..END_S as f64).contains(&number);
        return if in_range {
            Ok((number * SECOND_NS as f64).round() as u64)
        } else {
            Err(BadLine::LineTime)
        };
    }
    let whole: u64 = whole.parse().map_err(|_| BadLine::LineTime)?;
    let nanos = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = nanos.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    if whole >= END_S { Err(BadLine::LineTime) } else { Ok(whole * SECOND_NS + nanos) }
}

/// A moment, in nanoseconds since the epoch: seconds, milliseconds, or a date with or without an offset (UTC then).
pub(super) fn moment(text: &str) -> Result<u64, BadLine> {
    if let Ok(number) = text.parse::<u64>()
        && number >= LATEST_S
    {
        return number.checked_mul(1_000_000).ok_or(BadLine::LineTime);
    }
    if !text.contains('T') && !text.contains(':') {
        return seconds(text);
    }
    let stamp = text.parse::<Timestamp>().ok().or_else(|| {
        let parsed = strtime::parse("%Y-%m-%dT%H:%M:%S%.f%z", text).ok()?;
        parsed.to_timestamp().ok()
    });
    let stamp = stamp.or_else(|| {
        let civil = text.parse::<DateTime>().ok()?;
        Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
    });
    let nanos = stamp.ok_or(BadLine::LineTime)?.as_nanosecond();
    u64::try_from(nanos).map_err(|_| BadLine::LineTime)
}

/// A hardware address of six bytes.
pub(super) fn mac(text: &str) -> Option<[u8; 6]> {
    text.parse::<crate::identity::Mac>().ok().map(|mac| mac.0)
}

pub(super) fn vlan(text: &str) -> u16 {
    text.parse::<u16>().unwrap_or(0) & 0x0fff
}

/// A mean, 0 of nothing.
pub(super) fn mean(sum: u64, count: u64) -> u64 {
    NonZeroU64::new(count).map_or(0, |count| sum / count)
}
