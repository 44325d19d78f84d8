//! `tidegate doctor`: what this machine offers, checked without the daemon and without changing anything.

mod machine;
mod setup;

use std::path::PathBuf;

use crate::{
    api::view::{CheckState, CheckView, DoctorReport},
    cli::{
        error::{CliError, Exit},
        output::{Output, table},
    },
    config::{Config, Source},
};

/// Check whether this machine can guard, and say what to do where it cannot.
///
/// Works without the daemon and changes nothing. Exits with 1 when a check fails; warnings alone exit with 0.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate doctor -i lan0
  tidegate doctor -c /etc/tidegate/tidegate.toml -o json | jq '.checks[] | select(.state != \"ok\")'")]
pub(super) struct Args {
    /// Configuration file; by default /etc/tidegate/tidegate.toml if it exists, else the defaults.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Port on the protected side; may be repeated. Replaces the list in the file.
    #[arg(short, long = "interface", value_name = "IFACE")]
    interfaces: Vec<String>,
}

pub(super) fn run(args: &Args, output: Output) -> Result<Exit, CliError> {
    let report = examine(args);
    let exit = if report.worst() == CheckState::Fail { Exit::Failure } else { Exit::Ok };
    output.show(report, listing)?;
    Ok(exit)
}

/// Everything that is looked at, in the order a newcomer would.
pub(super) fn examine(args: &Args) -> DoctorReport {
    let source = Source {
        path: Config::locate(args.config.as_deref()),
        interfaces: args.interfaces.clone(),
        ..Source::default()
    };
    let mut checks = machine::checks();
    match source.load() {
        Ok(config) => {
            let name = source.path.map_or("none, defaults".to_owned(), |path| path.display().to_string());
            checks.push(ok("configuration", name));
            checks.extend(setup::checks(&config));
        }
        Err(error) => checks.push(fail("configuration", error.to_string(), error.hint())),
    }
    DoctorReport { checks }
}

/// Examines with the default configuration, for `support dump`.
pub(super) fn report() -> DoctorReport {
    examine(&Args { config: None, interfaces: Vec::new() })
}

fn ok(name: impl Into<String>, found: impl Into<String>) -> CheckView {
    CheckView { name: name.into(), state: CheckState::Ok, found: found.into(), hint: String::new() }
}

fn warn(name: impl Into<String>, found: impl Into<String>, hint: impl Into<String>) -> CheckView {
    CheckView { name: name.into(), state: CheckState::Warn, found: found.into(), hint: hint.into() }
}

fn fail(name: impl Into<String>, found: impl Into<String>, hint: impl Into<String>) -> CheckView {
    CheckView { name: name.into(), state: CheckState::Fail, found: found.into(), hint: hint.into() }
}

fn listing(report: &DoctorReport) -> String {
    let rows = report.checks.iter().map(|check| {
        let state = match check.state {
            CheckState::Ok => "ok",
            CheckState::Warn => "WARN",
            CheckState::Fail => "FAIL",
        };
        [check.name.clone(), state.to_owned(), check.found.clone(), check.hint.clone()]
    });
    table(["CHECK", "STATE", "FOUND", "WHAT TO DO"], rows, "nothing was checked")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "a missing check is the test's failure")]

    use super::*;

    #[test]
    fn a_missing_port_fails_and_says_what_to_do() {
        let report = examine(&Args { config: None, interfaces: vec!["tg-absent".to_owned()] });
        let check =
            report.checks.iter().find(|check| check.name == "port tg-absent").expect("the port is looked at");
        assert_eq!(check.state, CheckState::Fail);
        assert!(check.hint.contains("ip -brief link"), "{check:?}");
        assert_eq!(report.worst(), CheckState::Fail);
    }

    #[test]
    fn a_broken_configuration_is_a_failed_check() {
        let config = Some(PathBuf::from("/nonexistent/tidegate.toml"));
        let report = examine(&Args { config, interfaces: Vec::new() });
        assert!(
            report
                .checks
                .iter()
                .any(|check| check.name == "configuration" && check.state == CheckState::Fail)
        );
    }
}
