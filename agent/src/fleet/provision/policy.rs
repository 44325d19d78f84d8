//! What a gateway's certificate may do at AWS IoT Core: what the link does, under its own name, and nothing else. Pure.
//!
//! The name comes from the connection by policy variable, so one policy serves a fleet and no gateway can speak for another.
//! `docs/operations.md` shows the same as a table; the tests hold it against the topics of the link.

use serde_json::{Value, json};

/// The client id and thing name of whoever is connected.
const THING: &str = "${iot:Connection.Thing.ThingName}";

/// The policy for resources of `scope` (`arn:PARTITION:iot:REGION:ACCOUNT`), the rule `rule` and a role alias.
pub fn document(scope: &str, rule: &str, role_alias: Option<&str>) -> Value {
    let own = format!("$aws/things/{THING}");
    let topic = |name: &str| format!("{scope}:topic/{name}");
    let filter = |name: &str| format!("{scope}:topicfilter/{name}");
    let requests = ["shadow/name/policy/get", "shadow/name/policy/update", "jobs/*", "defender/metrics/*"];
    let publish = requests
        .iter()
        .map(|request| topic(&format!("{own}/{request}")))
        .chain([topic(&format!("$aws/rules/{rule}/tidegate/{THING}/*"))])
        .collect::<Vec<_>>();
    let heard = ["shadow/name/policy/*", "jobs/*", "defender/metrics/*"];
    let mut document = json!({
        "Version": "2012-10-17",
        "Statement": [
            { "Effect": "Allow", "Action": "iot:Connect", "Resource": format!("{scope}:client/{THING}") },
            { "Effect": "Allow", "Action": "iot:Publish", "Resource": publish },
            {
                "Effect": "Allow",
                "Action": ["iot:Publish", "iot:RetainPublish"],
                "Resource": topic(&format!("tidegate/{THING}/presence")),
            },
            {
                "Effect": "Allow",
                "Action": "iot:Subscribe",
                "Resource": heard.map(|name| filter(&format!("{own}/{name}"))),
            },
            {
                "Effect": "Allow",
                "Action": "iot:Receive",
                "Resource": heard.map(|name| topic(&format!("{own}/{name}"))),
            },
        ],
    });
    if let (Some(alias), Some(statements)) = (role_alias, document["Statement"].as_array_mut()) {
        let alias = format!("{scope}:rolealias/{alias}");
        statements
            .push(json!({ "Effect": "Allow", "Action": "iot:AssumeRoleWithCertificate", "Resource": alias }));
    }
    document
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a malformed document is the test's failure")]

    use super::*;
    use crate::{
        fleet::{defender::Format, topics::Topics},
        store::MessageKind,
    };

    /// Whether `document` lets thing `gate` do `action` to `resource`.
    fn allows(document: &Value, action: &str, resource: &str) -> bool {
        let list = |value: &Value| match value {
            Value::Array(list) => list.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
            value => value.as_str().map(ToOwned::to_owned).into_iter().collect::<Vec<_>>(),
        };
        document["Statement"].as_array().unwrap().iter().any(|statement| {
            list(&statement["Action"]).iter().any(|allowed| allowed == action)
                && list(&statement["Resource"]).iter().any(|allowed| {
                    let allowed = allowed.replace(THING, "gate");
                    match allowed.strip_suffix('*') {
                        Some(start) => resource.starts_with(start),
                        None => allowed == resource,
                    }
                })
        })
    }

    #[test]
    fn the_link_may_do_what_it_does_and_nothing_under_another_name() {
        let scope = "arn:aws:iot:eu-central-1:123456789012";
        let with_alias = document(scope, "reports", Some("gateways"));
        let alias = format!("{scope}:rolealias/gateways");
        assert!(allows(&with_alias, "iot:AssumeRoleWithCertificate", &alias));
        let document = document(scope, "reports", None);
        assert!(!allows(&document, "iot:AssumeRoleWithCertificate", &alias));
        let may = |action: &str, kind: &str, name: &str| {
            allows(&document, action, &format!("{scope}:{kind}/{name}"))
        };
        let (own, other) = (Topics::new("gate", "reports"), Topics::new("other", "reports"));
        assert!(may("iot:Connect", "client", "gate") && !may("iot:Connect", "client", "other"));
        for kind in MessageKind::ALL {
            assert!(may("iot:Publish", "topic", &own.report(kind)));
            assert!(!may("iot:Publish", "topic", &other.report(kind)));
            assert!(!may("iot:Publish", "topic", &Topics::new("gate", "another").report(kind)));
        }
        assert!(may("iot:RetainPublish", "topic", &own.presence()));
        assert!(!may("iot:RetainPublish", "topic", &own.shadow("update")));
        for topic in [
            own.shadow("get"),
            own.shadow("update"),
            own.jobs("$next/get"),
            own.jobs("some-id/update"),
            own.defender(Format::Cbor),
        ] {
            assert!(may("iot:Publish", "topic", &topic), "{topic}");
        }
        for topic in own.subscriptions() {
            assert!(may("iot:Subscribe", "topicfilter", &topic) && may("iot:Receive", "topic", &topic));
        }
        for topic in other.subscriptions() {
            assert!(!may("iot:Subscribe", "topicfilter", &topic) && !may("iot:Receive", "topic", &topic));
        }
        assert!(!may("iot:Subscribe", "topicfilter", "#"));
    }
}
