//! Reads a description. Whatever it does not know, it says, for all entries at once.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use ipnet::IpNet;
use serde_json::{Map, Value};
use tidegate_common::parse::proto;

use super::{
    policy::{Entry, Family, Party, Policy, Side},
    ports,
};

/// Largest description that is read.
pub const MAX_BYTES: usize = 1 << 20;
/// Entries of all its access lists at most.
const MAX_ENTRIES: usize = 1_024;
/// Names in it at most.
const MAX_NAMES: usize = 256;
/// Problems that are told.
const MAX_PROBLEMS: usize = 64;

const MUD: &str = "ietf-mud:mud";
const ACLS: &str = "ietf-access-control-list:acls";
/// Classes that RFC 8520 registers (section 17.7).
const URN_DNS: &str = "urn:ietf:params:mud:dns";
const URN_NTP: &str = "urn:ietf:params:mud:ntp";

/// A description that is not put in force, with every reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct MudError {
    /// What is wrong, or not supported, and where.
    pub problems: Vec<String>,
}

impl fmt::Display for MudError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the description cannot be enforced: ")?;
        f.write_str(&self.problems.join("; "))
    }
}

/// Reads a description of at most [`MAX_BYTES`].
pub fn read(bytes: &[u8]) -> Result<Policy, MudError> {
    let single = |problem: String| MudError { problems: vec![problem] };
    if bytes.len() > MAX_BYTES {
        return Err(single(format!("it is larger than {MAX_BYTES} bytes")));
    }
    let document: Value =
        serde_json::from_slice(bytes).map_err(|error| single(format!("it is no JSON: {error}")))?;
    let mut reader = Reader { problems: Vec::new(), entries: Vec::new() };
    let policy = reader.document(&document);
    let Reader { mut problems, entries } = reader;
    problems.truncate(MAX_PROBLEMS);
    match policy {
        Some((url, systeminfo)) if problems.is_empty() => Ok(Policy { url, systeminfo, entries }),
        _ => Err(MudError { problems }),
    }
}

struct Reader {
    problems: Vec<String>,
    entries: Vec<Entry>,
}

/// Text from outside in a message: short and without control characters.
fn shown(text: &str) -> String {
    const CHARS: usize = 80;
    text.chars().take(CHARS).map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl Reader {
    fn problem(&mut self, problem: impl Into<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem.into());
        }
    }

    fn document(&mut self, document: &Value) -> Option<(String, String)> {
        let Some(mud) = document.get(MUD).and_then(Value::as_object) else {
            self.problem(format!("it has no `{MUD}` container"));
            return None;
        };
        if mud.get("mud-version").and_then(Value::as_u64) != Some(1) {
            self.problem("`mud-version` is not 1");
        }
        let url = mud.get("mud-url").and_then(Value::as_str).unwrap_or_default();
        if !url.starts_with("https://") || url.len() > 2_048 {
            self.problem("`mud-url` is no https URL");
        }
        if mud.get("extensions").and_then(Value::as_array).is_some_and(|list| !list.is_empty()) {
            self.problem("`extensions` are not supported");
        }
        let lists = document.get(ACLS).and_then(|acls| acls.get("acl")).and_then(Value::as_array);
        let lists: &[Value] = lists.map_or(&[], Vec::as_slice);
        for (container, from) in [("from-device-policy", Side::Device), ("to-device-policy", Side::Remote)] {
            let Some(policy) = mud.get(container) else { continue };
            for name in self.list_names(policy, container) {
                let found = lists.iter().find(|list| list.get("name").and_then(Value::as_str) == Some(&name));
                match found {
                    Some(list) => self.list(list, &name, from),
                    None => self.problem(format!("there is no access list `{}`", shown(&name))),
                }
            }
        }
        if self.entries.is_empty() && self.problems.is_empty() {
            self.problem("it allows nothing at all: to cut a device off, isolate it");
        }
        let names: BTreeSet<&Party> = self
            .entries
            .iter()
            .map(|entry| &entry.party)
            .filter(|party| matches!(party, Party::Name(_)))
            .collect();
        if names.len() > MAX_NAMES {
            self.problem(format!("it names more than {MAX_NAMES} hosts"));
        }
        let systeminfo = mud.get("systeminfo").and_then(Value::as_str).unwrap_or_default();
        Some((url.to_owned(), shown(systeminfo)))
    }

    fn list_names(&mut self, policy: &Value, container: &str) -> Vec<String> {
        let lists = policy.get("access-lists").and_then(|lists| lists.get("access-list"));
        let Some(lists) = lists.and_then(Value::as_array) else {
            self.problem(format!("`{container}` has no access lists"));
            return Vec::new();
        };
        lists.iter().filter_map(|list| Some(list.get("name")?.as_str()?.to_owned())).collect()
    }

    fn list(&mut self, list: &Value, name: &str, from: Side) {
        let name = shown(name);
        let kind = list.get("type").and_then(Value::as_str).unwrap_or_default();
        let family = match kind.rsplit(':').next() {
            Some("ipv4-acl-type") => Family::V4,
            Some("ipv6-acl-type") => Family::V6,
            _ => {
                let kind = shown(kind);
                return self.problem(format!("access list `{name}`: type `{kind}` is not supported"));
            }
        };
        let aces = list.get("aces").and_then(|aces| aces.get("ace")).and_then(Value::as_array);
        let Some(aces) = aces else {
            return self.problem(format!("access list `{name}` has no entries"));
        };
        if self.entries.len() + aces.len() > MAX_ENTRIES {
            return self.problem(format!("it has more than {MAX_ENTRIES} entries"));
        }
        let last = aces.len().saturating_sub(1);
        for (index, ace) in aces.iter().enumerate() {
            let called = ace.get("name").and_then(Value::as_str).unwrap_or("without a name");
            let place = format!("entry `{}` of `{name}`", shown(called));
            match entry(ace, from, family, index == last) {
                Ok(Some(entry)) => self.entries.push(entry),
                Ok(None) => {}
                Err(problems) => {
                    for problem in problems {
                        self.problem(format!("{place}: {problem}"));
                    }
                }
            }
        }
    }
}

/// An allowing entry; `None` for a last one that denies all the rest, as everything not allowed is denied anyway.
fn entry(ace: &Value, from: Side, family: Family, is_last: bool) -> Result<Option<Entry>, Vec<String>> {
    let nothing = Map::new();
    let matches = ace.get("matches").and_then(Value::as_object).unwrap_or(&nothing);
    let forwarding = ace.get("actions").and_then(|actions| actions.get("forwarding")).and_then(Value::as_str);
    match forwarding.map(|word| word.rsplit(':').next().unwrap_or(word)) {
        Some("accept") => {}
        Some("drop" | "reject") if matches.is_empty() && is_last => return Ok(None),
        Some("drop" | "reject") => return Err(vec!["denying entries are not supported".to_owned()]),
        _ => return Err(vec!["it has no action `forwarding`".to_owned()]),
    }
    let mut builder = Builder {
        entry: Entry {
            from,
            family,
            party: Party::Anyone,
            protocol: 0,
            remote_ports: Vec::new(),
            local_ports: Vec::new(),
            begun_by: None,
        },
        problems: Vec::new(),
    };
    for (container, fields) in matches {
        let Some(fields) = fields.as_object() else {
            builder.unsupported(container);
            continue;
        };
        for (field, value) in fields {
            builder.field(container, field, value);
        }
        builder.container(container);
    }
    let Builder { entry, mut problems } = builder;
    let has_ports = !(entry.remote_ports.is_empty() && entry.local_ports.is_empty());
    if has_ports && !matches!(entry.protocol, proto::TCP | proto::UDP) {
        problems.push("it has ports, and no protocol that has any".to_owned());
    }
    if problems.is_empty() { Ok(Some(entry)) } else { Err(problems) }
}

struct Builder {
    entry: Entry,
    problems: Vec<String>,
}

impl Builder {
    fn unsupported(&mut self, what: &str) {
        self.problems.push(format!("match `{}` is not supported", shown(what)));
    }

    /// What the presence of a container says by itself.
    fn container(&mut self, container: &str) {
        let protocol = match container {
            "tcp" => proto::TCP,
            "udp" => proto::UDP,
            "ipv4" if self.entry.family == Family::V4 => return,
            "ipv6" if self.entry.family == Family::V6 => return,
            "ietf-mud:mud" => return,
            other => return self.unsupported(other),
        };
        self.protocol(protocol);
    }

    fn protocol(&mut self, protocol: u8) {
        if self.entry.protocol != 0 && self.entry.protocol != protocol {
            self.problems.push("it names two protocols".to_owned());
        }
        self.entry.protocol = protocol;
    }

    fn party(&mut self, party: Party) {
        if self.entry.party != Party::Anyone && self.entry.party != party {
            self.problems.push("it names two parties".to_owned());
        }
        self.entry.party = party;
    }

    fn field(&mut self, container: &str, field: &str, value: &Value) {
        let remote = if self.entry.from == Side::Device { "destination" } else { "source" };
        let remote_name = if self.entry.from == Side::Device {
            "ietf-acldns:dst-dnsname"
        } else {
            "ietf-acldns:src-dnsname"
        };
        match (container, field) {
            ("ipv4" | "ipv6", "protocol") => {
                match value.as_u64().and_then(|number| u8::try_from(number).ok()) {
                    Some(number) => self.protocol(number),
                    None => self.problems.push("`protocol` is no number of an IP protocol".to_owned()),
                }
            }
            ("ipv4", _) if field == format!("{remote}-ipv4-network") => self.network(value),
            ("ipv6", _) if field == format!("{remote}-ipv6-network") => self.network(value),
            ("ipv4" | "ipv6", _) if field == remote_name => self.name(value),
            ("tcp" | "udp", "source-port" | "destination-port") => match ports::read(value) {
                Ok(ports) if field.starts_with(remote) => self.entry.remote_ports = ports,
                Ok(ports) => self.entry.local_ports = ports,
                Err(problem) => self.problems.push(problem),
            },
            ("tcp", "ietf-mud:direction-initiated") => match value.as_str() {
                Some("from-device") => self.entry.begun_by = Some(Side::Device),
                Some("to-device") => self.entry.begun_by = Some(Side::Remote),
                _ => self
                    .problems
                    .push("`direction-initiated` is neither from-device nor to-device".to_owned()),
            },
            ("ietf-mud:mud", "local-networks") => self.party(Party::Local),
            ("ietf-mud:mud", "controller") if matches!(value.as_str(), Some(URN_DNS | URN_NTP)) => {
                self.party(Party::Gateway);
            }
            _ => self.unsupported(&format!("{container}/{field}")),
        }
    }

    fn network(&mut self, value: &Value) {
        let net = value.as_str().and_then(|text| {
            let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
            text.parse::<IpNet>().ok().or_else(address)
        });
        match net.filter(|net| self.entry.family.is_of(net.addr())) {
            Some(net) => self.party(Party::Net(net.trunc())),
            None => self.problems.push("a network is none of the list's IP version".to_owned()),
        }
    }

    fn name(&mut self, value: &Value) {
        let name = value.as_str().unwrap_or_default().trim_end_matches('.').to_lowercase();
        if is_host_name(&name) {
            self.party(Party::Name(name));
        } else {
            self.problems.push(format!("`{}` is no name of a host", shown(&name)));
        }
    }
}

/// Letters, digits, hyphens and underscores between dots (RFC 1123, 2181).
pub(super) fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(is_label) && name.parse::<IpAddr>().is_err()
}
