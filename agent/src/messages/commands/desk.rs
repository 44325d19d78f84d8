//! Where every command is judged, and what the guard and the loop share of it.
//!
//! The guard asks [`Desk::judge`]; the loop takes what there is to learn, to write down and to tell. Both hold the lock for
//! computing and copying alone, never over IO, the store or training, so neither waits for the other's work.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::{
    Incoming, Notice, Route, Settings, Verdict,
    body::Body,
    device::Devices,
    habit::{Fact, Habit, Opinion},
    held::{Changes, Held, Shelf},
    id_text,
    reading::{Denied, Read, Reader, denied},
    replay::{Seen, Window},
    rules::{self, Asked},
};
use crate::{
    learn::Technique,
    messages::reason::Reason,
    policy::{KeyId, TrustAnchors},
};

/// Notices of refusals in one second; more are only counted.
const NOTICES: u32 = 10;
/// Habits learned in one turn of the loop.
const LEARNED: usize = 2;

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Commands that went on.
    pub passed: u64,
    /// Commands that wait now.
    pub waiting: u64,
    /// Commands that were held.
    pub held: u64,
    /// Of these, released.
    pub released: u64,
    /// Of these, dropped by an operator.
    pub dropped: u64,
    /// Of these, waited too long.
    pub expired: u64,
    /// Commands that an earlier run released and that nobody knows to be delivered.
    pub interrupted: u64,
    /// Devices that commands were for.
    pub devices: u64,
    /// Of these, with a known habit.
    pub known: u64,
}

/// What the loop has to do.
#[derive(Debug, Default)]
pub struct Tick {
    /// Held commands whose time is over.
    pub expired: Vec<(u64, Held)>,
    /// Commands that an earlier run released and that nobody knows to be delivered; each is told once.
    pub interrupted: Vec<(u64, Held)>,
    /// Commands to be written down.
    pub seen: Vec<Seen>,
    /// Held commands to be written down or forgotten.
    pub changes: Changes,
    /// Histories that [`Habit`]s are to be learned from.
    pub due: Vec<(String, Vec<Fact>)>,
}

/// Judges commands; none before it is told which topics have them.
#[derive(Debug, Default)]
pub struct Desk {
    is_on: AtomicBool,
    state: Mutex<State>,
    /// Something was released.
    pub(crate) released: Notify,
}

#[derive(Debug, Default)]
struct State {
    settings: Arc<Settings>,
    anchors: Option<TrustAnchors>,
    window: Window,
    /// Until when what is seen will be known of after any end; none when nobody keeps records.
    recorded_until: Option<Timestamp>,
    devices: Devices,
    shelf: Shelf,
    outgoing: VecDeque<(u64, Held)>,
    interrupted: Vec<(u64, Held)>,
    tally: Tally,
    /// The second that notices are counted in, and how many there were.
    noticed: (i64, u32),
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked while holding it has not left half a change that matters.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges by `settings` from now on.
    pub fn configure(&self, settings: &Arc<Settings>) {
        let mut state = self.state();
        if state.settings.rules != settings.rules {
            state.devices.iter_mut().for_each(|(_, device)| device.forget_rules());
        }
        state.settings = Arc::clone(settings);
        self.is_on.store(!settings.topics.is_empty(), Ordering::Relaxed);
    }

    /// Believes these signers from now on.
    pub fn trust(&self, anchors: Option<TrustAnchors>) {
        self.state().anchors = anchors;
    }

    /// Whether `topic` is one of commands.
    pub(crate) fn is_command(&self, topic: &str) -> bool {
        self.is_on.load(Ordering::Relaxed) && self.state().settings.route(topic).is_some()
    }

    /// What becomes of a message, and what is to be told of it; `None` for one that is no command.
    pub(crate) fn judge(
        &self,
        incoming: &Incoming<'_>,
        now: Timestamp,
    ) -> Option<(Verdict, Option<Box<Notice>>)> {
        if !self.is_on.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.state();
        let settings = Arc::clone(&state.settings);
        let route = settings.route(incoming.topic)?;
        Some(match state.judge(&settings, incoming, route, now) {
            Ok((verdict, notice)) => (verdict, notice.map(Box::new)),
            Err(Denied { reason, why }) => {
                tracing::debug!(
                    topic = incoming.topic,
                    sender = incoming.sender,
                    reason = reason.name(),
                    why,
                    "command refused"
                );
                let notice = state.may_tell(reason, now).then(|| {
                    let technique = match reason {
                        Reason::CommandParameter => Technique::MODIFIED_PARAMETER,
                        _ => Technique::FOREIGN_COMMAND,
                    };
                    Box::new(notice(incoming, route, (reason, technique), why))
                });
                (Verdict::Refuse(reason), notice)
            }
        })
    }

    /// Takes up what earlier runs saw, remembered and held. After an unclean end, `closed_before` is the time before which a command may
    /// have been seen and not been written down. What an earlier run released waits again, and goes on only when it is released again.
    pub fn restore(
        &self,
        window: Window,
        closed_before: Option<Timestamp>,
        histories: Vec<(String, Vec<Fact>)>,
        held: Vec<(u64, Held)>,
    ) {
        let mut state = self.state();
        state.window = window;
        if let Some(then) = closed_before {
            state.window.close_before(then);
        }
        for (name, history) in histories {
            state.devices.restore(name, history);
        }
        state.interrupted = held.iter().filter(|(_, held)| held.released.is_some()).cloned().collect();
        state.tally.interrupted += state.interrupted.len() as u64;
        state.shelf.restore(held);
    }

    /// What the loop has to do now.
    pub fn tick(&self, now: Timestamp) -> Tick {
        let mut state = self.state();
        let settings = Arc::clone(&state.settings);
        let interrupted = std::mem::take(&mut state.interrupted);
        let expired = state.shelf.expire(now);
        state.tally.expired += expired.len() as u64;
        let due = state.devices.take_due(settings.learn_after, LEARNED);
        let (seen, changes) = (state.window.unwritten().to_vec(), state.shelf.changes());
        Tick { expired, interrupted, seen, changes, due }
    }

    /// It is on record that commands may be taken until then. Later ones are not, until this is said anew: after an end that
    /// nobody could prepare for, they could pass again.
    pub fn record_until(&self, then: Timestamp) {
        self.state().recorded_until = Some(then);
    }

    /// What [`Self::tick`] gave is written down.
    pub fn written(&self, tick: &Tick) {
        let mut state = self.state();
        state.window.written(tick.seen.len());
        state.shelf.recorded(&tick.changes);
    }

    /// One held command is on record no more, before it is dropped: so no end brings it back.
    pub fn forgotten(&self, id: u64) {
        self.state().shelf.recorded(&Changes { held: Vec::new(), gone: vec![id] });
    }

    /// A habit was learned.
    pub fn learned(&self, device: &str, habit: Habit) {
        if let Some(device) = self.state().devices.known(device) {
            device.habit = Some(habit);
        }
    }

    /// Histories that have changed since the last call.
    pub fn take_changed(&self) -> Vec<(String, Vec<Fact>)> {
        self.state().devices.take_changed()
    }

    /// Devices that are remembered.
    pub fn devices(&self) -> Vec<String> {
        self.state().devices.iter_mut().map(|(name, _)| name.clone()).collect()
    }

    /// Forgets nonces that can no longer be valid; the floors that stand for them.
    pub fn trim(&self, now: Timestamp) -> std::collections::BTreeMap<KeyId, Timestamp> {
        let mut state = self.state();
        let life = state.settings.life;
        state.window.trim(now, life);
        state.window.floors()
    }

    /// What `view` makes of every held command, oldest first.
    pub fn held<T>(&self, mut view: impl FnMut(u64, &Held) -> T) -> Vec<T> {
        self.state().shelf.iter().map(|(id, held)| view(id, held)).collect()
    }

    /// The held command of this name.
    pub fn find(&self, id: u64) -> Option<Held> {
        self.state().shelf.iter().find(|(known, _)| *known == id).map(|(_, held)| held.clone())
    }

    /// Lets a held command go on that is on record as released, so that no end makes it pass twice; the device learns that it is normal.
    /// `None` when none is called so.
    pub fn release(&self, id: u64) -> Option<Held> {
        let mut state = self.state();
        let held = state.shelf.send(id)?;
        let fact = held.fact.clone();
        if let Some(device) = state.devices.known(&held.device) {
            device.teach(fact);
        }
        state.tally.released += 1;
        state.outgoing.push_back((id, held.clone()));
        self.released.notify_one();
        Some(held)
    }

    /// Takes a held command away for good.
    pub fn drop_held(&self, id: u64) -> Option<Held> {
        let mut state = self.state();
        let held = state.shelf.take(id)?;
        state.tally.dropped += 1;
        Some(held)
    }

    /// The next released command that the broker is to be given.
    pub(crate) fn next_released(&self) -> Option<(u64, Held)> {
        self.state().outgoing.pop_front()
    }

    /// A released command got to the broker; its record is to be forgotten.
    pub(crate) fn delivered(&self, id: u64) {
        self.state().shelf.delivered(id);
    }

    /// A released command did not get to the broker; it waits again.
    pub(crate) fn put_back(&self, id: u64, held: Held) {
        let mut state = self.state();
        state.tally.released = state.tally.released.saturating_sub(1);
        state.shelf.put_back(id, held);
    }

    /// What was done so far.
    pub fn tally(&self) -> Tally {
        let state = self.state();
        let (devices, known) = state.devices.count();
        Tally {
            waiting: state.shelf.len() as u64,
            devices: devices as u64,
            known: known as u64,
            ..state.tally
        }
    }
}

impl State {
    fn judge(
        &mut self,
        settings: &Settings,
        incoming: &Incoming<'_>,
        route: Route<'_>,
        now: Timestamp,
    ) -> Result<(Verdict, Option<Notice>), Denied> {
        if incoming.retain {
            return denied(Reason::CommandRetained, "the broker would give it to the device again and again");
        }
        let reader = Reader {
            settings,
            anchors: self.anchors.as_ref(),
            window: &self.window,
            recorded_until: self.recorded_until,
        };
        let read = reader.read(incoming.payload, route, now)?;
        let Some(device) = self.devices.get(route.device, settings.devices, now) else {
            return denied(Reason::CommandRoom, "more devices are given commands than commands.devices");
        };
        let key = read.signed.as_ref().map(|(_, key)| *key);
        let (clock, sender) = (&settings.clock, incoming.sender);
        let minute = clock.minute_of_day(now);
        let asked = Asked { device: route.device, sender, key, body: &read.body, minute, clock };
        let rule = rules::judge(&settings.rules, &asked, |place| device.given(place, now))
            .map_err(|(reason, why)| Denied { reason, why })?;
        let fact = Fact::of(&read.body, incoming.sender, incoming.payload.len(), now);
        let opinion = device.habit.as_ref().map(|habit| {
            habit.judge((&fact, &read.body, incoming.sender), device.history.iter(), settings.rate)
        });
        let is_vouched = || device.history.iter().any(|known| known.vouches_for(&fact));
        let unusual = opinion.filter(|opinion| opinion.is_unusual && !is_vouched());
        let Some(opinion) = unusual else {
            device.pass(fact, rule);
            self.tally.passed += 1;
            self.note(read.seen, settings, now);
            return Ok((Verdict::Pass, None));
        };
        let technique =
            if opinion.by_parameter { Technique::MODIFIED_PARAMETER } else { Technique::FOREIGN_COMMAND };
        let why = explain(&read.body, route.device, &opinion);
        let mut told = notice(incoming, route, (Reason::CommandUnusual, technique), why);
        (told.p_value, told.notes) = (opinion.p_value, opinion.notes);
        if settings.hold {
            let seen = read.seen;
            let held = held(settings, incoming, (route, read), fact, &told, now);
            if let Some(id) = self.shelf.put(held, settings.held) {
                self.note(seen, settings, now);
                self.tally.held += 1;
                (told.held, told.reason) = (Some(id), Reason::CommandHeld);
                told.why += "; it is held as ";
                told.why += &id_text(id);
                return Ok((Verdict::Hold(id), Some(told)));
            }
            told.why += "; there is no room to hold it";
        }
        Ok((Verdict::Refuse(Reason::CommandUnusual), Some(told)))
    }

    fn note(&mut self, seen: Option<Seen>, settings: &Settings, now: Timestamp) {
        if let Some(seen) = seen {
            self.window.note(seen, now, settings.life);
        }
    }

    /// Whether a refusal is worth a word of its own, and there is room for one in this second.
    fn may_tell(&mut self, reason: Reason, now: Timestamp) -> bool {
        if matches!(reason, Reason::CommandRate | Reason::CommandRoom | Reason::CommandFormat) {
            return false;
        }
        let second = now.as_second();
        if self.noticed.0 != second {
            self.noticed = (second, 0);
        }
        self.noticed.1 += 1;
        self.noticed.1 <= NOTICES
    }
}

fn notice(
    incoming: &Incoming<'_>,
    route: Route<'_>,
    (reason, technique): (Reason, Technique),
    why: String,
) -> Notice {
    Notice {
        source: incoming.source,
        sender: incoming.sender.to_owned(),
        device: route.device.to_owned(),
        reason,
        technique,
        held: None,
        why,
        p_value: 0.0,
        notes: Vec::new(),
    }
}

fn held(
    settings: &Settings,
    incoming: &Incoming<'_>,
    (route, read): (Route<'_>, Read),
    fact: Fact,
    told: &Notice,
    now: Timestamp,
) -> Held {
    let until = now.saturating_add(settings.hold_for).unwrap_or(now);
    Held {
        topic: incoming.topic.to_owned(),
        device: route.device.to_owned(),
        sender: incoming.sender.to_owned(),
        signed: read.signed.map(|(id, key)| (id, key.to_string())),
        verb: read.body.verb,
        params: read.body.params.into_iter().map(|(name, term)| (name, term.to_string())).collect(),
        since: now,
        until: read.expires.map_or(until, |expires| until.min(expires)),
        p_value: told.p_value,
        why: told.why.clone(),
        released: None,
        fact,
        packet: incoming.packet.to_vec(),
        version: incoming.version,
    }
}

fn explain(body: &Body, device: &str, opinion: &Opinion) -> String {
    let mut text =
        format!("{:?} of {device:?} is unlike its normal commands (p = {:.1e})", body.verb, opinion.p_value);
    let mut add = |words: &str| {
        text += ": ";
        text += words;
    };
    if opinion.novelties.is_empty() {
        let words: Vec<String> = opinion.notes.iter().map(ToString::to_string).collect();
        if !words.is_empty() {
            add(&words.join("; "));
        }
    } else {
        add(&opinion.novelties.join("; "));
    }
    text
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
