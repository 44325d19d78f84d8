//! The loop's side of the MQTT guard: starts its thread, tells it who has which address and who is cut off, and judges what it
//! reports. The guard never waits for any of it.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result};
use tidegate_common::verdict::{Action, Level};
use tokio::{
    runtime,
    sync::{mpsc, watch},
};

use super::{
    gateway::{Gateway, now},
    ledger::Record,
};
use crate::{
    api::view::EventKind,
    config::{Config, values::GatewayMode},
    datapath,
    enforce::Target,
    learn::{Finding, Subject},
    messages::{Abuse, Counters, Guard, Link, Orders, Report, commands::Desk, read, telemetry::nursery},
};

/// Reports that may wait for the loop.
const REPORTS: usize = 256;

/// A running guard.
pub(super) struct Messages {
    orders: watch::Sender<Arc<Orders>>,
    stop: watch::Sender<bool>,
    thread: Option<thread::JoinHandle<()>>,
    pub(super) counters: Arc<Counters>,
    pub(super) commands: Arc<Desk>,
}

impl Messages {
    /// Starts `guard` on a thread of its own; what it reports comes through the receiver.
    pub(super) fn start(guard: Guard, config: &Config, desk: Desk) -> Result<(Self, mpsc::Receiver<Report>)> {
        let (reports, reported) = mpsc::channel(REPORTS);
        let (orders, ordered) = watch::channel(Arc::new(orders_of(config)));
        let (stop, stopping) = watch::channel(false);
        let (counters, commands) = (Arc::<Counters>::default(), Arc::new(desk));
        let (nursery, grower) = nursery();
        let link = Link {
            reports,
            orders: ordered,
            stop: stopping,
            counters: Arc::clone(&counters),
            commands: Arc::clone(&commands),
            nursery,
        };
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the MQTT guard's runtime")?;
        let [plain, tls] = guard.addresses();
        tracing::info!(?plain, ?tls, "guarding MQTT");
        let work = move || {
            if let Err(error) = runtime.block_on(guard.serve(link)) {
                tracing::error!(%error, "the MQTT guard ended");
            }
        };
        let thread = thread::Builder::new()
            .name("mqtt-guard".to_owned())
            .spawn(work)
            .context("cannot start the MQTT guard's thread")?;
        // It ends when the guard does.
        thread::Builder::new()
            .name("telemetry".to_owned())
            .spawn(move || grower.run())
            .context("cannot start the thread that grows models of telemetry")?;
        Ok((Self { orders, stop, thread: Some(thread), counters, commands }, reported))
    }

    /// Ends the guard and the broker behind it, which saves its state.
    fn stop(&mut self) {
        // The guard may have ended by itself.
        let _ = self.stop.send(true);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the MQTT guard ended badly");
        }
    }

    /// What does not work now.
    pub(super) fn problem(&self) -> Option<String> {
        if self.thread.as_ref().is_none_or(thread::JoinHandle::is_finished) {
            return Some("the MQTT guard has ended; restart the daemon".to_owned());
        }
        (read(&self.counters.broker_down) > 0)
            .then(|| "the broker behind the MQTT guard does not run".to_owned())
    }
}

/// The next report of a guard, if one runs.
pub(super) async fn reported(reports: &mut Option<mpsc::Receiver<Report>>) -> Report {
    if let Some(receiver) = reports {
        if let Some(report) = receiver.recv().await {
            return report;
        }
        *reports = None;
    }
    std::future::pending().await
}

fn orders_of(config: &Config) -> Orders {
    Orders {
        rules: config.messages.rules.clone(),
        bindings: config.messages.bindings.clone(),
        commands: Arc::new(config.command_settings()),
        ..Orders::default()
    }
}

impl Gateway {
    /// Once a second, and when settings change: the guard is told what has changed.
    pub(super) fn order_messages(&self) {
        let Some(messages) = &self.messages else { return };
        let (cut_devices, cut_addresses) = self.cut_off();
        let orders = Orders {
            addresses: self.registry.holders().collect::<HashMap<_, _>>(),
            cut_devices,
            cut_addresses,
            ..orders_of(&self.config)
        };
        messages.orders.send_if_modified(|before| {
            let differs = **before != orders;
            if differs {
                *before = Arc::new(orders);
            }
            differs
        });
    }

    /// Whom verdicts in force leave nothing of the gateway's own services.
    fn cut_off(&self) -> (HashSet<crate::identity::Mac>, HashSet<IpAddr>) {
        let (mut devices, mut addresses) = (HashSet::new(), HashSet::new());
        if self.config.gateway.mode == GatewayMode::Monitor {
            return (devices, addresses);
        }
        for record in self.enforcer.live() {
            match (record.target, record.action, record.level) {
                (
                    Target::Device(mac),
                    Action::Isolate,
                    Some(Level::CloudOnly | Level::DhcpDnsOnly | Level::Full),
                ) => drop(devices.insert(mac)),
                (Target::Address(address), Action::Block, _) => drop(addresses.insert(address)),
                _ => {}
            }
        }
        (devices, addresses)
    }

    /// Something the guard tells.
    pub(super) fn on_message_report(&mut self, report: Report) {
        match report {
            Report::Abuse(abuse) => self.judge(self.finding_of(&abuse)),
            Report::Command(notice) => self.on_command(&notice),
            Report::Released(id, error) => self.on_released(id, error),
            Report::Trouble(trouble) => self.tell(EventKind::Alarm, trouble, None, None),
            Report::Odd(alarm) => self.judge(self.finding_of_telemetry(&alarm)),
            Report::Measured(report) => {
                self.record([Record::Message(Box::new(tidegate_wire::Report::Telemetry(*report)))], now());
            }
            Report::Learned(stored) => self.keep_telemetry(&stored),
        }
    }

    fn finding_of(&self, abuse: &Abuse) -> Finding {
        let Abuse { source, identity, reason, count, meaning } = abuse;
        let who = identity.as_deref().map(|identity| format!(", as {identity:?}")).unwrap_or_default();
        let at_ns = datapath::now_ns();
        Finding {
            subject: self.registry.resolve(*source).map_or(Subject::Remote(*source), Subject::Device),
            victim: None,
            technique: meaning.technique,
            rule: Some("mqtt-guard"),
            score: meaning.confidence,
            p_value: 1e-6,
            first_ns: at_ns,
            at_ns,
            detail: format!(
                "the MQTT guard refused {source}{who} {count} time{} within a minute ({})",
                if *count == 1 { "" } else { "s" },
                reason.name()
            ),
            notes: Vec::new(),
        }
    }

    /// Ends the guard, if one runs, and takes its last reports.
    pub(super) fn stop_messages(&mut self, reports: Option<mpsc::Receiver<Report>>) {
        if let Some(messages) = &mut self.messages {
            messages.stop();
            // Nothing is judged any more: what was seen until now is all there is.
            self.save_commands(now(), true);
            self.messages = None;
            let mut reports = reports;
            while let Some(report) = reports.as_mut().and_then(|reports| reports.try_recv().ok()) {
                self.on_message_report(report);
            }
            tracing::info!(at = %now().wall, "the MQTT guard has ended");
        }
    }
}
