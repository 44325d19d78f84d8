//! The model of one device's topic: which fields there are, what they are, and the models of their numbers.
//!
//! A topic learns for a while, then judges. Only a message in which nothing is odd trains. Fields that do not come with
//! nearly every message are optional. Something odd that goes on for longer than [`Settings::relearn_after`] is the new normal:
//! then everything is learned again.

use serde::{Deserialize, Serialize};

use super::{
    Settings, Sign,
    batch::Batch,
    episode::Episode,
    field::{Numbers, Oddity},
    joint::{Grown, Joint, Seed},
    payload::{Kind, Reading, Unreadable},
};

/// Of so many messages a field may be missing in one and is still expected in all.
const OFTEN: u32 = 50;

/// What is known of a field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Field {
    path: String,
    /// Kinds that it was seen to be, see [`Kind::bit`].
    kinds: u8,
    seen: u32,
    numbers: Numbers,
}

/// What is known of a topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Topic {
    fields: Vec<Field>,
    messages: u32,
    since_ms: u64,
    is_ready: bool,
    /// Most leaves beyond the shape that a message had.
    left_out: u32,
    /// Messages while learning that could not be read.
    unreadable: u32,
    joint: Joint,
    #[serde(skip)]
    episode: Episode,
    #[serde(skip)]
    places: Vec<Option<u16>>,
}

/// Something odd about a message.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Odd {
    pub(super) sign: Sign,
    /// The field, if it is one.
    pub(super) field: Option<String>,
    pub(super) detail: String,
    /// Whether there were several odd messages lately.
    pub(super) is_repeated: bool,
    /// Messages with this sign since all was calm.
    pub(super) count: u32,
    /// Whether it is to be told.
    pub(super) is_news: bool,
    /// P-value of the joint model, where it spoke.
    pub(super) p_value: Option<f64>,
}

/// What came of a message.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// There is not enough to judge it by yet.
    Learning,
    /// It fits.
    Normal,
    /// It does not.
    Odd(Odd),
    /// It does not, as so many before that all is learned anew.
    Relearned,
}

impl Topic {
    /// Judges a message and learns from it; `batch` gets what goes to the cloud.
    pub(super) fn message(
        &mut self,
        reading: Result<&Reading, Unreadable>,
        now_ms: u64,
        settings: &Settings,
        batch: Option<&mut Batch>,
    ) -> Outcome {
        if self.messages == 0 {
            self.since_ms = now_ms;
        }
        self.messages = self.messages.saturating_add(1);
        let found = match reading {
            Ok(reading) => {
                self.find(reading);
                if self.is_ready { self.judge(reading, now_ms) } else { None }
            }
            Err(Unreadable) if self.is_ready && self.unreadable == 0 => {
                let detail = "the payload cannot be read, as all before could".to_owned();
                Some((None, Oddity { sign: Sign::Schema, detail }, None))
            }
            Err(Unreadable) => None,
        };
        let outcome = match found {
            None => {
                self.episode.calm();
                self.learn(reading, now_ms, settings);
                if self.is_ready { Outcome::Normal } else { Outcome::Learning }
            }
            Some((field, oddity, p_value)) => self.odd(reading, field, oddity, p_value, now_ms),
        };
        if let (Some(batch), Ok(reading)) = (batch, reading) {
            let mark = if let Outcome::Odd(odd) = &outcome { Some(odd) } else { None };
            batch.add(reading, mark, now_ms, settings.readings);
        }
        let relearn_ms = settings.relearn_after.as_millis() as u64;
        if matches!(outcome, Outcome::Odd(_)) && self.episode.age_ms(now_ms) >= relearn_ms {
            *self = Self::default();
            return Outcome::Relearned;
        }
        outcome
    }

    /// Finds the leaves' places among the known fields; devices nearly always send them in the same order.
    fn find(&mut self, reading: &Reading) {
        self.places.clear();
        let mut next = 0;
        for (path, _, _) in reading.leaves() {
            let is_it = |place: &usize| self.fields.get(*place).is_some_and(|field| field.path == path);
            let place =
                Some(next).filter(is_it).or_else(|| self.fields.iter().position(|field| field.path == path));
            if let Some(place) = place {
                next = place + 1;
            }
            self.places.push(place.map(|place| place as u16));
        }
    }

    /// The gravest oddity: the field, what it is, and the p-value where the joint model spoke.
    fn judge(&mut self, reading: &Reading, now_ms: u64) -> Option<(Option<String>, Oddity, Option<f64>)> {
        let mut worst: Option<(Option<String>, Oddity, Option<f64>)> = None;
        let mut weigh = |field: Option<&str>, oddity: Oddity| {
            if worst.as_ref().is_none_or(|(_, known, _)| known.sign < oddity.sign) {
                worst = Some((field.map(str::to_owned), oddity, None));
            }
        };
        let schema = |detail: String| Oddity { sign: Sign::Schema, detail };
        let mut present = 0_u32;
        for ((path, kind, value), place) in reading.leaves().zip(&self.places) {
            let Some(field) = place.map(|place| &self.fields[usize::from(place)]) else {
                weigh(Some(path), schema(format!("is new, {}", kind.name())));
                continue;
            };
            present += u32::from(self.is_expected(field));
            if field.kinds & kind.bit() == 0 {
                weigh(Some(path), schema(format!("is {}, which it never was", kind.name())));
            } else if kind.is_number()
                && let Some(oddity) = field.numbers.judge(value, now_ms)
            {
                weigh(Some(path), oddity);
            }
        }
        if present < self.fields.iter().filter(|field| self.is_expected(field)).count() as u32 {
            let is_there = |index: usize| self.places.contains(&Some(index as u16));
            let gone = self
                .fields
                .iter()
                .enumerate()
                .find(|(index, field)| self.is_expected(field) && !is_there(*index));
            if let Some((_, field)) = gone {
                weigh(Some(&field.path), schema("is gone".to_owned()));
            }
        }
        if reading.left_out > self.left_out {
            weigh(None, schema(format!("{} leaves are more than are looked at", reading.left_out)));
        }
        if worst.is_some() {
            return worst;
        }
        let row = self.row(reading, now_ms)?;
        let strange = self.joint.judge(&row)?;
        let parts: Vec<String> = strange
            .farthest
            .iter()
            .map(|(column, deviations)| {
                format!("{} at {deviations:+.1} σ", self.fields[usize::from(*column)].path)
            })
            .collect();
        let detail = format!(
            "the fields do not fit each other (score {:.2}, p = {:.3}): {}",
            strange.score,
            strange.p_value,
            parts.join(", ")
        );
        Some((None, Oddity { sign: Sign::Joint, detail }, Some(strange.p_value)))
    }

    const fn is_expected(&self, field: &Field) -> bool {
        let missing = self.messages.saturating_sub(field.seen).saturating_sub(self.unreadable);
        missing.saturating_mul(OFTEN) <= self.messages
    }

    /// What the joint model looks at; nothing when a field is missing.
    fn row(&self, reading: &Reading, now_ms: u64) -> Option<Vec<f64>> {
        let columns = self.joint.columns();
        if columns.is_empty() {
            return None;
        }
        let mut row = vec![f64::NAN; columns.len()];
        for ((_, kind, value), place) in reading.leaves().zip(&self.places) {
            if let Some(column) = columns.iter().position(|column| Some(*column) == *place)
                && kind.is_number()
                && let Some(signal) = self.fields[usize::from(columns[column])].numbers.signal(value, now_ms)
            {
                row[column] = signal;
            }
        }
        row.iter().all(|value| value.is_finite()).then_some(row)
    }

    /// A message that fits, or that there is nothing to judge by.
    fn learn(&mut self, reading: Result<&Reading, Unreadable>, now_ms: u64, settings: &Settings) {
        let Ok(reading) = reading else {
            self.unreadable = self.unreadable.saturating_add(1);
            return;
        };
        let row = self.row(reading, now_ms);
        let mut early = vec![f64::NAN; if self.is_ready { 0 } else { self.fields.len() }];
        let mut is_anew = false;
        for (index, (path, kind, value)) in reading.leaves().enumerate() {
            let place = self.places[index].map_or(self.fields.len(), usize::from);
            if place == self.fields.len() {
                if self.fields.len() >= settings.shape.fields {
                    continue;
                }
                self.fields.push(Field { path: path.to_owned(), ..Field::default() });
            }
            let field = &mut self.fields[place];
            field.kinds |= kind.bit();
            field.seen = field.seen.saturating_add(1);
            if kind.is_number() {
                if let (Some(early), Some(signal)) =
                    (early.get_mut(place), field.numbers.signal(value, now_ms))
                {
                    *early = signal;
                }
                is_anew |= field.numbers.take(value, now_ms, &settings.learning);
            }
        }
        if let Some(row) = row {
            self.joint.take(&row);
        }
        if self.is_ready {
            return;
        }
        if is_anew {
            self.joint.forget_early();
        } else {
            self.joint.learn(&early);
        }
        self.left_out = self.left_out.max(reading.left_out);
        let learning = &settings.learning;
        if self.messages >= learning.messages && now_ms.saturating_sub(self.since_ms) >= learning.period_ms {
            self.is_ready = true;
            let numbers = Kind::Number.bit() | Kind::Quoted.bit();
            let fits = |(_, field): &(usize, &Field)| {
                field.kinds & !numbers == 0 && self.is_expected(field) && field.numbers.is_judged()
            };
            let columns =
                self.fields.iter().enumerate().filter(fits).map(|(place, _)| place as u16).collect();
            self.joint.choose(columns);
        }
    }

    fn odd(
        &mut self,
        reading: Result<&Reading, Unreadable>,
        field: Option<String>,
        oddity: Oddity,
        p_value: Option<f64>,
        now_ms: u64,
    ) -> Outcome {
        // What is missing here is missing for a reason, and must not make fields optional.
        self.messages -= 1;
        self.joint.drop_waiting();
        if let Ok(reading) = reading {
            for ((_, kind, value), place) in reading.leaves().zip(&self.places) {
                if let (Some(place), true) = (place, kind.is_number()) {
                    self.fields[usize::from(*place)].numbers.pass_by(value, now_ms);
                }
            }
        }
        let Oddity { sign, detail } = oddity;
        let is_news = self.episode.odd(sign, now_ms);
        let (is_repeated, count) = (self.episode.is_repeated(), self.episode.count(sign));
        Outcome::Odd(Odd { sign, field, detail, is_repeated, count, is_news, p_value })
    }

    /// Whether learning is over.
    pub(super) const fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Takes up what was stored; `None` when that is not as learning leaves it.
    pub(super) fn revive(mut self, most: usize) -> Option<Self> {
        let is_sound = self.fields.len() <= most
            && self.fields.iter().all(|field| field.numbers.is_sound())
            && self.joint.is_sound(self.fields.len());
        if !is_sound {
            return None;
        }
        self.joint.revive();
        Some(self)
    }

    #[cfg(test)]
    pub(super) const fn has_forest(&self) -> bool {
        self.joint.has_forest()
    }

    /// Whether a joint model is to be grown.
    pub(super) const fn is_due(&self) -> bool {
        self.joint.is_due()
    }

    /// What to grow it from, under a `number` of its own.
    pub(super) fn seed(&mut self, number: u64) -> Option<Seed> {
        self.joint.seed(number)
    }

    /// Judges by the joint model that was grown.
    pub(super) fn put(&mut self, grown: Grown) {
        self.joint.put(grown);
    }
}
