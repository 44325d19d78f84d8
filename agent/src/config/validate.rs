//! Ranges of single values and contradictions between them. Every problem is reported, not only the first.

mod messages;
mod neighbours;
mod telemetry;

use std::{fmt, ops::RangeInclusive, path::Path, time::Duration};

use crate::{
    config::{Config, Problem, period::Period, values::Listen},
    enforce::Target,
};

/// Longest name the kernel allows an interface, in bytes.
const MAX_INTERFACE_NAME: usize = 15;
/// Ports that one gateway guards at most.
const MAX_INTERFACES: usize = 64;

pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let mut check = Check::default();
    gateway(&mut check, config);
    kernel(&mut check, config);
    learning(&mut check, config);
    response(&mut check, config);
    enforcement(&mut check, config);
    surroundings(&mut check, config);
    cloud(&mut check, config);
    cloudwatch(&mut check, config);
    messages::check(&mut check, config);
    telemetry::check(&mut check, config);
    neighbours::check(&mut check, config);
    check.problems
}

#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn refuse(
        &mut self,
        key: &str,
        value: impl fmt::Display,
        cause: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let (key, value) = (key.to_owned(), value.to_string());
        self.problems.push(Problem { key, value, cause: cause.into(), hint: hint.into() });
    }

    fn range<T: PartialOrd + fmt::Display + Copy>(&mut self, key: &str, value: T, range: RangeInclusive<T>) {
        if !range.contains(&value) {
            let cause = if value < *range.start() { "too small" } else { "too large" };
            self.refuse(key, value, cause, format!("allowed are {} to {}", range.start(), range.end()));
        }
    }

    fn absolute(&mut self, key: &str, path: &Path) {
        if !path.is_absolute() {
            self.refuse(
                key,
                path.display(),
                "the path is relative",
                "write it from the root, such as /var/lib/tidegate",
            );
        }
    }
}

fn gateway(check: &mut Check, config: &Config) {
    let gateway = &config.gateway;
    if gateway.interfaces.len() > MAX_INTERFACES {
        let found = format!("{} names", gateway.interfaces.len());
        check.refuse(
            "gateway.interfaces",
            found,
            "too many",
            format!("at most {MAX_INTERFACES} can be guarded"),
        );
    }
    for (index, name) in gateway.interfaces.iter().enumerate() {
        let sound = !name.is_empty()
            && name.len() <= MAX_INTERFACE_NAME
            && !matches!(name.as_str(), "." | "..")
            && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
        if !sound {
            let hint = "names have 1 to 15 characters without `/`, `:` and spaces; `ip link` lists them";
            check.refuse("gateway.interfaces", format!("{name:?}"), "no interface can have this name", hint);
        }
        if gateway.interfaces[..index].contains(name) {
            check.refuse(
                "gateway.interfaces",
                format!("{name:?}"),
                "named twice",
                "name every interface once",
            );
        }
    }
    check.absolute("gateway.state_dir", &gateway.state_dir);
    check.absolute("gateway.socket", &gateway.socket);
    check.absolute("gateway.pin_path", &gateway.pin_path);
    // sun_path of sockaddr_un has 108 bytes with the closing NUL, and the socket is made under a longer name first.
    if gateway.socket.as_os_str().len() > 90 {
        let shown = gateway.socket.display();
        check.refuse("gateway.socket", shown, "the kernel takes no path that long", "use at most 90 bytes");
    }
}

fn kernel(check: &mut Check, config: &Config) {
    let kernel = &config.kernel;
    check.range("kernel.max_flows", kernel.max_flows, 1_024..=4_194_304);
    check.range("kernel.max_devices", kernel.max_devices, 16..=65_536);
    check.range("kernel.max_forests", kernel.max_forests, 1..=4_096);
    check.range("kernel.ring_bytes", kernel.ring_bytes, 65_536..=268_435_456);
    if !kernel.ring_bytes.is_power_of_two() {
        let near = kernel.ring_bytes.checked_next_power_of_two().unwrap_or(268_435_456);
        check.refuse(
            "kernel.ring_bytes",
            kernel.ring_bytes,
            "not a power of two",
            format!("for example {near}"),
        );
    }
    check.range("kernel.active_timeout", kernel.active_timeout, Period::seconds(1)..=Period::hours(1));
    check.range("kernel.idle_timeout", kernel.idle_timeout, Period::seconds(5)..=Period::hours(24));
    check.range("kernel.closed_timeout", kernel.closed_timeout, Period::seconds(1)..=Period::minutes(10));
    check.range("kernel.new_flow_limit", kernel.new_flow_limit, 100..=1_000_000);
    check.range("kernel.sample_limit", kernel.sample_limit, 1..=10_000);
    check.range("names.dns_limit", config.names.dns_limit, 1..=10_000);
    check.range("names.hello_limit", config.names.hello_limit, 1..=10_000);
}

fn learning(check: &mut Check, config: &Config) {
    let learning = &config.learning;
    check.range(
        "learning.learning_period",
        learning.learning_period,
        Period::minutes(1)..=Period::hours(90 * 24),
    );
    check.range("learning.window", learning.window, Period::seconds(5)..=Period::minutes(10));
    check.range("learning.min_windows", learning.min_windows, 8..=100_000);
    check.range("learning.min_flows", learning.min_flows, 8..=1_000_000);
    check.range("learning.samples", learning.samples, 64..=100_000);
    check.range("learning.max_devices", learning.max_devices, 1..=65_536);
    check.range("learning.max_models", learning.max_models, 1..=65_536);
    check.range("learning.sensitivity", learning.sensitivity.rate(), 0.0001..=0.2);
    check.range("learning.evidence_flows", learning.evidence_flows, 2..=1_000);
    check.range("learning.report_p", learning.report_p, 0.0..=1.0);
    if learning.window > learning.learning_period {
        let cause = format!("longer than learning.learning_period = {}", learning.learning_period);
        check.refuse("learning.window", learning.window, cause, "a period holds many windows");
    }
}

fn response(check: &mut Check, config: &Config) {
    let response = &config.response;
    check.range("response.min_confidence", response.min_confidence, 0.0..=1.0);
    check.range("response.full_confidence", response.full_confidence, 0.0..=1.0);
    check.range("response.model_p", response.model_p, 0.0..=1.0);
    check.range("response.cut_ttl", response.cut_ttl, Period::seconds(1)..=Period::minutes(10));
    for id in response.techniques.keys().filter(|id| !is_technique(id)) {
        check.refuse(
            "response.techniques",
            id,
            "not an ATT&CK technique",
            "write an id such as T1046 or T1110.001",
        );
    }
    let rules = &config.detection;
    let shares = [
        ("detection.scan_answered_share", rules.scan_answered_share),
        ("detection.flood_answered_share", rules.flood_answered_share),
    ];
    for (key, share) in shares {
        check.range(key, share, 0.0..=1.0);
    }
}

fn enforcement(check: &mut Check, config: &Config) {
    let enforcement = &config.enforcement;
    let year = Period::hours(365 * 24);
    let month = Period::hours(30 * 24);
    check.range("enforcement.base_ttl", enforcement.base_ttl, Period::seconds(1)..=month);
    check.range("enforcement.isolate_ttl", enforcement.isolate_ttl, Period::seconds(1)..=month);
    if enforcement.max_ttl < enforcement.base_ttl {
        let cause = format!("shorter than enforcement.base_ttl = {}", enforcement.base_ttl);
        check.refuse("enforcement.max_ttl", enforcement.max_ttl, cause, "write at least base_ttl");
    }
    check.range("enforcement.max_ttl", enforcement.max_ttl, Period::seconds(1)..=year);
    let steps = &enforcement.escalation;
    if steps.is_empty() || steps.contains(&0) || !steps.is_sorted() {
        let hint = "write growing numbers from 1 on, such as [1, 2, 4, 8]";
        check.refuse("enforcement.escalation", format!("{steps:?}"), "repeats would not last longer", hint);
    }
    check.range("enforcement.forget_after", enforcement.forget_after, Period::seconds(1)..=year);
    check.range("enforcement.cooldown", enforcement.cooldown, Period::default()..=month);
    check.range("enforcement.rollback_hold", enforcement.rollback_hold, Period::default()..=month);
    let devices = enforcement.blast_radius_devices_per_hour;
    check.range("enforcement.blast_radius_devices_per_hour", devices, 1..=10_000);
    let addresses = enforcement.blast_radius_addresses_per_hour;
    check.range("enforcement.blast_radius_addresses_per_hour", addresses, 1..=1_000_000);
    let window = enforcement.confirm_window;
    check.range("enforcement.confirm_window", window, Period::seconds(1)..=Period::seconds(60));
    check.range("enforcement.rate_limit_pps", enforcement.rate_limit_pps, 1..=1_000_000);
}

fn is_technique(id: &str) -> bool {
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some(rest) = id.strip_prefix('T') else { return false };
    match rest.split_once('.') {
        Some((main, sub)) => digits(main, 4) && digits(sub, 3),
        None => digits(rest, 4),
    }
}

fn surroundings(check: &mut Check, config: &Config) {
    for target in &config.never_block.addresses {
        if let Target::Device(mac) = target {
            let hint = "write it under never_block.devices";
            check.refuse("never_block.addresses", mac, "a hardware address among addresses", hint);
        }
    }
    for mac in &config.never_block.devices {
        if !mac.is_device() {
            let hint = "name the device's own hardware address";
            check.refuse("never_block.devices", mac, "no device can have this address", hint);
        }
    }
    let reach = &config.reachability;
    check.range("reachability.interval", reach.interval, Period::seconds(1)..=Period::hours(1));
    let shortest = Period(Duration::from_millis(100));
    check.range("reachability.timeout", reach.timeout, shortest..=Period::seconds(5));
    let labels_sound = reach.dns_name.trim_end_matches('.').split('.').all(|label| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    });
    if reach.dns_name.len() > 253 || !labels_sound {
        let hint = "write a host name such as example.com";
        check.refuse("reachability.dns_name", format!("{:?}", reach.dns_name), "not a name to ask for", hint);
    }
    for file in &config.feeds.files {
        check.absolute("feeds.files", file);
    }
    if let Some(alerts) = config.eve_alerts_path() {
        check.absolute("inputs.eve_alerts", &alerts);
        if config.eve_path().as_ref() == Some(&alerts) {
            let hint = "name the file that Suricata writes";
            check.refuse("inputs.eve_alerts", alerts.display(), "that is Tidegate's own event log", hint);
        }
    }
    let eve = config.log.eve_path.as_str();
    if !matches!(eve, "" | "off") {
        check.absolute("log.eve_path", Path::new(eve));
    }
    check.range("log.rotate_bytes", config.log.rotate_bytes, 65_536..=10_737_418_240);
    check.range("log.keep", config.log.keep, 0..=1_000);
    if let Listen::At(address) = config.metrics.listen
        && !address.ip().is_loopback()
    {
        let hint = "write 127.0.0.1:9469, [::1]:9469 or `off`; let a local collector forward them";
        check.refuse("metrics.listen", address, "metrics are served on loopback only", hint);
    }
}

fn cloud(check: &mut Check, config: &Config) {
    for (key, name) in [("gateway.name", &config.gateway.name), ("policy.fleet", &config.policy.fleet)] {
        let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':');
        if name.len() > 128 || !name.bytes().all(is_sound) {
            let hint = "write up to 128 letters, digits, `-`, `_` and `:`, as AWS IoT Core takes them";
            check.refuse(key, format!("{name:?}"), "not a name", hint);
        }
    }
    if let Some(keys) = config.policy_keys_path() {
        check.absolute("policy.keys", &keys);
    }
    let cloud = &config.cloud;
    let files =
        [("cloud.ca", &cloud.ca), ("cloud.certificate", &cloud.certificate), ("cloud.key", &cloud.key)];
    for (key, file) in files.into_iter().chain([("cloud.policy_ca", &cloud.policy_ca)]) {
        if !file.is_empty() {
            check.absolute(key, Path::new(file));
        }
    }
    let is_rule = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if cloud.rule.is_empty() || cloud.rule.len() > 128 || !cloud.rule.bytes().all(is_rule) {
        let hint = "write up to 128 letters, digits and `_`";
        check.refuse("cloud.rule", format!("{:?}", cloud.rule), "no rule can have this name", hint);
    }
    for origin in &cloud.policy_origins {
        let is_sound = origin.starts_with("https://") || origin.starts_with("file:///");
        if !is_sound || !origin.ends_with('/') || origin.contains("/../") {
            let hint = "write `https://HOST/PATH/` or `file:///PATH/`";
            check.refuse("cloud.policy_origins", format!("{origin:?}"), "not an origin", hint);
        }
    }
    check.range("cloud.port", cloud.port, 1..=65_535);
    check.range("cloud.heartbeat", cloud.heartbeat, Period::seconds(30)..=Period::hours(24));
    check.range("cloud.defender_every", cloud.defender_every, Period::minutes(5)..=Period::hours(24));
    check.range("cloud.outbox_rows", cloud.outbox_rows, 100..=10_000_000);
    check.range("cloud.outbox_bytes", cloud.outbox_bytes, 65_536..=10_737_418_240);
}

fn cloudwatch(check: &mut Check, config: &Config) {
    let section = &config.cloudwatch;
    check.range("cloudwatch.interval", section.interval, Period::seconds(1)..=Period::hours(1));
    let namespace = &section.namespace;
    let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || b".-_/#: ".contains(&byte);
    if namespace.is_empty()
        || namespace.len() > 255
        || namespace.starts_with("AWS/")
        || !namespace.bytes().all(is_sound)
    {
        let hint = "write up to 255 letters, digits and `.-_/#:`, not beginning with `AWS/`";
        check.refuse("cloudwatch.namespace", format!("{namespace:?}"), "no namespace of metrics", hint);
    }
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=,@.:".contains(&byte);
    for (key, value) in [
        ("cloudwatch.region", &section.region),
        ("cloudwatch.role_alias", &section.role_alias),
        ("cloudwatch.credentials_endpoint", &section.credentials_endpoint),
    ] {
        if value.len() > 253 || !value.bytes().all(is_word) {
            check.refuse(key, format!("{value:?}"), "not a name", "write it as AWS shows it");
        }
    }
    if section.role_alias.is_empty() != section.credentials_endpoint.is_empty() {
        let hint = "`aws iot describe-endpoint --endpoint-type iot:CredentialProvider` shows the endpoint";
        let value = format!("{:?}", section.role_alias);
        check.refuse("cloudwatch.role_alias", value, "alias and endpoint go together", hint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        problems(&config).into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(problems(&Config::default()), []);
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        assert_eq!(keys(|c| c.gateway.interfaces = vec!["a/b".to_owned()]), ["gateway.interfaces"]);
        assert_eq!(keys(|c| c.gateway.interfaces = vec!["a".into(), "a".into()]), ["gateway.interfaces"]);
        assert_eq!(keys(|c| c.gateway.socket = "tidegate.sock".into()), ["gateway.socket"]);
        assert_eq!(keys(|c| c.kernel.ring_bytes = 100_000), ["kernel.ring_bytes"]);
        assert_eq!(keys(|c| c.enforcement.max_ttl = Period::seconds(2)), ["enforcement.max_ttl"]);
        assert_eq!(
            keys(|c| c.enforcement.confirm_window = Period::seconds(61)),
            ["enforcement.confirm_window"]
        );
        assert_eq!(keys(|c| c.enforcement.escalation = vec![2, 1]), ["enforcement.escalation"]);
        assert_eq!(keys(|c| c.response.min_confidence = f64::NAN), ["response.min_confidence"]);
        assert_eq!(keys(|c| c.metrics.listen = Listen::At(([0, 0, 0, 0], 9469).into())), ["metrics.listen"]);
        assert_eq!(keys(|c| c.inputs.eve_alerts = "eve.json".to_owned()), ["inputs.eve_alerts"]);
        assert_eq!(
            keys(|c| c.inputs.eve_alerts = "/var/lib/tidegate/eve.json".to_owned()),
            ["inputs.eve_alerts"]
        );
        assert_eq!(keys(|c| c.reachability.dns_name = "a b".to_owned()), ["reachability.dns_name"]);
    }

    #[test]
    fn techniques_are_named_as_attack_names_them() {
        for (id, sound) in
            [("T1046", true), ("T1110.001", true), ("1046", false), ("T104", false), ("T1110.1", false)]
        {
            assert_eq!(is_technique(id), sound, "{id}");
        }
    }
}
