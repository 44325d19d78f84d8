//! `tidegate provision` and `deprovision`: this gateway as a thing of AWS IoT Core.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use aws_credential_types::provider::SharedCredentialsProvider;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    cli::{
        error::{CliError, Exit},
        output::Output,
    },
    config::{Config, period::Period},
    fleet::{
        aws,
        provision::{
            self, Call, Outcome, ProvisionError, Wish,
            claim::{Claim, claim},
            identity::Files,
            proof::Broker,
            registry::Aws,
            renewal::{Due, Renewal},
        },
        role::RoleAlias,
        tls::TlsFiles,
    },
};

/// Make this gateway a thing of AWS IoT Core: type, group, thing, certificate and a policy with no more rights than it uses.
///
/// Running it again completes what is missing and makes no second certificate. The private key is made here and never leaves its file (mode
/// 0600). Credentials and region come from the environment, profiles or the machine's role, as for every tool of AWS. With a claim
/// certificate none are needed: the gateway asks for its own certificate over MQTT.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate provision --dry-run                     the calls that would be made
  tidegate provision --thing gate-17
  tidegate provision --renew-within 30d            from tidegate-renew.timer: a new pair before the old one ends
  tidegate provision --template tidegate --claim-certificate claim.crt --claim-key claim.key \\
      --parameter SerialNumber=4711                by claim, to the endpoint in the configuration")]
pub(super) struct Args {
    /// Configuration file; by default /etc/tidegate/tidegate.toml if it exists, else the defaults.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of the thing; by default `gateway.name`, else the host's name.
    #[arg(long, value_name = "NAME")]
    thing: Option<String>,
    /// Type of the thing.
    #[arg(long, value_name = "NAME", default_value = "tidegate-gateway")]
    thing_type: String,
    /// Group it joins.
    #[arg(long, value_name = "NAME", default_value = "tidegate")]
    group: String,
    /// Policy of its certificate; shared by the fleet.
    #[arg(long, value_name = "NAME", default_value = "tidegate-gateway")]
    policy: String,
    /// Only replace key and certificate, and only if the certificate ends within this time, such as `30d`. The new one takes its place once
    /// the broker has let it in; then the one before is removed. With the credentials of `cloudwatch.role_alias` if there is one.
    #[arg(long, value_name = "TIME", conflicts_with = "template")]
    renew_within: Option<Period>,
    /// Print each call and make none.
    #[arg(long, conflicts_with = "template")]
    dry_run: bool,
    /// Provisioning template, for provisioning by claim.
    #[arg(long, value_name = "NAME", requires = "claim_certificate", requires = "claim_key")]
    template: Option<String>,
    /// Claim certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "template")]
    claim_certificate: Option<PathBuf>,
    /// Its key (PEM), mode 0600.
    #[arg(long, value_name = "FILE", requires = "template")]
    claim_key: Option<PathBuf>,
    /// Parameter of the template; may be repeated. `ThingName` is always given.
    #[arg(long = "parameter", value_name = "NAME=VALUE", requires = "template", value_parser = parameter)]
    parameters: Vec<(String, String)>,
}

/// Undo `provision`: the thing and its certificates go; type, group and policy are the fleet's and stay.
///
/// The gateway's files stay as well; their certificate is worth nothing afterwards.
#[derive(Debug, clap::Args)]
pub(super) struct UndoArgs {
    /// Configuration file; by default /etc/tidegate/tidegate.toml if it exists, else the defaults.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of the thing; by default `gateway.name`, else the host's name.
    #[arg(long, value_name = "NAME")]
    thing: Option<String>,
    /// Print each call and make none.
    #[arg(long)]
    dry_run: bool,
}

/// What was done, and what belongs into the configuration.
#[derive(Debug, Serialize)]
struct Done {
    #[serde(flatten)]
    outcome: Outcome,
    /// Lines for the configuration file.
    settings: Option<String>,
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl From<ProvisionError> for CliError {
    fn from(error: ProvisionError) -> Self {
        Self::failure(error.to_string()).hint(error.hint())
    }
}

/// The configuration of `file` or the default one.
pub(super) fn load(file: Option<&Path>) -> Result<Config, CliError> {
    Ok(Config::locate(file).map(|path| Config::load(&path)).transpose()?.unwrap_or_default())
}

/// The thing's name: asked for, or the gateway's.
pub(super) fn thing(asked: Option<&String>, config: &Config) -> Result<String, CliError> {
    let name = asked.cloned().unwrap_or_else(|| config.gateway_name());
    let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':');
    if name.is_empty() || name.len() > 128 || !name.bytes().all(is_sound) {
        return Err(CliError::usage(format!("{name:?} is no name of a thing"))
            .hint("up to 128 letters, digits, `-`, `_` and `:`; name one with --thing or in gateway.name"));
    }
    Ok(name)
}

pub(super) async fn run(args: &Args, output: Output) -> Result<Exit, CliError> {
    let config = load(args.config.as_deref())?;
    let thing = thing(args.thing.as_ref(), &config)?;
    let cloud = &config.cloud;
    let files = Files { certificate: PathBuf::from(&cloud.certificate), key: PathBuf::from(&cloud.key) };
    let claimed = (&args.template, &args.claim_certificate, &args.claim_key);
    let outcome = if let (Some(template), Some(certificate), Some(key)) = claimed {
        if cloud.endpoint.is_empty() {
            return Err(CliError::usage("nothing says where to claim").hint("name cloud.endpoint"));
        }
        let ca = Some(PathBuf::from(&cloud.ca)).filter(|path| !path.as_os_str().is_empty());
        let wanted = Claim {
            endpoint: cloud.endpoint.clone(),
            port: cloud.port,
            tls: TlsFiles { ca, certificate: certificate.clone(), key: key.clone() },
            template: template.clone(),
            thing,
            parameters: args.parameters.iter().cloned().collect::<BTreeMap<_, _>>(),
        };
        claim(&wanted, &files).await?
    } else if let Some(within) = args.renew_within {
        renew(&config, thing, within, args.dry_run).await?
    } else {
        let wish = Wish {
            thing,
            thing_type: args.thing_type.clone(),
            group: args.group.clone(),
            policy: args.policy.clone(),
            rule: cloud.rule.clone(),
            role_alias: Some(config.cloudwatch.role_alias.clone()).filter(|alias| !alias.is_empty()),
        };
        let registry = registry(&config, None).await;
        provision::provision(&registry, &wish, &files, args.dry_run).await?
    };
    let settings = settings(&outcome, &config);
    output.show(Done { outcome, settings }, shown)
}

/// The registry, with `credentials` or those of the default chain.
async fn registry(config: &Config, credentials: Option<SharedCredentialsProvider>) -> Aws {
    let region = aws::region_of(&config.cloud.endpoint).map(ToOwned::to_owned);
    Aws::new(&aws::config(region, credentials).await)
}

/// Replaces the certificate if it ends within `within`. Credentials are asked for only if there is something to do.
async fn renew(config: &Config, thing: String, within: Period, dry_run: bool) -> Result<Outcome, CliError> {
    let cloud = &config.cloud;
    if cloud.endpoint.is_empty() {
        return Err(CliError::usage("nothing says where a new certificate has to prove itself")
            .hint("name cloud.endpoint"));
    }
    let proof = Broker { endpoint: cloud.endpoint.clone(), port: cloud.port, thing: thing.clone() };
    let before = Timestamp::now().checked_add(within.0).unwrap_or(Timestamp::MAX);
    let renewal = Renewal { thing: thing.clone(), tls: config.cloud_tls(), before, proof };
    let (mut calls, mut left) = (Vec::new(), None);
    for due in Due::ALL {
        if !renewal.is_due(due, dry_run)? {
            continue;
        }
        match serve(config, &renewal, due, dry_run).await {
            Ok(made) => calls.extend(made),
            // What an earlier renewal left does not hold up the next one.
            Err(error) if due == Due::Retire => left = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(error) = left {
        return Err(error.into());
    }
    let certificate = renewal.files().certificate_id().map_err(ProvisionError::from)?;
    Ok(Outcome { thing, endpoint: Some(cloud.endpoint.clone()), certificate, dry_run, calls })
}

/// Does what is due with the credentials that it needs: those of the role alias if there is one, else of the default chain.
async fn serve(
    config: &Config,
    renewal: &Renewal<Broker>,
    due: Due,
    dry_run: bool,
) -> Result<Vec<Call>, ProvisionError> {
    let Some(alias) = config.role_alias() else {
        return renewal.serve(due, &registry(config, None).await, dry_run).await;
    };
    let of = |due| RoleAlias { thing: renewal.thing.clone(), tls: renewal.pair(due), ..alias.clone() };
    let given = match of(due).exchange().await {
        // A certificate that is refused where the present one is not is in force no longer.
        Err(error)
            if due == Due::Retire && error.is_refusal() && of(Due::Replace).exchange().await.is_ok() =>
        {
            if !dry_run {
                renewal.files().old().remove()?;
            }
            return Ok(Vec::new());
        }
        given => SharedCredentialsProvider::new(given?),
    };
    renewal.serve(due, &registry(config, Some(given)).await, dry_run).await
}

pub(super) async fn undo(args: &UndoArgs, output: Output) -> Result<Exit, CliError> {
    let config = load(args.config.as_deref())?;
    let thing = thing(args.thing.as_ref(), &config)?;
    let registry = registry(&config, None).await;
    let outcome = provision::deprovision(&registry, &thing, args.dry_run).await?;
    output.show(Done { outcome, settings: None }, shown)
}

/// What the file lacks for the link to work.
fn settings(outcome: &Outcome, config: &Config) -> Option<String> {
    let endpoint = outcome.endpoint.as_ref()?;
    let is_named = !config.gateway.name.is_empty() && config.gateway.name == outcome.thing;
    let is_linked = config.cloud.enabled && config.cloud.endpoint == *endpoint;
    let name = (!is_named).then(|| format!("[gateway]\nname = {:?}\n", outcome.thing));
    let link = (!is_linked).then(|| format!("[cloud]\nenabled = true\nendpoint = {endpoint:?}\n"));
    let lines: String = name.into_iter().chain(link).collect();
    Some(lines).filter(|lines| !lines.is_empty())
}

fn shown(done: &Done) -> String {
    let outcome = &done.outcome;
    let mut lines: Vec<String> = outcome.calls.iter().map(line).collect();
    if outcome.calls.is_empty() {
        lines.push("nothing is left to do".to_owned());
    } else if outcome.dry_run {
        lines.push("nothing was done".to_owned());
    }
    if let Some(certificate) = &outcome.certificate {
        lines.push(format!("{} holds certificate {certificate}", outcome.thing));
    }
    if let Some(settings) = &done.settings {
        lines.push(format!("\nthe configuration file needs:\n{settings}"));
    }
    lines.join("\n")
}

/// A call and its parameters on one line.
fn line(call: &Call) -> String {
    let value = serde_json::to_value(call).unwrap_or_default();
    let mut parts = vec![format!("iot:{}", value["call"].as_str().unwrap_or_default())];
    for (name, value) in value.as_object().into_iter().flatten() {
        match value {
            _ if name == "call" => {}
            serde_json::Value::Null => parts.push(format!("{name}=(the new one)")),
            serde_json::Value::String(text) => parts.push(format!("{name}={text}")),
            other => parts.push(format!("{name}={other}")),
        }
    }
    parts.join(" ")
}
