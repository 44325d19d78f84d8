//! A signed policy on its way through the shadow: fetched, in force, and acknowledged.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::{Checks, HUB, LATER, PATIENCE, PLUG, Scene, commands::refused};
use crate::wait_for;

const VERSION: u64 = 7;
/// What the plug may be told from then on.
const MOST: u32 = 4;

/// Narrows what the plug may be told, from the cloud.
pub(super) fn applied(scene: &mut Scene<'_>, checks: &mut Checks) -> Result<Duration> {
    checks.must(scene.order("set", MOST + 1)?.is_some(), "before, the plug may be told more");
    let settings = format!(
        "command_rules = [{{ device = \"{PLUG}\", verbs = [\"set\"], params = {{ level = {{ min = 0, max = {MOST} }} }} }}]"
    );
    let stage = &mut scene.stage;
    let (hash, address) = stage.publish_policy(VERSION, &settings)?;
    let internet = &stage.topology.internet;
    let began = Instant::now();
    stage.cloud.wish(internet, VERSION, &hash, &address)?;
    let answer = wait_for(LATER, || {
        let answer = stage.cloud.answer(internet).ok()?;
        (answer["wanted"] == VERSION).then_some(answer)
    });
    let took = began.elapsed();
    let answer = answer.unwrap_or_default();
    checks.must(
        answer["version"] == VERSION && answer["refused"].is_null(),
        format!("the shadow says that it is in force: {answer}"),
    );
    let shown = stage.agent.ask(&["policy", "show"])?;
    checks.must(shown["version"] == VERSION, format!("the gateway shows it: {shown}"));
    let of_policy = |report: &Value| {
        let body = &report["body"];
        body["kind"] == "policy" && body["outcome"] == "applied" && body["version"] == VERSION
    };
    let report = stage.cloud.report(internet, PATIENCE, of_policy)?;
    checks.must(report.is_some(), "the report of it reaches the cloud");

    let too_much = stage.orders.command("set", MOST + 1)?;
    refused(scene, checks, HUB, "command-parameter", &too_much)?;
    scene.hostile.push(too_much);
    checks.must(scene.order("set", MOST)?.is_some(), "what the policy allows arrives");
    checks.saw(format!(
        "policy {VERSION} fetched, in force and acknowledged in the shadow after {:.1} s; the {HUB} may set the {PLUG} to {MOST} at most",
        took.as_secs_f64()
    ));
    Ok(took)
}
