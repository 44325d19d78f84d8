//! `tidegate policy`: signed settings of a fleet.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    api::{
        Client,
        view::{PolicyCheckView, PolicyView},
    },
    cli::{
        error::{CliError, Exit},
        output::{Output, or_dash, printable, table},
    },
    config::Config,
    policy::{Change, Document, MAX_BYTES, Reason, SigningKey, TrustAnchors, open, seal},
};

/// Show, check, apply and roll back signed policies; make keys, sign and verify.
///
/// A policy lies over the configuration file until it expires: sensitivity, verdicts and isolation levels by technique, never-block
/// entries, isolated devices, devices held to descriptions. It is signed with Ed25519 (COSE_Sign1); gateways take it when the public
/// key stands in the file named by `policy.keys`, it is for them and for now, and its version is above every one before.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show the policy in force, the ones before, and what was refused.
    Show,
    /// Say what a sealed policy would change on this gateway; changes nothing.
    Check {
        /// Sealed policy; `-` for standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Put a sealed policy in force.
    Apply {
        /// Sealed policy; `-` for standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Put the policy before in force again; without one, the configuration file rules.
    Rollback,
    /// Sign a document, in TOML or JSON; asks no daemon.
    #[command(after_help = "\
Examples:
  tidegate policy keygen --output fleet            fleet.key, to be kept secret, and fleet.pub for the gateways
  tidegate policy sign home.toml --key fleet.key --output home.policy
  tidegate policy verify home.policy --keys fleet.pub
  tidegate policy check home.policy                what it would change here
  tidegate policy apply home.policy

A document:
  version = 7
  fleet = \"home\"
  not_before = \"2026-01-01T00:00:00Z\"
  expires = \"2026-07-01T00:00:00Z\"
  [settings]
  sensitivity = \"high\"
  techniques = { T1046 = \"observe\", T1110 = \"full\" }
  never_block = { devices = [\"02:00:5e:10:00:01\"] }
  isolation = [{ device = \"02:00:5e:10:00:02\", level = \"cloud-only\", reason = \"waits for its update\" }]")]
    Sign {
        /// Document; `-` for standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// File of the private key, which nobody else may read.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// File to write.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Verify signature and time of a sealed policy; asks no daemon.
    Verify {
        /// Sealed policy; `-` for standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// File of public keys; by default the one the configuration names.
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
    },
    /// Make a key: NAME.key, readable by its owner alone, and NAME.pub. Asks no daemon.
    Keygen {
        /// Files to write, without their endings; existing ones are left alone.
        #[arg(long, value_name = "NAME")]
        output: PathBuf,
    },
}

/// A sealed policy that is good by itself.
#[derive(Debug, Serialize)]
struct Verified {
    key: String,
    document: Document,
}

/// A file was written.
#[derive(Debug, Serialize)]
pub(super) struct Written {
    pub(super) file: PathBuf,
    pub(super) key: String,
}

pub(super) async fn run(command: Command, output: Output, client: &Client) -> Result<Exit, CliError> {
    match command {
        Command::Show => output.show(client.policy().await?, shown),
        Command::Check { file } => output.show(client.check_policy(read(&file)?.into()).await?, checked),
        Command::Apply { file } => output.show(client.apply_policy(read(&file)?.into()).await?, shown),
        Command::Rollback => output.show(client.rollback_policy().await?, shown),
        Command::Sign { file, key, output: to } => sign(&file, &key, &to, output),
        Command::Verify { file, keys } => verify(&file, keys, output),
        Command::Keygen { output: name } => keygen(&name, output),
    }
}

/// The private key in a file that nobody else may read.
pub(super) fn signing_key(key: &Path) -> Result<SigningKey, CliError> {
    let mode = fs::metadata(key).map_err(|error| unreadable(key, &error))?.mode();
    if mode & 0o077 != 0 {
        let cause = format!("{} may be used by others than its owner", key.display());
        return Err(CliError::failure(cause).hint(format!("chmod 600 {}", key.display())));
    }
    SigningKey::parse(&read(key)?).map_err(|error| CliError::failure(format!("{}: {error}", key.display())))
}

fn sign(file: &Path, key: &Path, to: &Path, output: Output) -> Result<Exit, CliError> {
    let key = signing_key(key)?;
    let text = String::from_utf8(read(file)?)
        .map_err(|_| CliError::failure(format!("{} is no text", file.display())))?;
    let document = parse(&text).map_err(|cause| {
        CliError::failure(format!("{} is no policy: {cause}", file.display()))
            .hint("`tidegate policy sign --help` shows one")
    })?;
    // What no gateway would take need not be signed.
    document
        .over(&Config::default())
        .and_then(|_| seal(&document, &key))
        .map_err(|refused| CliError::failure(refused.to_string()).hint(refused.reason.hint()))
        .and_then(|sealed| write(to, &sealed, 0o644, false))?;
    let written = Written { file: to.to_owned(), key: key.id().to_string() };
    output.show(written, |written| {
        format!("{} holds policy {}, signed by {}", written.file.display(), document.version, written.key)
    })
}

fn parse(text: &str) -> Result<Document, String> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
}

fn verify(file: &Path, keys: Option<PathBuf>, output: Output) -> Result<Exit, CliError> {
    let configured = || {
        let config = Config::locate(None).and_then(|path| Config::load(&path).ok()).unwrap_or_default();
        config.policy_keys_path()
    };
    let keys = keys.or_else(configured).ok_or_else(|| {
        CliError::usage("no file of public keys is known").hint("name one with --keys, or in policy.keys")
    })?;
    let anchors = TrustAnchors::parse(&read(&keys)?)
        .map_err(|error| CliError::failure(format!("{}: {error}", keys.display())))?;
    let refuse = |cause: String, reason: Reason| {
        CliError::failure(format!("{}: {cause} ({})", file.display(), reason.name())).hint(reason.hint())
    };
    let (document, key) =
        open(&read(file)?, &anchors).map_err(|refused| refuse(refused.to_string(), refused.reason))?;
    let now = Timestamp::now();
    if document.expires <= now {
        return Err(refuse(format!("it was valid until {}", document.expires), Reason::Expired));
    }
    output.show(Verified { key: key.to_string(), document }, |verified| {
        let Verified { key, document } = verified;
        let settings = toml::to_string(&document.settings).unwrap_or_default();
        format!(
            "policy {} of fleet {:?}, signed by {key}, valid {} to {}\n{}\n\n{}",
            document.version,
            document.fleet,
            document.not_before,
            document.expires,
            printable(&document.description),
            settings.lines().map(printable).collect::<Vec<_>>().join("\n")
        )
    })
}

pub(super) fn keygen(name: &Path, output: Output) -> Result<Exit, CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::failure(error.to_string());
    let text = SigningKey::generate().map_err(|error| failed(&error))?;
    let key = SigningKey::parse(text.as_bytes()).map_err(|error| failed(&error))?;
    let with = |ending: &str| {
        let mut path = name.as_os_str().to_owned();
        path.push(ending);
        PathBuf::from(path)
    };
    let (private, public) = (with(".key"), with(".pub"));
    write(&private, text.as_bytes(), 0o600, true)?;
    write(&public, key.public_pem().as_bytes(), 0o644, true)?;
    let written = Written { file: public, key: key.id().to_string() };
    output.show(written, |written| {
        format!(
            "key {}: keep {} secret, and give gateways {}",
            written.key,
            private.display(),
            written.file.display()
        )
    })
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let most = MAX_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    let done = if path == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes))
    };
    done.map_err(|error| unreadable(path, &error))?;
    if bytes.len() > MAX_BYTES {
        return Err(CliError::failure(format!("{} is larger than {MAX_BYTES} bytes", path.display())));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, error: &std::io::Error) -> CliError {
    CliError::failure(format!("cannot read {}: {error}", path.display()))
}

pub(super) fn write(path: &Path, bytes: &[u8], mode: u32, new: bool) -> Result<(), CliError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).mode(mode);
    if new {
        options.create_new(true)
    } else {
        options.create(true).truncate(true)
    };
    options
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|error| CliError::failure(format!("cannot write {}: {error}", path.display())))
}

fn changes(list: &[Change]) -> String {
    let rows = list.iter().map(|change| {
        [printable(&change.key), printable(&change.from.to_string()), printable(&change.to.to_string())]
    });
    table(["SETTING", "FROM", "TO"], rows, "no setting differs")
}

fn checked(view: &PolicyCheckView) -> String {
    let macs =
        |list: &[crate::identity::Mac]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "policy {} by key {} can be put in force, {} to {}\n{}\n\n{}",
        view.version,
        view.key,
        view.not_before,
        view.expires,
        printable(&view.description),
        changes(&view.changes)
    );
    for (what, list) in [("isolates", &view.isolates), ("holds to descriptions", &view.profiles)] {
        if !list.is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n{what}: {}", macs(list));
        }
    }
    text
}

fn shown(view: &PolicyView) -> String {
    let head = match view.version {
        None => "no policy is in force: the configuration file rules".to_owned(),
        Some(version) => format!(
            "policy {version} is in force until {}, by key {}, put there by {}\n{}",
            or_dash(view.expires),
            or_dash(view.key.as_deref()),
            printable(view.author.as_deref().unwrap_or("-")),
            printable(&view.description)
        ),
    };
    let history = view.history.iter().map(|row| {
        [
            row.version.to_string(),
            if row.in_force { "in force" } else { "" }.to_owned(),
            row.since.to_string(),
            printable(&row.author),
        ]
    });
    let refused: Vec<String> =
        view.refused.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    format!(
        "{head}\n\n{}\nhours of command rules are of {}\n\n{}\n\nrefused since the start: {}",
        changes(&view.changes),
        printable(&view.time_zone),
        table(["VERSION", "", "SINCE", "BY"], history, "no policy was ever in force"),
        if refused.is_empty() { "none".to_owned() } else { refused.join(", ") }
    )
}
