//! Plays scenarios against a running Tidegate and measures what an operator cares about.
//!
//! Times are seconds from the attack's first packet, as a capture at the attacker saw it. Detection is when the command
//! line first shows the incident; the block is when the enforcement was created, by Tidegate's own account if that is
//! plausible and else when the command line first shows it. Leaks are packets that a capture behind the gateway saw
//! later than [`GRACE`] after the block: the account of Tidegate's own is not believed there.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    agent::{Agent, Settings, tail},
    attack::{ATTACKS, Aimed, Attack},
    device::{Devices, Reading},
    interrupt, messages, netns,
    process::{Process, resident_mib},
    report::{Outcome, Quiet, Report, Step},
    service::Services,
    sniffer::now_ns,
    topology::Topology,
};

pub use crate::messages::NAME as MESSAGES;

/// Packets on the wire and in queues at the moment of a block are not leaks.
const GRACE: Duration = Duration::from_millis(50);
/// How long an attack may last without being blocked.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a blocked attack goes on, to see whether anything leaks.
const AFTERMATH: Duration = Duration::from_secs(3);
/// Between two questions to the command line.
const POLL: Duration = Duration::from_millis(40);
/// More incidents than any run of the lab makes.
const EVERY: &str = "10000";

/// What the lab is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tidegate's program.
    pub binary: PathBuf,
    /// The emulator of AWS, for the scenario of messages.
    pub emulator: Option<PathBuf>,
    /// Names of scenarios; empty for all.
    pub scenarios: Vec<String>,
    /// How long devices behave before the first attack.
    pub warm_up: Duration,
    /// How long they behave after the last one.
    pub quiet: Duration,
}

/// What the lab is doing, for a live view.
#[derive(Clone, Debug)]
pub enum Progress<'a> {
    /// Getting ready.
    Preparing(&'a str),
    /// Tidegate answers.
    Ready(Duration),
    /// Devices behave for so long yet.
    Behaving(Duration),
    /// An attack begins.
    Attack(&'a Attack),
    /// It was noticed, so many seconds after its first packet; what Tidegate says about it.
    Detected(f64, &'a str),
    /// The culprit was shut out, so many seconds after the first packet.
    Blocked(f64, &'a str),
    /// A message was refused, so many seconds after it was sent, and what its sender was told.
    Refused(f64, &'a str),
    /// A scenario of several steps begins: its name, and what happens.
    Scene(&'a str, &'a str),
    /// One of its steps is over.
    Step(&'a Step),
    /// The scenario is over.
    Over(&'a Outcome),
    /// What devices were served since the last time.
    Served(&'a [(&'static str, Reading)]),
    /// Something the viewer should know.
    Note(&'a str),
}

/// Runs the lab, telling `view` about it.
pub fn run(options: &Options, view: &mut dyn FnMut(Progress<'_>)) -> Result<Report> {
    if !crate::is_root() {
        bail!("the lab needs root, for network namespaces and kernel programs");
    }
    let (attacks, with_messages) = choose(&options.scenarios)?;
    interrupt::watch();
    netns::sweep();
    if !with_messages {
        return attacked(&attacks, options, view);
    }
    if attacks.is_empty() && options.quiet.is_zero() {
        return messages::play(options, view);
    }
    let mut report = attacked(&attacks, options, view)?;
    let played = messages::play(options, view)?;
    report.scenarios.extend(played.scenarios);
    report.messages = played.messages;
    Ok(report)
}

/// Plays `attacks`, and the quiet run after them.
fn attacked(
    attacks: &[&'static Attack],
    options: &Options,
    view: &mut dyn FnMut(Progress<'_>),
) -> Result<Report> {
    view(Progress::Preparing("wiring an internet, a gateway and six devices in network namespaces"));
    let topology = Topology::create()?;
    view(Progress::Preparing("starting DNS, DHCP, NTP, web and MQTT servers"));
    let _services = Services::start(&topology)?;
    view(Progress::Preparing("switching the devices on"));
    let devices = Devices::start(&topology)?;
    view(Progress::Preparing("starting tidegate in the gateway"));
    let agent = Agent::start(&topology, &Settings::new(options.binary.clone()))?;
    view(Progress::Ready(agent.ready_after));
    let mut lab = Lab { topology: &topology, devices: &devices, agent: &agent, view };
    let played = lab.play(attacks, options);
    if played.is_err() {
        let log = tail(&agent.said(), 30);
        (lab.view)(Progress::Note(&format!("tidegate's log ends with:\n{log}")));
    }
    played
}

/// The attacks of these names, and whether the scenario of messages is among them.
fn choose(names: &[String]) -> Result<(Vec<&'static Attack>, bool)> {
    if names.is_empty() {
        return Ok((ATTACKS.iter().collect(), true));
    }
    let all = || ATTACKS.iter().map(|attack| attack.name).collect::<Vec<_>>().join(", ");
    let others = names.iter().filter(|name| *name != MESSAGES);
    let attacks = others.map(|name| {
        Attack::by_name(name)
            .with_context(|| format!("there is no scenario `{name}`; there are: {}, {}", all(), MESSAGES))
    });
    Ok((attacks.collect::<Result<_>>()?, names.iter().any(|name| name == MESSAGES)))
}

/// A running lab, in which attacks are played.
pub(crate) struct Lab<'a> {
    pub(crate) topology: &'a Topology,
    pub(crate) devices: &'a Devices,
    pub(crate) agent: &'a Agent,
    pub(crate) view: &'a mut dyn FnMut(Progress<'_>),
}

/// Incidents by id.
type Incidents = BTreeMap<String, Reported>;

/// An incident, as Tidegate lists it.
#[derive(Clone)]
struct Reported {
    evidence: u64,
    subject: String,
    technique: String,
    summary: String,
    response: String,
}

impl Reported {
    fn read(incident: &Value) -> Option<(String, Self)> {
        let word = |field: &str| text(incident, field).unwrap_or_default();
        let reported = Self {
            evidence: incident["evidence"].as_u64()?,
            subject: word("subject"),
            technique: incident["technique"]["id"].as_str().unwrap_or_default().to_owned(),
            summary: word("summary"),
            response: word("response"),
        };
        Some((text(incident, "id")?, reported))
    }

    fn words(&self) -> String {
        format!("{} {} ({})", self.technique, self.summary, self.response)
    }
}

impl Lab<'_> {
    fn play(&mut self, attacks: &[&'static Attack], options: &Options) -> Result<Report> {
        let learned = self.learn(attacks, options.warm_up)?;
        let mut scenarios = Vec::new();
        for (number, attack) in attacks.iter().enumerate() {
            let mut outcome =
                self.attack(attack, number as u8).with_context(|| format!("scenario {}", attack.name))?;
            outcome.detected &= !learned.contains(&attack.name);
            (self.view)(Progress::Over(&outcome));
            scenarios.push(outcome);
        }
        let quiet = if options.quiet.is_zero() { None } else { Some(self.quiet(options.quiet)?) };
        let resident_mib = resident_mib(self.agent.pid()).unwrap_or(0.0);
        let ready_s = self.agent.ready_after.as_secs_f64();
        Ok(Report { schema: 1, scenarios, quiet, messages: None, ready_s, resident_mib })
    }

    pub(crate) fn attack(&mut self, attack: &'static Attack, number: u8) -> Result<Outcome> {
        let aimed = attack.aim(self.topology, number)?;
        let known = self.incidents()?;
        (self.view)(Progress::Attack(attack));
        let (source, victim) = (aimed.at_the_source()?, aimed.at_the_victim()?);
        let before = self.devices.read();
        let log = self.topology.directory().join(format!("{}.log", attack.name));
        let mut tool = Process::start(&mut aimed.tool(), &log)?;
        let Some(first_ns) = crate::wait_for(Duration::from_secs(10), || source.first()) else {
            bail!("the tool sent nothing: {}", tail(&tool.said(), 5));
        };
        let since_first = |at_ns: u64| at_ns.saturating_sub(first_ns) as f64 / 1e9;
        let (mut detected_ns, mut blocked_ns) = (None, None);
        let deadline = Instant::now() + PATIENCE;
        while (detected_ns.is_none() || blocked_ns.is_none()) && Instant::now() < deadline {
            interrupt::check()?;
            if detected_ns.is_none()
                && let Some(summary) = self.new_incident(&aimed, &known)?
            {
                detected_ns = Some(now_ns());
                (self.view)(Progress::Detected(since_first(now_ns()), &summary));
            }
            if blocked_ns.is_none()
                && let Some(block) = self.shut(&aimed)?
            {
                let at_ns = created_ns(&block).filter(|at_ns| (first_ns..=now_ns()).contains(at_ns));
                let at_ns = at_ns.unwrap_or_else(now_ns);
                blocked_ns = Some(at_ns);
                (self.view)(Progress::Blocked(
                    since_first(at_ns),
                    block["detail"].as_str().unwrap_or_default(),
                ));
            }
            thread::sleep(POLL);
        }
        interrupt::pause(if blocked_ns.is_some() { AFTERMATH } else { Duration::ZERO })?;
        let leaked = blocked_ns.map_or(0, |at_ns| victim.after(at_ns + GRACE.as_nanos() as u64) as u64);
        let served = self.served_since(&before, aimed.attacker_device());
        (self.view)(Progress::Served(&served));
        let false_blocks = self.false_blocks(&aimed.culprits())?;
        tool.kill();
        drop(tool);
        if leaked > 0 {
            let note = format!("{leaked} of {} packets at the victim came after the block", victim.count());
            (self.view)(Progress::Note(&note));
        }
        self.reset(&aimed)?;
        Ok(Outcome {
            name: attack.name.to_owned(),
            technique: attack.technique.to_owned(),
            detected: detected_ns.is_some(),
            detect_s: detected_ns.map(since_first),
            block_s: blocked_ns.map(since_first),
            leaked_packets: leaked,
            false_blocks,
            service_kept: served.iter().all(|(_, reading)| reading.failed == 0 && reading.served > 0),
        })
    }

    /// Lets devices behave, and tells at once whatever is reported or fails meanwhile.
    fn quiet(&mut self, length: Duration) -> Result<Quiet> {
        let (mut known, before) = (self.incidents()?, self.devices.read());
        let (incidents_before, begin) = (known.len(), Instant::now());
        self.devices.take_failures();
        let mut failures = Vec::new();
        let mut false_blocks = 0;
        while begin.elapsed() < length {
            let left = length.saturating_sub(begin.elapsed());
            (self.view)(Progress::Behaving(left));
            interrupt::pause(left.min(Duration::from_secs(5)))?;
            false_blocks += self.false_blocks(&[])?;
            if false_blocks > 0 {
                self.flush()?;
            }
            let at = format!("after {:.0} s", begin.elapsed().as_secs_f64());
            for (id, incident) in self.incidents()? {
                if known.insert(id, incident.clone()).is_none() {
                    (self.view)(Progress::Note(&format!("{at}, reported: {}", incident.words())));
                }
            }
            for (device, why) in self.devices.take_failures() {
                let failure = format!("{at}, a request of {device} failed: {why}");
                (self.view)(Progress::Note(&failure));
                failures.push(failure);
            }
        }
        let served = self.served_since(&before, None);
        (self.view)(Progress::Served(&served));
        let service_kept = served.iter().all(|(_, reading)| reading.failed == 0 && reading.served > 0);
        let incidents = (known.len() - incidents_before) as u64;
        Ok(Quiet { minutes: length.as_secs_f64() / 60.0, false_blocks, incidents, service_kept, failures })
    }

    /// Lets devices behave while they are learned, but for attacks that go on meanwhile and are set free whenever they are shut
    /// out; the names of those that were taken for normal.
    fn learn(&mut self, attacks: &[&'static Attack], length: Duration) -> Result<Vec<&'static str>> {
        let mut poisons = Vec::new();
        for attack in attacks.iter().filter(|attack| attack.while_learning) {
            let aimed = attack.aim(self.topology, 0)?;
            let log = self.topology.directory().join(format!("{}-learning.log", attack.name));
            let tool = Process::start(&mut aimed.tool(), &log)?;
            poisons.push((aimed, tool));
        }
        let culprits: Vec<String> = poisons.iter().flat_map(|(aimed, _)| aimed.culprits()).collect();
        let deadline = Instant::now() + length;
        let mut freed = 0;
        while Instant::now() < deadline {
            (self.view)(Progress::Behaving(deadline - Instant::now()));
            interrupt::pause((deadline - Instant::now()).min(Duration::from_secs(1)))?;
            if self.false_blocks(&culprits)? > 0 {
                bail!("devices that behave were shut out");
            }
            if !self.blocks()?.is_empty() {
                self.flush()?;
                freed += 1;
            }
        }
        let mut learned = Vec::new();
        for (aimed, mut tool) in poisons {
            tool.kill();
            (self.view)(Progress::Note(&format!("set free {freed} times while devices were learned")));
            if self.has_baseline(&aimed)? {
                let note = format!("{} was learned as normal", aimed.attack.name);
                (self.view)(Progress::Note(&note));
                learned.push(aimed.attack.name);
            }
            self.reset(&aimed)?;
        }
        Ok(learned)
    }

    fn has_baseline(&self, aimed: &Aimed<'_>) -> Result<bool> {
        let culprits = aimed.culprits();
        let models = self.agent.list(&["model", "status"], "models")?;
        let is_ready = |model: &Value| {
            text(model, "state").as_deref() == Some("ready")
                && text(model, "device").is_some_and(|device| culprits.contains(&device))
        };
        Ok(models.iter().any(is_ready))
    }

    fn incidents(&self) -> Result<Incidents> {
        let list = self.agent.list(&["incidents", "list", "--limit", EVERY], "incidents")?;
        Ok(list.iter().filter_map(Reported::read).collect())
    }

    /// The summary of an incident about a culprit that is new or has new evidence.
    fn new_incident(&self, aimed: &Aimed<'_>, known: &Incidents) -> Result<Option<String>> {
        let culprits = aimed.culprits();
        let is_new = |(id, incident): &(&String, &Reported)| {
            let more = known.get(*id).is_none_or(|before| incident.evidence > before.evidence);
            more && culprits.contains(&incident.subject)
        };
        Ok(self.incidents()?.iter().find(is_new).map(|(_, incident)| incident.words()))
    }

    fn blocks(&self) -> Result<Vec<Value>> {
        self.agent.list(&["blocks", "list"], "blocks")
    }

    /// The enforcement that shuts a culprit out; observing one is not enough.
    fn shut(&self, aimed: &Aimed<'_>) -> Result<Option<Value>> {
        let culprits = aimed.culprits();
        let shuts =
            |block: &Value| matches!(block["action"].as_str(), Some("block" | "isolate" | "rate-limit"));
        let hits = |block: &Value| text(block, "target").is_some_and(|target| culprits.contains(&target));
        Ok(self.blocks()?.into_iter().find(|block| shuts(block) && hits(block)))
    }

    fn false_blocks(&mut self, culprits: &[String]) -> Result<u64> {
        let mut count = 0;
        for block in self.blocks()? {
            if text(&block, "target").is_none_or(|target| !culprits.contains(&target)) {
                (self.view)(Progress::Note(&format!("wrongly shut out: {block}")));
                count += 1;
            }
        }
        Ok(count)
    }

    fn served_since(
        &self,
        before: &[(&'static str, Reading)],
        except: Option<&'static str>,
    ) -> Vec<(&'static str, Reading)> {
        let now = self.devices.read();
        now.iter()
            .zip(before)
            .filter(|((name, _), _)| Some(*name) != except)
            .map(|((name, now), (_, before))| (*name, now.since(*before)))
            .collect()
    }

    /// Frees everyone, so that the next scenario begins as the first did, and waits until all devices are well again.
    fn reset(&mut self, aimed: &Aimed<'_>) -> Result<()> {
        self.flush()?;
        let culprits = aimed.culprits();
        let still = crate::wait_for(Duration::from_secs(5), || match self.blocks() {
            Ok(blocks) if blocks.is_empty() => Some(()),
            _ => None,
        });
        if still.is_none() {
            bail!("blocks remain after a flush (culprits {culprits:?}): {:?}", self.blocks()?);
        }
        // A TCP connection that was cut needs a while to find that out.
        let healed = crate::wait_for(Duration::from_secs(15), || {
            let before = self.devices.read();
            thread::sleep(Duration::from_millis(2_500));
            let now = self.served_since(&before, None);
            now.iter().all(|(_, reading)| reading.failed == 0 && reading.served > 0).then_some(())
        });
        interrupt::check()?;
        if healed.is_none() {
            (self.view)(Progress::Note("devices are still not well 15 s after everyone was freed"));
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.agent.ask(&["blocks", "flush"]).map(|_| ())
    }
}

fn text(value: &Value, field: &str) -> Option<String> {
    value[field].as_str().map(str::to_owned)
}

fn created_ns(block: &Value) -> Option<u64> {
    let created: Timestamp = block["created"].as_str()?.parse().ok()?;
    u64::try_from(created.as_nanosecond()).ok()
}
