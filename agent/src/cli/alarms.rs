//! `tidegate alarms`: what CloudWatch watches over this gateway.

use std::path::PathBuf;

use serde::Serialize;

use crate::{
    cli::{
        error::{CliError, Exit},
        output::{Output, printable, table},
        provision::{load, thing},
    },
    config::Config,
    fleet::{
        aws::{self, AwsError},
        watch::{
            alarms::{self, Call},
            client::{Client, Standing},
        },
    },
};

/// Make, list and remove this gateway's alarms and dashboard in CloudWatch.
///
/// Each alarm wants several bad periods of several; a missing heartbeat is bad. One composite alarm stands over all, and only it
/// tells anybody. Credentials and region come from the environment, profiles or the machine's role.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make or renew them; running it again changes nothing.
    #[command(after_help = "\
Examples:
  tidegate alarms apply --dry-run                  the calls that would be made
  tidegate alarms apply --action arn:aws:sns:eu-central-1:123456789012:gateways")]
    Apply {
        #[command(flatten)]
        which: Which,
        /// Whom the composite alarm tells, for example an SNS topic.
        #[arg(long, value_name = "ARN")]
        action: Option<String>,
        /// Seconds of a period: 10, 30, or a multiple of 60. Below 60 needs `cloudwatch.high_resolution`.
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = period)]
        period: u32,
        /// Print each call and make none.
        #[arg(long)]
        dry_run: bool,
    },
    /// How they stand.
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Remove them.
    Delete {
        #[command(flatten)]
        which: Which,
        /// Print each call and make none.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which gateway's.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Configuration file; by default /etc/tidegate/tidegate.toml if it exists, else the defaults.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of the thing; by default `gateway.name`, else the host's name.
    #[arg(long, value_name = "NAME")]
    thing: Option<String>,
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
struct Done {
    dry_run: bool,
    calls: Vec<Call>,
}

#[derive(Debug, Serialize)]
struct Listed {
    alarms: Vec<Standing>,
}

impl From<AwsError> for CliError {
    fn from(error: AwsError) -> Self {
        Self::failure(error.to_string()).hint(error.hint)
    }
}

fn period(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(seconds @ (10 | 30)) => Ok(seconds),
        Ok(seconds) if seconds > 0 && seconds % 60 == 0 && seconds <= 1_440 => Ok(seconds),
        _ => Err("write 10, 30, or a multiple of 60 up to 1440".to_owned()),
    }
}

pub(super) async fn run(command: &Command, output: Output) -> Result<Exit, CliError> {
    let which = match command {
        Command::Apply { which, .. } | Command::List { which } | Command::Delete { which, .. } => which,
    };
    let config = load(which.config.as_deref())?;
    let thing = thing(which.thing.as_ref(), &config)?;
    let sdk = aws::config(region(&config), None).await;
    let section = &config.cloudwatch;
    let client = Client::new(&sdk, &section.namespace, &thing, section.high_resolution);
    let (calls, action, dry_run) = match command {
        Command::List { .. } => {
            let names = alarms::alarms(&thing, 60).into_iter().map(|alarm| alarm.name);
            let alarms = client.standing(names.chain([alarms::composite(&thing)]).collect()).await?;
            return output.show(Listed { alarms }, listed);
        }
        Command::Apply { action, period, dry_run, .. } => {
            let Some(region) = sdk.region() else {
                return Err(CliError::usage("no region is known").hint("set AWS_REGION or cloudwatch.region"));
            };
            let calls = alarms::apply(&thing, &section.namespace, region.as_ref(), *period);
            (calls, action.as_deref(), *dry_run)
        }
        Command::Delete { dry_run, .. } => (alarms::delete(&thing), None, *dry_run),
    };
    if !dry_run {
        for call in &calls {
            client.make(call, action).await?;
        }
    }
    output.show(Done { dry_run, calls }, shown)
}

fn region(config: &Config) -> Option<String> {
    Some(&config.cloudwatch.region)
        .filter(|region| !region.is_empty())
        .cloned()
        .or_else(|| aws::region_of(&config.cloud.endpoint).map(ToOwned::to_owned))
}

fn listed(listed: &Listed) -> String {
    let rows = listed
        .alarms
        .iter()
        .map(|alarm| [printable(&alarm.name), printable(&alarm.state), printable(&alarm.reason)]);
    table(["ALARM", "STATE", "WHY"], rows, "there are none; `tidegate alarms apply` makes them")
}

fn shown(done: &Done) -> String {
    let mut lines: Vec<String> = done
        .calls
        .iter()
        .map(|call| match call {
            Call::PutMetricAlarm(alarm) => format!(
                "cloudwatch:PutMetricAlarm {}: {} of {} {} {} in {} of {} periods of {} s{}",
                alarm.name,
                alarm.statistic,
                alarm.metric,
                if alarm.below { "below" } else { "above" },
                alarm.threshold,
                alarm.bad,
                alarm.periods,
                alarm.period_s,
                if alarm.missing_is_bad { ", missing ones included" } else { "" }
            ),
            Call::PutCompositeAlarm { name, rule } => format!("cloudwatch:PutCompositeAlarm {name}: {rule}"),
            Call::PutDashboard { name, .. } => format!("cloudwatch:PutDashboard {name}"),
            Call::DeleteAlarms { names } => format!("cloudwatch:DeleteAlarms {}", names.join(" ")),
            Call::DeleteDashboards { names } => format!("cloudwatch:DeleteDashboards {}", names.join(" ")),
        })
        .collect();
    if done.dry_run {
        lines.push("nothing was done".to_owned());
    }
    lines.join("\n")
}
