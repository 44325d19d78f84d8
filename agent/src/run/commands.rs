//! The loop's side of commands: takes up what earlier runs saw, learns habits, writes down what must not be forgotten, tells of what was
//! refused or held, and carries out what operators order. The guard never waits for any of it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{
    answer::Answer,
    gateway::{Gateway, now},
};
use crate::{
    api::{
        Operator, Refusal,
        view::{CommandsView, EventKind, HeldCommandView, HeldState},
    },
    config::Config,
    datapath,
    enforce::Now,
    learn::{Finding, Subject},
    messages::{
        Reason,
        commands::{Changes, Desk, Habit, Held, Notice, Window, id_of, id_text},
    },
    store::{Durability, Store, StoreError},
};

/// How long after the last word on record signed commands are taken.
const ON_RECORD: SignedDuration = SignedDuration::from_secs(2 * super::HOUSEKEEPING_EVERY.as_secs() as i64);
/// Confidence of a finding about a command: told, and not acted upon by itself.
const CONFIDENCE: f64 = 0.5;

/// The desk of a gateway, with what earlier runs saw and remembered.
pub(super) fn open(config: &Config, store: &Store, now: Timestamp) -> Result<Desk, StoreError> {
    let settings = config.command_settings();
    let desk = Desk::default();
    let stored = store.commands()?;
    let closed_before = match stored.ended {
        Some((_, true)) => None,
        // Signers whose clocks are ahead may have issued until then what was seen and not written down.
        Some((alive, false)) => Some(now.max(on_record(alive))),
        None => Some(now),
    };
    let closed_before = closed_before.map(|then| then.saturating_add(settings.skew).unwrap_or(then));
    let mut histories = stored.histories;
    histories.truncate(settings.devices);
    desk.restore(Window::restore(stored.seen, &stored.floors), closed_before, histories, stored.held);
    store.batch(Durability::Disk, |store| store.save_commands_alive(now, false))?;
    desk.record_until(on_record(now));
    Ok(desk)
}

fn on_record(alive: Timestamp) -> Timestamp {
    alive.saturating_add(ON_RECORD).unwrap_or(alive)
}

impl Gateway {
    /// Once a second: what was seen is written down, habits are learned, and what waited too long is told.
    pub(super) fn tend_commands(&mut self, now: Now) {
        let Some(desk) = self.desk() else { return };
        let tick = desk.tick(now.wall);
        if !tick.seen.is_empty() || tick.changes != Changes::default() {
            let saved = self.store.batch(Durability::Disk, |store| {
                store.save_commands_seen(&tick.seen)?;
                store.save_commands_held(&tick.changes)
            });
            if saved.is_ok() {
                desk.written(&tick);
            }
            self.stored(saved);
        }
        for (device, history) in tick.due {
            if let Some(habit) = Habit::learn(&history) {
                desk.learned(&device, habit);
            }
        }
        for (id, held) in tick.expired {
            let message = format!("{} waited too long for an operator and is gone", named(id, &held));
            self.tell(EventKind::Alarm, message, None, None);
        }
        for (id, held) in tick.interrupted {
            let message = format!(
                "{} was released, and the gateway ended before it was known to be delivered; look at the device, then release it again or drop it",
                named(id, &held)
            );
            tracing::warn!("{message}");
            self.tell(EventKind::Alarm, message, None, None);
        }
    }

    /// Twice a minute and at the end: histories, floors, and that all this is known until now.
    pub(super) fn save_commands(&mut self, now: Now, is_end: bool) {
        let Some(desk) = self.desk() else { return };
        let floors = desk.trim(now.wall);
        let (changed, devices) = (desk.take_changed(), desk.devices());
        if is_end {
            self.tend_commands(now);
        }
        let saved = self.store.batch(Durability::Disk, |store| {
            store.save_command_floors(&floors)?;
            for (device, history) in &changed {
                store.save_command_history(device, history)?;
            }
            store.retain_command_histories(&devices)?;
            store.save_commands_alive(now.wall, is_end)
        });
        if saved.is_ok() {
            desk.record_until(on_record(now.wall));
        }
        self.stored(saved);
    }

    fn desk(&self) -> Option<std::sync::Arc<Desk>> {
        self.messages.as_ref().map(|messages| std::sync::Arc::clone(&messages.commands))
    }

    /// A command was refused or held.
    pub(super) fn on_command(&mut self, notice: &Notice) {
        if notice.held.is_some() {
            // On record at once, so that it waits whatever becomes of this process.
            self.tend_commands(now());
            let message = format!("a command of {:?}: {}", notice.sender, notice.why);
            self.tell(EventKind::Alarm, message, None, None);
        }
        self.judge(self.finding_of_command(notice));
    }

    fn finding_of_command(&self, notice: &Notice) -> Finding {
        let at_ns = datapath::now_ns();
        let what = if notice.held.is_some() { "held" } else { "refused" };
        let is_unusual = matches!(notice.reason, Reason::CommandHeld | Reason::CommandUnusual);
        Finding {
            subject: self
                .registry
                .resolve(notice.source)
                .map_or(Subject::Remote(notice.source), Subject::Device),
            victim: None,
            technique: notice.technique,
            rule: Some(if is_unusual { "command-habit" } else { "command-check" }),
            score: CONFIDENCE,
            p_value: notice.p_value.max(1e-6),
            first_ns: at_ns,
            at_ns,
            detail: format!(
                "a command of {:?} for {:?} was {what} ({}): {}",
                notice.sender,
                notice.device,
                notice.reason.name(),
                notice.why
            ),
            notes: notice.notes.clone(),
        }
    }

    /// A released command got to the broker, or did not. Either is on record at once.
    pub(super) fn on_released(&mut self, id: u64, error: Option<String>) {
        self.tend_commands(now());
        let id = id_text(id);
        let (kind, message) = match error {
            None => (EventKind::Lifecycle, format!("command {id} was released and delivered")),
            Some(cause) => (EventKind::Alarm, format!("command {id} waits again: {cause}")),
        };
        self.tell(kind, message, None, None);
    }

    /// What waits, and what was done so far.
    pub(super) fn commands_view(&self) -> Answer<CommandsView> {
        let desk = self.desk().ok_or_else(off)?;
        let held = desk.held(|id, held| view(id, held, now().wall));
        Ok(CommandsView::of(desk.tally(), held))
    }

    /// One held command.
    pub(super) fn held_command(&self, id: &str) -> Answer<HeldCommandView> {
        let desk = self.desk().ok_or_else(off)?;
        let now = now().wall;
        let found = desk.held(|known, held| (Some(known) == id_of(id)).then(|| view(known, held, now)));
        found.into_iter().flatten().next().ok_or_else(|| unknown(id))
    }

    /// Lets a held command go on.
    pub(super) fn release_command(&mut self, id: &str, who: &Operator) -> Answer<HeldCommandView> {
        self.end_hold(
            id,
            who,
            "released",
            |held, number| {
                // Not forgotten before it is delivered: an end in between is told after the next start.
                let released = held.with_released(Some(now().wall));
                Changes { held: vec![(number, released)], gone: Vec::new() }
            },
            Desk::release,
        )
    }

    /// Takes a held command away for good.
    pub(super) fn drop_command(&mut self, id: &str, who: &Operator) -> Answer<HeldCommandView> {
        self.end_hold(
            id,
            who,
            "dropped",
            |_, number| Changes { held: Vec::new(), gone: vec![number] },
            |desk, number| {
                desk.forgotten(number);
                desk.drop_held(number)
            },
        )
    }

    fn end_hold(
        &mut self,
        id: &str,
        who: &Operator,
        what: &str,
        record: impl Fn(Held, u64) -> Changes,
        end: impl Fn(&Desk, u64) -> Option<Held>,
    ) -> Answer<HeldCommandView> {
        let desk = self.desk().ok_or_else(off)?;
        let now = now();
        // One whose time is over must not go on because nobody has looked yet.
        self.tend_commands(now);
        let number = id_of(id).ok_or_else(|| unknown(id))?;
        let changes = record(desk.find(number).ok_or_else(|| unknown(id))?, number);
        let recorded = self.store.batch(Durability::Disk, |store| store.save_commands_held(&changes));
        if let Err(error) = &recorded {
            let why = format!("{error}; {id} waits as before, for nobody could say later that it was {what}");
            self.stored(recorded);
            return Err(Refusal::unavailable(&why, "make the state directory writable, then try again"));
        }
        let held = end(&desk, number).ok_or_else(|| unknown(id))?;
        tracing::info!(command = id, %who, "held command {what}");
        Ok(view(number, &held, now.wall))
    }
}

fn off() -> Refusal {
    Refusal::unavailable("the MQTT guard is off", "set messages.listen and commands.topics")
}

fn unknown(id: &str) -> Refusal {
    Refusal::not_found(format!("no held command is called {id}"), "`tidegate commands list` shows what waits")
}

fn named(id: u64, held: &Held) -> String {
    format!("command {} of {:?} ({:?} for {:?})", id_text(id), held.sender, held.verb, held.device)
}

fn view(id: u64, held: &Held, now: Timestamp) -> HeldCommandView {
    HeldCommandView {
        id: id_text(id),
        topic: held.topic.clone(),
        device: held.device.clone(),
        sender: held.sender.clone(),
        command: held.signed.as_ref().map(|(id, _)| id.clone()),
        key: held.signed.as_ref().map(|(_, key)| key.clone()),
        verb: held.verb.clone(),
        params: held.params.iter().cloned().collect(),
        since: held.since,
        left_s: Duration::try_from(held.until.duration_since(now)).unwrap_or_default().as_secs(),
        p_value: held.p_value,
        why: held.why.clone(),
        state: if held.released.is_some() { HeldState::Interrupted } else { HeldState::Waiting },
    }
}
