//! A device that measured well begins to tell what cannot be: the answer on the gateway, and the mark in the cloud.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Checks, HUB, METERED, PATIENCE, Scene, client};
use crate::wait_for;

/// Spoof Reporting Message.
const TECHNIQUE: &str = "T0856";

/// Lets the recorder tell of 900 degrees.
pub(super) fn spike(scene: &mut Scene<'_>, checks: &mut Checks) -> Result<Duration> {
    let stage = &mut scene.stage;
    let learned = || stage.messages().is_ok_and(|messages| messages["telemetry"]["judged_topics"] == 2);
    checks.must(wait_for(PATIENCE, || learned().then_some(())).is_some(), "both topics are learned");
    let mac = stage.place(METERED)?.mac;
    let began = Instant::now();
    stage.metered.forge();
    let incident = wait_for(PATIENCE, || stage.incident(TECHNIQUE, mac).ok().flatten());
    let took = began.elapsed();
    checks.must(incident.is_some(), "an incident about the device");
    let block = wait_for(PATIENCE, || {
        let blocks = stage.agent.list(&["blocks", "list"], "blocks").ok()?;
        blocks.into_iter().find(|block| block["target"].as_str() == Some(mac))
    });
    let answered = began.elapsed();
    checks.must(block.is_some(), "an answer to it");
    let cut = wait_for(PATIENCE, || (!stage.metered.is_alive()).then_some(()));
    checks.must(cut.is_some(), "the device's session is cut");

    let marked = |report: &Value| {
        let body = &report["body"];
        let spikes = |one: &Value| one["mark"]["sign"] == "spike";
        body["kind"] == "telemetry"
            && body["device"] == METERED
            && body["measurements"].as_array().is_some_and(|all| all.iter().any(spikes))
    };
    let report = stage.cloud.report(&stage.topology.internet, PATIENCE, marked)?;
    checks.must(report.is_some(), "the marked measurement reaches the cloud");
    let topic = client::topic(METERED);
    let delivered =
        stage.panel.count(|heard| heard.topic == topic && heard.payload.starts_with(b"{\"t\":900"));
    checks.must(delivered > 0, format!("what is marked is delivered to the {HUB}"));
    let incident = stage.incident(TECHNIQUE, mac)?.unwrap_or_default();
    let response = incident["response"].as_str().context("an incident has a response")?;
    // Its reason follows, which is what was just done here.
    let response = response.split(": ").next().unwrap_or_default();
    checks.saw(format!(
        "an incident about the {METERED} after {:.0} ms; after {:.1} s {response}, and its session is cut; {delivered} of {} forged \
         measurements were delivered before, and the cloud got them marked as spikes",
        took.as_secs_f64() * 1e3,
        answered.as_secs_f64(),
        stage.metered.told().1,
    ));
    scene.wronged += scene.others(&[mac])?;
    scene.stage.agent.ask(&["blocks", "flush"])?;
    Ok(took)
}
