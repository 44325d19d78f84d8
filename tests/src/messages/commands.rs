//! Commands: one that is signed and usual, one that is signed and unusual, and some that an attacker makes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Checks, HUB, PATIENCE, PLUG, Scene, TECHNIQUE, VISITOR, client, stage::order_topic};
use crate::{interrupt, lab::Progress, wait_for};

/// Commands that teach what the plug is normally told: as many as Tidegate wants if nobody says otherwise.
const LESSONS: u32 = 100;
/// Pauses between them, in turn, in milliseconds: people give commands in bursts, and then none for a while.
const PAUSES: [u64; 6] = [0, 50, 100, 200, 400, 800];
/// Codes of MQTT 5 from here on are refusals.
const REFUSAL: u8 = 0x80;

/// Signed commands reach the plug, and become its habit.
pub(super) fn allowed(scene: &mut Scene<'_>, checks: &mut Checks) -> Result<Duration> {
    let mut times = Vec::new();
    for number in 0..LESSONS {
        times.extend(scene.order("set", number % 10)?);
        interrupt::pause(Duration::from_millis(PAUSES[number as usize % PAUSES.len()]))?;
    }
    checks.must(times.len() as u32 == LESSONS, format!("{} of {LESSONS} commands arrived", times.len()));
    let agent = &scene.stage.agent;
    let is_known = || agent.ask(&["commands", "list"]).is_ok_and(|list| list["known"] == 1);
    checks.must(wait_for(PATIENCE, || is_known().then_some(())).is_some(), "the plug's habit is known");
    let slowest = times.into_iter().max().unwrap_or_default();
    checks.saw(format!(
        "{LESSONS} signed commands reached the {PLUG}, the slowest after {:.1} ms, and became its habit",
        slowest.as_secs_f64() * 1e3
    ));
    Ok(slowest)
}

/// A signed command unlike every one before is held, told to its sender and to the operator, and stops nobody else's.
pub(super) fn blocked(scene: &mut Scene<'_>, checks: &mut Checks) -> Result<Duration> {
    let payload = scene.stage.orders.command("erase", 1)?;
    scene.hostile.push(payload.clone());
    let file = scene.stage.file(&payload)?;
    let (hub, began) = (scene.stage.place(HUB)?, Instant::now());
    let code = client::told(hub, HUB, &order_topic(), &file)?;
    let took = began.elapsed();
    if code >= REFUSAL {
        scene.blocked = Some(took);
        (scene.view)(Progress::Refused(took.as_secs_f64(), &format!("the sender was told {code:#x}")));
    }
    checks.must(code >= REFUSAL, format!("the sender was told {code:#x}, no refusal"));
    let stage = &scene.stage;
    let mac = stage.place(HUB)?.mac;
    let incident = wait_for(PATIENCE, || stage.incident(TECHNIQUE, mac).ok().flatten());
    let incident = incident.context("the command became no incident")?;
    let detected = began.elapsed();
    scene.detected = Some(detected);
    let summary = incident["summary"].as_str().unwrap_or_default();
    (scene.view)(Progress::Detected(detected.as_secs_f64(), &format!("{TECHNIQUE} {summary}")));
    let id = incident["id"].as_str().unwrap_or_default();
    let explanation = stage.agent.ask(&["explain", id])?["explanation"].to_string();
    checks.must(explanation.contains("erase"), format!("the explanation names the command: {explanation}"));

    let held = stage.agent.ask(&["commands", "list"])?["waiting"][0].take();
    checks.must(held["verb"] == "erase", format!("it waits for an operator: {held}"));
    let next = scene.order("set", 5)?;
    checks.must(next.is_some(), "the next command is not behind it");
    let id = held["id"].as_str().context("a held command has an id")?;
    scene.stage.agent.ask(&["commands", "drop", id])?;
    checks.must(scene.arrivals(&payload) == 0, "it does not reach the plug");
    let why = held["why"].as_str().unwrap_or_default();
    checks.saw(format!(
        "held and told to the sender ({code:#x}) after {:.0} ms: {why}",
        took.as_secs_f64() * 1e3
    ));
    Ok(took)
}

/// Who has the hub's password and no key gives no command, whatever it overhears.
pub(super) fn forged(scene: &mut Scene<'_>, checks: &mut Checks) -> Result<Duration> {
    let overheard = scene.normal.last().context("nothing was said")?.clone();
    checks.must(scene.stage.spy.when(&overheard).is_some(), "the attacker hears the hub's commands");
    let arrived = scene.arrivals(&overheard);
    let mut altered = scene.stage.orders.command("set", 5)?;
    if let Some(last) = altered.last_mut() {
        *last ^= 1;
    }
    let forgeries = [
        ("command-unsigned", br#"{"verb":"set","level":5}"#.to_vec()),
        ("command-key", scene.stage.stranger.command("set", 5)?),
        ("command-signature", altered),
        ("command-replayed", overheard.clone()),
    ];
    let mut slowest = Duration::ZERO;
    for (reason, payload) in forgeries {
        let took = refused(scene, checks, VISITOR, reason, &payload)?;
        slowest = slowest.max(took);
        if payload != overheard {
            scene.hostile.push(payload);
        }
    }
    checks.must(scene.arrivals(&overheard) == arrived, "what was replayed does not arrive again");
    let stage = &scene.stage;
    let mac = stage.place(VISITOR)?.mac;
    let incident = wait_for(PATIENCE, || stage.incident(TECHNIQUE, mac).ok().flatten());
    checks.must(incident.is_some(), "an incident about the attacker");
    checks.saw(format!(
        "unsigned, signed by a stranger, altered and replayed with the {HUB}'s own password: refused, the slowest after {:.0} ms, \
         and an incident about the {VISITOR}",
        slowest.as_secs_f64() * 1e3
    ));
    Ok(slowest)
}

/// Gives a command from `origin` that must be refused for `reason`; how long the sender waited for that word.
pub(super) fn refused(
    scene: &Scene<'_>,
    checks: &mut Checks,
    origin: &str,
    reason: &str,
    payload: &[u8],
) -> Result<Duration> {
    let stage = &scene.stage;
    let count = || anyhow::Ok(stage.messages()?["refused"][reason].as_u64().unwrap_or(0));
    let before = count()?;
    let file = stage.file(payload)?;
    let began = Instant::now();
    let code = client::told(stage.place(origin)?, HUB, &order_topic(), &file)?;
    let took = began.elapsed();
    checks.must(code >= REFUSAL, format!("{reason}: the sender was told {code:#x}, no refusal"));
    checks.must(count()? == before + 1, format!("{reason} is counted"));
    Ok(took)
}
