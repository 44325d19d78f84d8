//! Which commands an operator allows: verbs by device and sender, ranges and values of parameters, hours, rates. Pure.
//!
//! Without rules every command may be given. With rules, a command must fit one of them wholly: one for its device and sender
//! that names its verb, with every parameter it has within limits.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    body::{Body, Term},
    clock::WallClock,
};
use crate::{messages::reason::Reason, policy::KeyId, text::serde_as_text};

/// Commands that a device may be given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// Devices it is for, as topics name them; `*` stands for any characters. Empty for every device.
    pub device: String,
    /// Identities that may send; empty for everyone whom the topic rules let.
    pub senders: Vec<String>,
    /// Names of the keys that may sign; empty for every trusted one.
    pub keys: Vec<String>,
    /// Verbs, `*` as above; empty for every one.
    pub verbs: Vec<String>,
    /// Parameters that a command may have, with their limits; empty for any.
    pub params: BTreeMap<String, Limit>,
    /// Times of day where the gateway stands, such as `06:00-22:00`; empty for always.
    pub hours: Vec<Hours>,
    /// Commands by this rule that one device may be given within a minute; none for any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_minute: Option<u32>,
}

/// What a parameter may be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limit {
    /// The least number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The greatest number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// The only values; empty for any within the range.
    pub values: Vec<Allowed>,
}

/// A value that is allowed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Allowed {
    /// Truth.
    Flag(bool),
    /// A number.
    Number(f64),
    /// A text.
    Word(String),
}

impl Limit {
    fn allows(&self, term: &Term) -> bool {
        let is_listed = self.values.is_empty()
            || self.values.iter().any(|allowed| match (allowed, term) {
                (Allowed::Flag(flag), Term::Word(word)) => *word == flag.to_string(),
                (Allowed::Number(allowed), Term::Number(number)) => allowed.total_cmp(number).is_eq(),
                (Allowed::Word(allowed), Term::Word(word)) => allowed == word,
                _ => false,
            });
        let is_within = match term {
            Term::Number(number) => {
                self.min.is_none_or(|min| *number >= min) && self.max.is_none_or(|max| *number <= max)
            }
            // A range is a range of numbers.
            Term::Word(_) => self.min.is_none() && self.max.is_none(),
        };
        is_listed && is_within
    }
}

/// A time of every day, in minutes from midnight as clocks on the wall show it; over midnight when it ends before it begins. What
/// clocks show twice on one day is within twice, and what they leave out on another does not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    from: u16,
    to: u16,
}

impl Hours {
    /// Whether a minute of the day is one of these.
    pub const fn contains(self, minute: u16) -> bool {
        if self.from <= self.to {
            self.from <= minute && minute < self.to
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

/// The text names no time of day.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no time of day; write one such as `06:00-22:00`")]
pub struct HoursError(String);

impl FromStr for Hours {
    type Err = HoursError;

    fn from_str(text: &str) -> Result<Self, HoursError> {
        let minute = |text: &str| -> Option<u16> {
            let (hours, minutes) = text.trim().split_once(':')?;
            let is_number = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            let (hours, minutes) =
                (is_number(hours).then_some(hours)?, is_number(minutes).then_some(minutes)?);
            let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
            let minute = hours * 60 + minutes;
            (minutes < 60 && minute <= 24 * 60).then_some(minute)
        };
        text.split_once('-')
            .and_then(|(from, to)| Some(Self { from: minute(from)?, to: minute(to)? }))
            .ok_or_else(|| HoursError(text.to_owned()))
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

serde_as_text!(Hours);

/// A command and where it comes from.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The device it is for.
    pub device: &'a str,
    /// Who sends it.
    pub sender: &'a str,
    /// Who signed it.
    pub key: Option<KeyId>,
    /// What it says.
    pub body: &'a Body,
    /// Minute of the day that `clock` shows.
    pub minute: u16,
    /// What hours are by.
    pub clock: &'a WallClock,
}

/// The rule that allows a command, by its place; `None` where there are no rules. Otherwise what speaks against it, the nearest
/// rule's word: the one that fits furthest.
pub fn judge(
    rules: &[Rule],
    asked: &Asked<'_>,
    given: impl Fn(usize) -> u32,
) -> Result<Option<usize>, (Reason, String)> {
    if rules.is_empty() {
        return Ok(None);
    }
    let mut nearest = (Reason::CommandVerb, format!("no rule is for device {:?}", asked.device));
    let mut furthest = 0;
    for (place, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.is_for(asked.device)) {
        match rule.judge(asked, given(place)) {
            Ok(()) => return Ok(Some(place)),
            Err((step, reason, cause)) if step > furthest => {
                furthest = step;
                nearest = (reason, cause);
            }
            Err(_) => {}
        }
    }
    Err(nearest)
}

impl Rule {
    fn is_for(&self, device: &str) -> bool {
        self.device.is_empty() || fits(&self.device, device)
    }

    /// What speaks against a command, and how far it came.
    fn judge(&self, asked: &Asked<'_>, given: u32) -> Result<(), (u8, Reason, String)> {
        let verb = &asked.body.verb;
        if !self.senders.is_empty() && !self.senders.iter().any(|sender| sender == asked.sender) {
            let cause = format!("{:?} may not command {:?}", asked.sender, asked.device);
            return Err((1, Reason::CommandSender, cause));
        }
        let key = asked.key.map(|key| key.to_string());
        if !self.keys.is_empty() && !key.as_ref().is_some_and(|key| self.keys.contains(key)) {
            let shown = key.unwrap_or_else(|| "no key".to_owned());
            return Err((1, Reason::CommandSender, format!("{shown} may not command {:?}", asked.device)));
        }
        if !self.verbs.is_empty() && !self.verbs.iter().any(|allowed| fits(allowed, verb)) {
            return Err((2, Reason::CommandVerb, format!("{:?} may not be told to {verb:?}", asked.device)));
        }
        if !self.params.is_empty() {
            for (name, term) in &asked.body.params {
                match self.params.get(name) {
                    Some(limit) if limit.allows(term) => {}
                    Some(_) => {
                        let cause = format!("{name} = {term} of {verb:?} is outside what is allowed");
                        return Err((3, Reason::CommandParameter, cause));
                    }
                    None => {
                        let cause = format!("{verb:?} may have no parameter {name:?}");
                        return Err((3, Reason::CommandParameter, cause));
                    }
                }
            }
        }
        let Asked { minute, clock, .. } = asked;
        if !self.hours.is_empty() && !self.hours.iter().any(|hours| hours.contains(*minute)) {
            let cause = format!("{verb:?} is not allowed at {:02}:{:02} ({clock})", minute / 60, minute % 60);
            return Err((4, Reason::CommandHours, cause));
        }
        if let Some(most) = self.per_minute.filter(|most| given >= *most) {
            let cause = format!("{:?} was given {most} such commands within a minute", asked.device);
            return Err((5, Reason::CommandRate, cause));
        }
        Ok(())
    }
}

/// Whether `text` is what `pattern` stands for; `*` stands for any characters, none included.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(before) = last.replace(part) {
            let Some((_, after)) = rest.split_once(before) else { return false };
            rest = after;
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
