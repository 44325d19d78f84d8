//! `cargo xtask lab`: builds the agent, hands it to the lab, and shows what happens.

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tidegate_tests::{
    device::Reading,
    lab::{Options, Progress},
    report::{Outcome, Report},
};

use crate::{
    Output, build,
    setup::{self, Tier},
    shell,
};

/// The shortest time in which a baseline can be learned, and some.
const LEARNING: Duration = Duration::from_secs(75);
/// Enough to see devices behave, for attacks that need no baseline.
const GLIMPSE: Duration = Duration::from_secs(10);

/// The scenario that needs a cloud; all others do without.
const MESSAGES: &str = tidegate_tests::lab::MESSAGES;

/// Arguments of `lab`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Needs root. Everything happens in network namespaces called tg-…, which are removed at the end, after Ctrl-C, and, should
the lab be killed, at its next start. The scenario `messages` plays commands, telemetry, policies and a cloud that goes away, with an
emulator of AWS that is installed into target/ at first. Exit code 0 means: every attack detected and shut out, nothing leaked,
nobody else harmed, and every step of `messages` passed.")]
pub(crate) struct Arguments {
    /// Only this scenario; repeat for more
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// Afterwards let the devices behave for so long and count what was blocked
    #[arg(long, value_name = "N", default_value_t = 0)]
    quiet_minutes: u64,
    #[command(flatten)]
    output: Output,
}

/// Runs the lab.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let needs_baseline = |name: &String| {
        tidegate_tests::attack::Attack::by_name(name).is_some_and(|attack| attack.needs_baseline)
    };
    let all_by_rules = !arguments.scenario.is_empty() && !arguments.scenario.iter().any(needs_baseline);
    let report = play(
        &arguments.scenario,
        if all_by_rules { GLIMPSE } else { LEARNING },
        Duration::from_secs(60 * arguments.quiet_minutes),
    )?;
    if let Some(file) = &arguments.output.json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
        println!("  figures in {}", file.display());
    }
    judge(&report)
}

/// The lab of CI: three attacks of different kinds, and the messages between devices, gateway and cloud.
pub(crate) fn smoke() -> Result<()> {
    let scenarios = ["vertical-scan", "brute-force", "mirai-telnet", MESSAGES].map(str::to_owned);
    judge(&play(&scenarios, GLIMPSE, Duration::ZERO)?)
}

/// The lab as the first thing a newcomer sees.
pub(crate) fn show() -> Result<()> {
    let report =
        play(&["vertical-scan", "syn-flood", "mirai-telnet"].map(str::to_owned), GLIMPSE, Duration::ZERO)?;
    judge(&report)?;
    println!(
        "\nTidegate detected {} attacks and blocked them in the kernel while every other device kept its service.\n\
         Next: `cargo xtask lab` plays all scenarios; `cargo xtask run -i lan0` guards your own network.",
        report.scenarios.len()
    );
    Ok(())
}

fn play(scenarios: &[String], warm_up: Duration, quiet: Duration) -> Result<Report> {
    let toolchain = setup::run(Tier::Lab)?;
    if !shell::is_root() {
        bail!("the lab needs root, for network namespaces and kernel programs: sudo -E cargo xtask lab");
    }
    let needs_cloud = scenarios.is_empty() || scenarios.iter().any(|name| name == MESSAGES);
    let emulator = if needs_cloud { Some(setup::emulator()?) } else { None };
    build::bpf(&toolchain)?;
    let binary = build::agent(true)?;
    shell::step("the lab");
    let options = Options { binary, emulator, scenarios: scenarios.to_vec(), warm_up, quiet };
    let mut view = View { live: std::io::stdout().is_terminal(), pending: false };
    let report = tidegate_tests::lab::run(&options, &mut |progress| view.show(&progress))?;
    println!();
    table(&report);
    Ok(report)
}

/// Prints progress; on a terminal a countdown overwrites itself.
struct View {
    live: bool,
    pending: bool,
}

impl View {
    fn show(&mut self, progress: &Progress<'_>) {
        if let Progress::Behaving(left) = progress {
            if self.live {
                print!("\r  devices behave, {:>3.0} s to go ", left.as_secs_f64());
                // A terminal that cannot be flushed cannot be watched either.
                let _ = std::io::stdout().flush();
            } else if !self.pending {
                println!("  devices behave for {:.0} s", left.as_secs_f64());
            }
            self.pending = true;
            return;
        }
        if self.pending && self.live {
            println!();
        }
        self.pending = false;
        match progress {
            Progress::Preparing(what) => println!("  {what}"),
            Progress::Ready(after) => {
                println!("  tidegate guards the gateway's ports, ready after {:.2} s", after.as_secs_f64());
            }
            Progress::Attack(attack) => println!("\n\x1b[1m{}\x1b[0m: {}", attack.name, attack.story),
            Progress::Scene(name, story) => println!("\n\x1b[1m{name}\x1b[0m: {story}"),
            Progress::Step(step) => println!("  {:<16} {}: {}", step.step, passed(step.passed), step.note),
            Progress::Detected(after, summary) => println!("  {after:>6.2} s  detected: {summary}"),
            Progress::Blocked(after, detail) => {
                println!("  {after:>6.2} s  \x1b[31mblocked in the kernel\x1b[0m: {detail}");
            }
            Progress::Refused(after, answer) => {
                println!("  {after:>6.2} s  \x1b[31mrefused\x1b[0m: {answer}");
            }
            Progress::Over(outcome) => println!("  {}", verdict(outcome)),
            Progress::Served(served) => println!("  served: {}", describe(served)),
            Progress::Note(note) => println!("  note: {note}"),
            Progress::Behaving(_) => {}
        }
    }
}

fn describe(served: &[(&'static str, Reading)]) -> String {
    let one = |(name, reading): &(&str, Reading)| match reading.failed {
        0 => format!("{name} {}", reading.served),
        failed => format!("{name} {} (\x1b[31m{failed} failed\x1b[0m)", reading.served),
    };
    served.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn verdict(outcome: &Outcome) -> String {
    match (outcome.detected, outcome.block_s) {
        (_, Some(after)) => format!(
            "shut out after {after:.2} s, {} packets leaked afterwards, {} wrong blocks, service {}",
            outcome.leaked_packets,
            outcome.false_blocks,
            if outcome.service_kept { "kept" } else { "disturbed" }
        ),
        (true, None) => "\x1b[31mdetected but not blocked\x1b[0m".to_owned(),
        (false, None) => "\x1b[31mnot detected\x1b[0m".to_owned(),
    }
}

const fn passed(passed: bool) -> &'static str {
    if passed { "passed" } else { "\x1b[31mFAILED\x1b[0m" }
}

fn table(report: &Report) {
    println!(
        "{:<16} {:<10} {:>8} {:>8} {:>7} {:>7}  service",
        "scenario", "technique", "detect", "block", "leaked", "wrong"
    );
    let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2} s"));
    for outcome in &report.scenarios {
        println!(
            "{:<16} {:<10} {:>8} {:>8} {:>7} {:>7}  {}",
            outcome.name,
            outcome.technique,
            seconds(outcome.detect_s),
            seconds(outcome.block_s),
            outcome.leaked_packets,
            outcome.false_blocks,
            if outcome.service_kept { "kept" } else { "disturbed" }
        );
    }
    if let Some(messages) = &report.messages {
        println!("{:<16} {:>8}  passed", "step", "took");
        for step in &messages.steps {
            println!("{:<16} {:>6.2} s  {}", step.step, step.seconds, passed(step.passed));
        }
        println!(
            "reports to the cloud: {} delivered, {} lost, {} out of order, {} repeated; {} waited when it came back",
            messages.delivered, messages.lost, messages.reordered, messages.repeated, messages.waited
        );
    }
    if let Some(quiet) = &report.quiet {
        println!(
            "quiet for {:.0} minutes: {} wrong blocks, {} incidents, service {}",
            quiet.minutes,
            quiet.false_blocks,
            quiet.incidents,
            if quiet.service_kept { "kept" } else { "disturbed" }
        );
    }
    println!("tidegate: ready after {:.2} s, {:.1} MiB resident", report.ready_s, report.resident_mib);
}

fn judge(report: &Report) -> Result<()> {
    if !report.is_good() {
        bail!(
            "not every attack was shut out without a leak and without harm to others, or a step failed; see the table"
        );
    }
    Ok(())
}
