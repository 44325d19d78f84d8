//! The scenario of messages: devices that speak MQTT through the gateway's guard, people who sign commands and policies, attackers
//! with a stolen password or a stolen device, and a cloud that goes away and comes back.
//!
//! Each step is a claim of the product, checked by those whom it concerns: the device says what arrived, the sender what it was told, the
//! cloud which reports it got. Tidegate itself is asked only for what an operator would read there.

mod author;
mod client;
mod cloud;
mod commands;
mod cut;
mod policy;
mod stage;
mod telemetry;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use self::stage::Stage;
use crate::{
    agent::tail,
    device::Reading,
    interrupt,
    lab::{Options, Progress},
    process::resident_mib,
    report::{Messages, Outcome, Report, Step},
    wait_for,
};

/// Name of the scenario of messages on the command line and in the report.
pub const NAME: &str = "messages";
const STORY: &str = "signed commands, telemetry and a policy go through the gateway, some are forged, and the cloud is cut off for a while";
/// Unauthorized Command Message.
const TECHNIQUE: &str = "T0855";

/// The gateway's name in the cloud, the fleet's, and that of the rule that takes reports.
const THING: &str = "gate";
const FLEET: &str = "lab";
const RULE: &str = "tidegate_reports";
/// Where the gateway's guard listens.
const PORT: u16 = 1_883;
/// Who gives commands, who gets them, who measures, who measures until it is manipulated, and who has the hub's password.
const HUB: &str = "hub";
const PLUG: &str = "plug";
const SENSOR: &str = "sensor";
const METERED: &str = "recorder";
const VISITOR: &str = "visitor";

/// How long something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);
/// A link that failed a few times waits up to half a minute before the next try.
const LATER: Duration = Duration::from_secs(90);

/// One step: what it is called, and what is done; it answers how long the gateway took.
type Act = fn(&mut Scene<'_>, &mut Checks) -> Result<Duration>;
const STEPS: [(&str, Act); 6] = [
    ("command-allowed", commands::allowed),
    ("command-blocked", commands::blocked),
    ("command-forged", commands::forged),
    ("telemetry-spike", telemetry::spike),
    ("policy-applied", policy::applied),
    ("cloud-cut", cut::cut),
];

/// What a step found.
#[derive(Debug, Default)]
struct Checks {
    wrong: Vec<String>,
    seen: Vec<String>,
}

impl Checks {
    /// `what` must be so.
    fn must(&mut self, is_so: bool, what: impl Into<String>) {
        if !is_so {
            self.wrong.push(what.into());
        }
    }

    fn saw(&mut self, what: impl Into<String>) {
        self.seen.push(what.into());
    }

    fn step(self, step: &'static str, took: Duration) -> Step {
        let passed = self.wrong.is_empty();
        let note = if passed { self.seen.join("; ") } else { format!("not so: {}", self.wrong.join("; ")) };
        Step { step, passed, seconds: took.as_secs_f64(), note }
    }
}

/// The scenario while it is played.
struct Scene<'a> {
    stage: Stage,
    view: &'a mut dyn FnMut(Progress<'_>),
    /// Commands that must reach the plug, and those that must not.
    normal: Vec<Vec<u8>>,
    hostile: Vec<Vec<u8>>,
    /// When the anomalous command's incident was seen, and when its sender was told, from the moment it was given.
    detected: Option<Duration>,
    blocked: Option<Duration>,
    /// Enforcements on anyone who did nothing.
    wronged: u64,
    /// Whether messages of devices went on while the cloud was away.
    went_on: bool,
    waited: u64,
}

/// Plays the scenario on a network of its own.
pub(crate) fn play(options: &Options, view: &mut dyn FnMut(Progress<'_>)) -> Result<Report> {
    view(Progress::Scene(NAME, STORY));
    let stage = Stage::build(options, view).context("the scenario of messages cannot begin")?;
    let mut scene = Scene {
        stage,
        view,
        normal: Vec::new(),
        hostile: Vec::new(),
        detected: None,
        blocked: None,
        wronged: 0,
        went_on: false,
        waited: 0,
    };
    let played = scene.play();
    if played.is_err() {
        let log = tail(&scene.stage.agent.said(), 30);
        (scene.view)(Progress::Note(&format!("tidegate's log ends with:\n{log}")));
    }
    played
}

impl Scene<'_> {
    fn play(&mut self) -> Result<Report> {
        let before = self.stage.devices.read();
        let mut steps = Vec::new();
        for (name, act) in STEPS {
            interrupt::check()?;
            let mut checks = Checks::default();
            let took = act(self, &mut checks).with_context(|| format!("step {name}"))?;
            let step = checks.step(name, took);
            (self.view)(Progress::Step(&step));
            steps.push(step);
        }
        let served = self.served_since(&before);
        (self.view)(Progress::Served(&served));
        let unserved = self.unserved();
        let is_measuring = self.stage.sensor.is_alive();
        let messages = self.account(steps)?;
        let leaked = self.hostile.iter().map(|payload| self.arrivals(payload)).sum();
        let outcome = Outcome {
            name: NAME.to_owned(),
            technique: TECHNIQUE.to_owned(),
            detected: self.detected.is_some(),
            detect_s: self.detected.map(|after| after.as_secs_f64()),
            block_s: self.blocked.map(|after| after.as_secs_f64()),
            leaked_packets: leaked,
            false_blocks: self.wronged + unserved,
            service_kept: self.went_on
                && unserved == 0
                && is_measuring
                && served.iter().all(|(_, reading)| reading.failed == 0 && reading.served > 0),
        };
        (self.view)(Progress::Over(&outcome));
        let agent = &self.stage.agent;
        Ok(Report {
            schema: 1,
            scenarios: vec![outcome],
            quiet: None,
            messages: Some(messages),
            ready_s: agent.ready_after.as_secs_f64(),
            resident_mib: resident_mib(agent.pid()).unwrap_or(0.0),
        })
    }

    /// How often a command reached the plug.
    fn arrivals(&self, payload: &[u8]) -> u64 {
        self.stage.plug.count(|heard| heard.payload == payload)
    }

    /// Gives a signed command that must reach the plug; how long it took, if it did.
    fn order(&mut self, verb: &str, level: u32) -> Result<Option<Duration>> {
        let payload = self.stage.orders.command(verb, level)?;
        let began = Instant::now();
        self.stage.order(&payload)?;
        let plug = &self.stage.plug;
        let arrived = wait_for(PATIENCE, || plug.when(&payload));
        self.normal.push(payload);
        if arrived.is_none() {
            let held = self.stage.agent.list(&["commands", "list"], "waiting")?;
            let why = held.last().map_or("nothing waits".to_owned(), |held| held["why"].to_string());
            (self.view)(Progress::Note(&format!("{verb} {level} did not arrive: {why}")));
        }
        Ok(arrived.map(|at| at.saturating_duration_since(began)))
    }

    /// Enforcements on anyone but `culprits`.
    fn others(&self, culprits: &[&str]) -> Result<u64> {
        let blocks = self.stage.agent.list(&["blocks", "list"], "blocks")?;
        let is_other =
            |block: &&Value| block["target"].as_str().is_none_or(|target| !culprits.contains(&target));
        Ok(blocks.iter().filter(is_other).count() as u64)
    }

    /// What the owner of each device noticed, but for those that were turned against the gateway.
    fn served_since(&self, before: &[(&'static str, Reading)]) -> Vec<(&'static str, Reading)> {
        let now = self.stage.devices.read();
        let both = now.iter().zip(before).filter(|((name, _), _)| ![METERED, VISITOR].contains(name));
        both.map(|((name, now), (_, before))| (*name, now.since(*before))).collect()
    }

    /// Normal messages that did not arrive: commands at the plug, and the sensor's at the one who follows them.
    fn unserved(&self) -> u64 {
        let commands = self.normal.iter().filter(|payload| self.arrivals(payload) == 0).count() as u64;
        let topic = client::topic(SENSOR);
        // The last one may be on its way.
        let missing = || {
            let told = self.stage.sensor.told().0;
            told.saturating_sub(self.stage.panel.count(|heard| heard.topic == topic))
        };
        let none = wait_for(PATIENCE, || (missing() == 0).then_some(()));
        commands + if none.is_some() { 0 } else { missing() }
    }

    /// Ends the measuring and counts what the cloud got of all that the gateway reported.
    fn account(&mut self, steps: Vec<Step>) -> Result<Messages> {
        let stage = &mut self.stage;
        stage.sensor.stop();
        stage.metered.stop();
        let internet = &stage.topology.internet;
        let deadline = Instant::now() + LATER;
        // Heartbeats go on meanwhile: everything has arrived once a count that was made before is reached.
        let (mut wrote, mut came, mut last);
        loop {
            wrote = stage.outbox()?.1;
            stage.cloud.collect(internet)?;
            (came, last) = stage.cloud.came();
            if came >= wrote || Instant::now() > deadline {
                break;
            }
            interrupt::pause(Duration::from_millis(200))?;
        }
        Ok(Messages {
            steps,
            delivered: came,
            lost: wrote.max(last).saturating_sub(came),
            reordered: stage.cloud.reordered,
            repeated: stage.cloud.repeated,
            waited: self.waited,
        })
    }
}
