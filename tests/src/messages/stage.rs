//! What the scenario is played on: the lab's network, the cloud, a gateway that guards messages, and everyone who talks through it.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    FLEET, HUB, METERED, PLUG, PORT, RULE, SENSOR, THING, VISITOR,
    author::Author,
    client::{self, Ear, Meter},
    cloud::Cloud,
};
use crate::{
    agent::{Agent, Settings},
    device::Devices,
    emulator::{self, Emulator, MQTT_PORT},
    lab::{Options, Progress},
    mqtt::Client,
    service::Services,
    topology::{CLOUD, GATEWAY, Place, Topology},
    web::{self, WebServer},
};

/// Where policies are fetched.
const WEB_PORT: u16 = 8_443;

/// Everything, in the order in which it ends.
#[derive(Debug)]
pub(super) struct Stage {
    /// Gives commands.
    pub(super) hub: Client,
    /// Gets them.
    pub(super) plug: Ear,
    /// Follows what is measured.
    pub(super) panel: Ear,
    /// Has the hub's password and overhears commands.
    pub(super) spy: Ear,
    /// Measures as it should.
    pub(super) sensor: Meter,
    /// Will not.
    pub(super) metered: Meter,
    pub(super) agent: Agent,
    pub(super) cloud: Cloud,
    pub(super) devices: Devices,
    /// Signs the hub's commands.
    pub(super) orders: Author,
    /// Signs as well, but nobody trusts it.
    pub(super) stranger: Author,
    /// Signs policies.
    pub(super) fleet: Author,
    _web: WebServer,
    _services: Services,
    pub(super) topology: Topology,
}

impl Stage {
    /// Builds it; returns once the gateway answers and everyone is connected.
    pub(super) fn build(options: &Options, view: &mut dyn FnMut(Progress<'_>)) -> Result<Self> {
        let Some(program) = &options.emulator else {
            bail!(
                "the scenario `{}` needs the emulator of AWS; `cargo xtask setup --cloud` installs it",
                super::NAME
            );
        };
        view(Progress::Preparing("wiring the network, starting servers and devices"));
        let topology = Topology::create()?;
        let services = Services::start(&topology)?;
        let devices = Devices::start(&topology)?;
        let directory = topology.directory();
        let internet = &topology.internet;
        view(Progress::Preparing(
            "starting AWS's emulator with its MQTT endpoint that asks for certificates",
        ));
        let emulator = Emulator::launch(program, internet, CLOUD.into(), directory)?;
        fs::write(directory.join("ca.pem"), emulator.authority(internet)?).context("cannot write ca.pem")?;
        let cloud = Cloud::prepare(emulator, internet)?;
        view(Progress::Preparing("making keys, passwords and a certificate for the gateway"));
        let author = |name: &str, what: &str| Author::new(&options.binary, directory, name, what);
        let (orders, stranger) = (author("orders", "commands")?, author("stranger", "commands")?);
        let fleet = author("fleet", "policy")?;
        passwords(&topology)?;
        web::authority(directory, "web", &CLOUD.to_string())?;
        fs::create_dir(directory.join("policies")).context("cannot make a place for policies")?;
        let web = WebServer::start(internet, directory, WEB_PORT)?;
        provision(&topology, &options.binary, &cloud)?;

        view(Progress::Preparing("starting tidegate in the gateway"));
        let mut settings = Settings::new(options.binary.clone());
        settings.keys = keys(&topology, &orders, &fleet);
        let agent = Agent::start(&topology, &settings)?;
        view(Progress::Ready(agent.ready_after));
        let place = |name| topology.device(name);
        let hub = client::session(place(HUB)?, HUB)?;
        let plug = Ear::open(place(PLUG)?, PLUG, PLUG, &format!("cmd/{PLUG}/#"))?;
        let panel = Ear::open(place(HUB)?, HUB, "follower", &client::topic("+"))?;
        let spy = Ear::open(place(VISITOR)?, HUB, "spy", "cmd/#")?;
        let (sensor, metered) = (Meter::start(place(SENSOR)?)?, Meter::start(place(METERED)?)?);
        Ok(Self {
            hub,
            plug,
            panel,
            spy,
            sensor,
            metered,
            agent,
            cloud,
            devices,
            orders,
            stranger,
            fleet,
            _web: web,
            _services: services,
            topology,
        })
    }

    /// The device of that name.
    pub(super) fn place(&self, name: &str) -> Result<&Place> {
        self.topology.device(name)
    }

    /// Writes a payload into a file, for programs that read it from there.
    pub(super) fn file(&self, payload: &[u8]) -> Result<PathBuf> {
        let file = self.topology.directory().join("payload");
        fs::write(&file, payload).context("cannot write a payload")?;
        Ok(file)
    }

    /// Signs a policy and puts it where gateways fetch it; its hash and address.
    pub(super) fn publish_policy(&self, version: u64, settings: &str) -> Result<(String, String)> {
        let file = self.topology.directory().join(format!("policies/{version}"));
        let hash = self.fleet.policy(version, settings, &file)?;
        Ok((hash, format!("{}{version}", origin())))
    }

    /// Gives a command through the hub.
    pub(super) fn order(&mut self, payload: &[u8]) -> Result<()> {
        self.hub.publish(&order_topic(), payload).context("the hub cannot give a command")
    }

    /// What the guard counts.
    pub(super) fn messages(&self) -> Result<Value> {
        Ok(self.agent.ask(&["status"])?["messages"].take())
    }

    /// An incident with this technique about `subject`.
    pub(super) fn incident(&self, technique: &str, subject: &str) -> Result<Option<Value>> {
        let list = self.agent.list(&["incidents", "list"], "incidents")?;
        let is_meant =
            |one: &Value| one["technique"]["id"] == technique && one["subject"].as_str() == Some(subject);
        Ok(list.into_iter().find(is_meant))
    }

    /// Whether the gateway says that it reaches the cloud.
    pub(super) fn is_online(&self) -> Result<bool> {
        let problems = self.agent.ask(&["status"])?["problems"].to_string();
        Ok(!problems.contains("the cloud is not reached"))
    }

    /// Reports that wait in the gateway, and all that it ever wrote.
    pub(super) fn outbox(&self) -> Result<(u64, u64)> {
        let address = SocketAddr::from(([127, 0, 0, 1], 9_469));
        let text = emulator::exchange(&self.topology.gateway, address, "GET /metrics HTTP/1.1", "")?;
        let sum = |name: &str| sum(&text, name);
        let waiting = sum("tidegate_outbox_messages");
        let gone = sum("tidegate_outbox_acknowledged_total") + sum("tidegate_outbox_dropped_total");
        Ok((waiting, waiting + gone))
    }
}

/// Where commands for the plug are published.
pub(super) fn order_topic() -> String {
    format!("cmd/{PLUG}/set")
}

fn origin() -> String {
    format!("https://{CLOUD}:{WEB_PORT}/policies/")
}

/// Sum of a metric over its labels.
fn sum(text: &str, name: &str) -> u64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
        rest.rsplit_once(' ')?.1.parse::<u64>().ok()
    });
    values.sum()
}

/// Everyone's password is the name; the file holds hashes.
fn passwords(topology: &Topology) -> Result<()> {
    let directory = topology.directory();
    fs::write(directory.join("passwords"), "").context("cannot write passwords")?;
    for user in [HUB, PLUG, SENSOR, METERED] {
        web::run(directory, "mosquitto_passwd", &["-b", "passwords", user, user])?;
    }
    Ok(())
}

/// Makes the gateway a thing with a certificate, as its owner does before the first start.
fn provision(topology: &Topology, binary: &std::path::Path, cloud: &Cloud) -> Result<()> {
    let directory = topology.directory();
    let file = directory.join("provision.toml");
    let text = format!(
        "[gateway]\nname = \"{THING}\"\n[cloud]\ncertificate = \"{0}/cloud.crt\"\nkey = \"{0}/cloud.key\"\nrule = \"{RULE}\"\n",
        directory.display()
    );
    fs::write(&file, text).context("cannot write a configuration")?;
    let mut command = topology.gateway.command(&binary.display().to_string());
    command.args(["provision", "-c"]).arg(&file).envs(cloud.emulator.environment());
    let output = command.output().context("cannot start tidegate provision")?;
    if !output.status.success() {
        bail!("tidegate provision: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn keys(topology: &Topology, orders: &Author, fleet: &Author) -> Vec<(&'static str, String)> {
    let directory = topology.directory().display();
    let file = |name: &str| format!("\"{directory}/{name}\"");
    let rules = format!(
        "[{{ who = \"*\", publish = [\"devices/%u/#\"], subscribe = [\"cmd/%u/#\"] }}, \
         {{ who = \"{HUB}\", publish = [\"cmd/#\"], subscribe = [\"cmd/#\", \"devices/#\"] }}]"
    );
    let seconds = |time: Duration| format!("\"{}s\"", time.as_secs());
    vec![
        ("gateway.name", format!("\"{THING}\"")),
        ("messages.listen", format!("\"{GATEWAY}:{PORT}\"")),
        ("messages.passwords", file("passwords")),
        ("messages.rules", rules),
        ("commands.topics", "[\"cmd/+/#\"]".to_owned()),
        ("commands.keys", format!("\"{}\"", orders.public().display())),
        // Nothing can have been seen before the first start.
        ("commands.skew", seconds(Duration::ZERO)),
        ("telemetry.topics", format!("[\"{}\"]", client::topic("+"))),
        ("telemetry.learning_period", seconds(Duration::from_secs(1))),
        ("telemetry.learning_messages", "50".to_owned()),
        ("telemetry.forward_every", seconds(Duration::from_secs(1))),
        ("policy.keys", format!("\"{}\"", fleet.public().display())),
        ("policy.fleet", format!("\"{FLEET}\"")),
        ("cloud.enabled", "true".to_owned()),
        ("cloud.endpoint", format!("\"{CLOUD}\"")),
        ("cloud.port", MQTT_PORT.to_string()),
        ("cloud.ca", file("ca.pem")),
        ("cloud.certificate", file("cloud.crt")),
        ("cloud.key", file("cloud.key")),
        ("cloud.rule", format!("\"{RULE}\"")),
        ("cloud.heartbeat", seconds(Duration::from_secs(30))),
        ("cloud.policy_origins", format!("[\"{}\"]", origin())),
        ("cloud.policy_ca", file("web-ca.pem")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_alone() {
        let text = "# HELP a_b x\na_b{kind=\"x\"} 4\na_b{kind=\"y\"} 38\na_bc 7\nother 9\n";
        assert_eq!(sum(text, "a_b"), 42);
        assert_eq!(sum(text, "missing"), 0);
    }
}
