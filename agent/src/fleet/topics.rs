//! Topics of a gateway at AWS IoT Core. `docs/operations.md` lists them for whoever writes the thing's policy.

use super::defender::Format;
use crate::store::MessageKind;

/// The topics of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    thing: String,
    rule: String,
}

impl Topics {
    /// Topics of `thing`, whose reports go to the rule `rule`.
    pub fn new(thing: &str, rule: &str) -> Self {
        Self { thing: thing.to_owned(), rule: rule.to_owned() }
    }

    /// Where a report goes: straight to the rule (Basic Ingest), which costs no message.
    pub fn report(&self, kind: MessageKind) -> String {
        format!("$aws/rules/{}/tidegate/{}/{}", self.rule, self.thing, kind.name())
    }

    /// Where presence is retained.
    pub fn presence(&self) -> String {
        format!("tidegate/{}/presence", self.thing)
    }

    /// A topic of the shadow named `policy`.
    pub fn shadow(&self, what: &str) -> String {
        format!("$aws/things/{}/shadow/name/policy/{what}", self.thing)
    }

    /// A topic of the thing's jobs.
    pub fn jobs(&self, what: &str) -> String {
        format!("$aws/things/{}/jobs/{what}", self.thing)
    }

    /// Where metrics for Device Defender go, and below which they are answered.
    pub fn defender(&self, format: Format) -> String {
        format!("$aws/things/{}/defender/metrics/{}", self.thing, format.name())
    }

    /// Everything that is subscribed to, whatever is configured.
    pub fn subscriptions(&self) -> Vec<String> {
        let shadow = ["get/accepted", "update/delta"].iter().map(|what| self.shadow(what));
        shadow.chain(["notify-next", "$next/get/accepted"].iter().map(|what| self.jobs(what))).collect()
    }
}
