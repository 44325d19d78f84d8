//! The cloud is away: everything on the gateway goes on, and when it is back it gets all that it missed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Checks, LATER, PATIENCE, Scene, VISITOR, client, commands::refused};
use crate::{attack::Attack, lab::Lab, wait_for};

/// What is attacked meanwhile, and the technique of its incident.
const ATTACK: &str = "vertical-scan";

/// Cuts the cloud off, plays on, and lets it return.
pub(super) fn cut(scene: &mut Scene<'_>, checks: &mut Checks) -> Result<Duration> {
    let stage = &mut scene.stage;
    let topic = client::topic(super::SENSOR);
    let heard = stage.panel.count(|heard| heard.topic == topic);
    let went = Instant::now();
    stage.cloud.emulator.stop();
    let noticed = wait_for(LATER, || (!stage.is_online().ok()?).then(|| went.elapsed()));
    checks.must(noticed.is_some(), "the gateway says that the cloud is away");
    let waited_before = stage.outbox()?.0;

    let delivered = scene.order("set", 2)?;
    checks.must(delivered.is_some(), "a command is delivered without the cloud");
    let replayed = scene.normal.last().context("nothing was said")?.clone();
    refused(scene, checks, VISITOR, "command-replayed", &replayed)?;
    let attack = Attack::by_name(ATTACK).context("there is no such attack")?;
    let stage = &scene.stage;
    let mut lab = Lab {
        topology: &stage.topology,
        devices: &stage.devices,
        agent: &stage.agent,
        view: &mut *scene.view,
    };
    let outcome = lab.attack(attack, 0)?;
    checks.must(outcome.detected && outcome.block_s.is_some(), "an attack is detected and shut out");
    checks.must(outcome.leaked_packets == 0, format!("{} packets leaked", outcome.leaked_packets));
    scene.wronged += outcome.false_blocks;
    let measured = stage.panel.count(|heard| heard.topic == topic) - heard;
    let waited = stage.outbox()?.0;
    checks.must(waited > waited_before, format!("reports wait: {waited_before}, then {waited}"));
    let away = went.elapsed();
    scene.waited = waited;
    scene.went_on = delivered.is_some() && measured > 0;
    checks.must(!scene.stage.is_online()?, "the cloud is away until here");

    let back = Instant::now();
    let stage = &mut scene.stage;
    let internet = &stage.topology.internet;
    stage.cloud.emulator.start(internet)?;
    let technique = attack.technique;
    let of_attack = |report: &serde_json::Value| {
        report["body"]["kind"] == "incident" && report["body"]["technique"] == technique
    };
    let report = stage.cloud.report(internet, LATER, of_attack)?;
    checks.must(report.is_some(), "the incident of that time reaches the cloud");
    let drained = wait_for(LATER, || (stage.outbox().ok()?.0 < waited).then_some(()));
    checks.must(drained.is_some(), "what waited leaves the gateway");
    let online = wait_for(PATIENCE, || stage.is_online().ok()?.then_some(()));
    checks.must(online.is_some(), "the gateway says that the cloud is back");
    let took = back.elapsed();
    checks.saw(format!(
        "away for {:.0} s: a command delivered after {:.1} ms, {measured} measurements passed on, a replay refused, {ATTACK} shut out after \
         {:.2} s, {waited} reports waited; they were delivered {:.1} s after the cloud was started again",
        away.as_secs_f64(),
        delivered.unwrap_or_default().as_secs_f64() * 1e3,
        outcome.block_s.unwrap_or_default(),
        took.as_secs_f64(),
    ));
    Ok(took)
}
