//! The loop that carries the data from the kernel to the operator and back. The only room that spawns.
//!
//! Set-up is synchronous and in the order that leaves no gap: state first, then tables, then verdicts, then the programs are
//! attached. Then capabilities are given up, and one task owns everything; others only wait for sockets.

mod alerts;
mod answer;
mod cloud;
mod commands;
mod defender;
mod forests;
mod gateway;
mod heal;
mod heard;
mod ledger;
mod messages;
mod names;
mod needs;
mod neighbours;
mod numbers;
mod orders;
mod policy;
mod privileges;
mod probe;
mod profiles;
mod report;
mod respond;
mod tail;
mod telemetry;
mod upkeep;
mod views;

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::{broadcast, mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use crate::{
    api::{Handle, Listeners, Request, Settings, view::EventKind},
    config::{Config, Source, values::Listen},
    datapath::{Datapath, EventStream, Events},
    enforce::{Enforcer, Reachability},
    identity::{Registry, Vendors},
    learn::Learner,
    messages::Guard,
    store::{IdSource, Store, eve::EveLog},
};
use alerts::Alerts;
use forests::Forests;
use gateway::{Gateway, Tallies, kernel_mode, now};
use heal::Healer;
use messages::Messages;
use names::{Resolved, resolve_for_ever};
use profiles::Profiles;

/// Events handled before anything else gets its turn.
const EVENTS_PER_TURN: usize = 512;
const REQUESTS: usize = 64;
const FOLLOWED_EVENTS: usize = 1_024;
const SWEEP_EVERY: Duration = Duration::from_secs(2);
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(30);
/// Between probes while a verdict is on trial.
const TRIAL_PROBE_EVERY: Duration = Duration::from_secs(1);
/// Devices taken up from the store at start.
const RESTORED_DEVICES: u32 = 4_096;

/// Guards the interfaces of `config` until a signal ends it; `source` is where a reload reads again.
pub fn run(config: &Config, source: &Source) -> Result<()> {
    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let settings = Settings {
        socket: config.gateway.socket.clone(),
        group: Some(config.gateway.socket_group.clone()).filter(|group| !group.is_empty()),
        metrics: match config.metrics.listen {
            Listen::Off => None,
            Listen::At(address) => Some(address),
        },
    };
    let listeners = runtime.block_on(Listeners::bind(&settings))?;
    let (events, _) = broadcast::channel(FOLLOWED_EVENTS);
    // Its sockets may need privileges, and its thread must not have any.
    let guard = config.message_settings().map(Guard::bind).transpose()?;
    let (mut gateway, kernel_events) = set_up(config, source, events.clone())?;
    privileges::drop_capabilities().context("cannot give up capabilities")?;
    gateway.tell(EventKind::Lifecycle, "guarding".to_owned(), None, None);
    tracing::info!(interfaces = ?config.gateway.interfaces, mode = %config.gateway.mode, "guarding");
    let mut reports = None;
    if let Some(mut guard) = guard {
        guard.recall(telemetry::recall(&gateway.store)?);
        let desk = commands::open(&gateway.config, &gateway.store, now().wall)?;
        let (messages, reported) = Messages::start(guard, &gateway.config, desk)?;
        gateway.messages = Some(messages);
        reports = Some(reported);
    }
    runtime.block_on(serve(gateway, kernel_events, listeners, events, reports))
}

/// Everything that needs privileges.
fn set_up(
    config: &Config,
    source: &Source,
    events: broadcast::Sender<crate::api::view::EventView>,
) -> Result<(Gateway, Events)> {
    let began = now();
    let mut problems = Vec::new();
    let store = Store::open(&config.database_path())?;
    if let Some(aside) = store.moved_aside() {
        problems.push(format!(
            "the database was unusable ({}) and moved to {}",
            aside.cause,
            aside.to.display()
        ));
    }

    let base = config;
    let (policies, config) = policy::restore(&store, base, &mut problems)?;
    let config = &config;

    let mut datapath = Datapath::load(&config.load_options())?;
    let verdicts = datapath.take_verdicts()?;
    let kernel_events = datapath.take_events()?;
    let kernel_log = datapath.take_log()?;
    let present = verdicts.config()?;
    let mut enforcer = Enforcer::new(verdicts, config.enforce_settings(), present);
    let memory = Duration::from_secs(config.enforce_settings().forget_s.max(3_600));
    let since = began
        .wall
        .checked_sub(jiff::SignedDuration::try_from(memory).unwrap_or_default())
        .unwrap_or(began.wall);
    let profiles = Profiles::restore(&store, &mut enforcer, &mut problems)?;
    let restored = enforcer.restore(
        store.enforcements_to_restore(since)?,
        store.allowed()?,
        &needs::system_entries(config),
        began,
    )?;
    enforcer.set_config(config.kernel_config(kernel_mode(config.gateway.mode)))?;

    let mut learner = Learner::new(config.learn_config(), config.detection.clone())?;
    learner.set_own_addresses(needs::own_addresses());
    let mut registry = Registry::with_capacity(Vendors::installed(), config.kernel.max_devices as usize);
    registry.set_own(&needs::own_addresses());

    for interface in &config.gateway.interfaces {
        let attached = datapath.attach(interface, config.gateway.xdp, config.gateway.tc)?;
        tracing::info!(?attached, "attached");
    }
    datapath.drop_other_layouts();
    take_up_devices(&store, &datapath, &mut registry, &mut learner, &mut problems)?;

    let (healer, problem) = Healer::open();
    problems.extend(problem);
    let eve = config.eve_path().map(|path| EveLog::new(&path, config.log.rotate_bytes, config.log.keep));
    let forests = Forests::new(datapath.take_forests()?);
    let mut gateway = Gateway {
        config: config.clone(),
        base: base.clone(),
        started_with: config.clone(),
        policies,
        policy_trial: None,
        last_reach: None,
        source: source.clone(),
        datapath,
        kernel_log,
        forests,
        enforcer,
        profiles,
        learner,
        registry,
        store,
        ledger: ledger::Ledger::default(),
        cloud: cloud::Cloud::default(),
        numbers: numbers::Numbers::default(),
        defender: defender::Defender::default(),
        last_beat: jiff::Timestamp::UNIX_EPOCH,
        eve,
        alerts: Alerts::new(config),
        incidents: HashMap::new(),
        events,
        recent: VecDeque::new(),
        tallies: Tallies::default(),
        started: began,
        problems,
        ids: IdSource::from_process(),
        // The first second's allowance comes with the first tick.
        flow_lines_left: 0,
        healer,
        messages: None,
        neighbours: None,
    };
    gateway.commit(Ok(restored), began);
    gateway.load_feeds();
    if let Err(cause) = gateway.follow_policy(began) {
        gateway.degraded(&format!("the policy is not wholly in force: {cause}"));
    }
    Ok((gateway, kernel_events))
}

/// Names, addresses and baselines of the last run. A baseline that cannot be read is learned anew.
fn take_up_devices(
    store: &Store,
    datapath: &Datapath,
    registry: &mut Registry,
    learner: &mut Learner,
    problems: &mut Vec<String>,
) -> Result<()> {
    let now = now();
    for stored in store.devices(RESTORED_DEVICES)? {
        let attached = datapath.attached().iter().find(|attached| attached.interface == stored.interface);
        let Some(ifindex) = attached.map(|attached| attached.ifindex) else { continue };
        registry.restore(ifindex, &stored.device, now);
        let Some(baseline) = store.baseline(&stored.device.mac.to_string())? else { continue };
        let taken = serde_json::from_slice::<crate::learn::BaselineState>(&baseline.document)
            .map_err(|error| error.to_string())
            .and_then(|mut state| {
                state.ifindex = ifindex;
                learner.import(&state, now.kernel_ns).map_err(|error| error.to_string())
            });
        if let Err(cause) = taken {
            problems.push(format!("the baseline of {} cannot be used: {cause}", baseline.device));
        }
    }
    Ok(())
}

async fn serve(
    mut gateway: Gateway,
    kernel_events: Events,
    listeners: Listeners,
    events: broadcast::Sender<crate::api::view::EventView>,
    mut reports: Option<mpsc::Receiver<crate::messages::Report>>,
) -> Result<()> {
    let (requests, mut asked) = mpsc::channel::<Request>(REQUESTS);
    let (stop, stopping) = watch::channel(false);
    let handle = Handle { requests, events };
    let api = tokio::spawn(listeners.serve(handle, stopping));
    let (probes, mut probed) = mpsc::channel::<Reachability>(1);
    let (pace, paced) = watch::channel(false);
    let prober = tokio::spawn(probe_for_ever(gateway.config.clone(), probes, paced));

    let (resolutions, mut resolved) = mpsc::channel::<Resolved>(REQUESTS);
    let servers = probe::Targets::of(&gateway.config).dns;
    let resolver = tokio::spawn(resolve_for_ever(servers, gateway.profiles.wanted_names(), resolutions));

    gateway.start_numbers();
    let (mut told, linked) = match gateway.start_link() {
        Some(told) => (told, true),
        None => (mpsc::channel(1).1, false),
    };

    let (mut notices, heard) = match gateway.start_neighbours() {
        Some(notices) => (notices, true),
        None => (mpsc::channel(1).1, false),
    };

    let mut stream = EventStream::new(kernel_events)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut second = every(Duration::from_secs(1));
    let mut sweep = every(SWEEP_EVERY);
    let mut housekeeping = every(HOUSEKEEPING_EVERY);

    loop {
        tokio::select! {
            drained = stream.drain(EVENTS_PER_TURN, |event| gateway.on_event(event)) => { drained?; }
            Some(request) = asked.recv() => gateway.answer(request),
            Some(reachable) = probed.recv() => gateway.on_reachability(reachable),
            Some(resolved) = resolved.recv() => gateway.on_resolved(&resolved, None),
            Some(news) = told.recv(), if linked => gateway.on_news(news),
            Some(notice) = notices.recv(), if heard => gateway.on_told(notice),
            report = messages::reported(&mut reports) => gateway.on_message_report(report),
            _ = second.tick() => gateway.on_second(),
            _ = sweep.tick() => gateway.on_sweep(),
            _ = housekeeping.tick() => gateway.on_housekeeping(),
            _ = hangup.recv() => {
                if let Err(cause) = gateway.reload() {
                    tracing::error!("the configuration before stays in force: {cause}");
                }
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
        pace.send_if_modified(|quick| {
            let wanted = gateway.is_on_trial();
            std::mem::replace(quick, wanted) != wanted
        });
    }
    tracing::info!("stopping; enforcement stays in the kernel until it expires");
    gateway.stop_messages(reports.take());
    gateway.save(now());
    gateway.write_ledger();
    prober.abort();
    resolver.abort();
    // The API may have ended before; there is nothing left to do about it.
    let _ = stop.send(true);
    api.await.context("the API ended badly")??;
    Ok(())
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Probes at the configured pace, and every second while a verdict is on trial.
async fn probe_for_ever(
    config: Config,
    probes: mpsc::Sender<Reachability>,
    mut quick: watch::Receiver<bool>,
) {
    let targets = probe::Targets::of(&config);
    if targets.is_empty() || !config.reachability.enabled {
        return;
    }
    loop {
        if probes.send(targets.probe().await).await.is_err() {
            return;
        }
        let pause = if *quick.borrow() { TRIAL_PROBE_EVERY } else { config.reachability.interval.0 };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = quick.changed() => if changed.is_err() { return },
        }
    }
}
