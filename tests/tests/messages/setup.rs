//! A guard of the test's own, in a thread, with its broker in a directory that goes away.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tidegate::{
    config::Config,
    messages::{
        Counters, Guard, Link, Orders, Report,
        commands::Desk,
        telemetry::{Stored, nursery},
    },
};
use tidegate_tests::{
    mqtt::{Client, Hello},
    wait_for,
};
use tokio::{
    runtime,
    sync::{mpsc, watch},
};

/// How long things may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Rules of every test: devices have topics of their own, and news are everybody's.
const RULES: &str = r#"
messages.rules = [
    { who = "*", publish = ["d/%c/#", "u/%u/#", "news/#"], subscribe = ["d/%c/#", "u/%u/#", "news/#"] },
]
"#;

/// A running guard.
pub(crate) struct Setup {
    text: String,
    pub(crate) counters: Arc<Counters>,
    pub(crate) commands: Arc<Desk>,
    plain: Option<SocketAddr>,
    pub(crate) tls: Option<SocketAddr>,
    orders: watch::Sender<Arc<Orders>>,
    reports: mpsc::Receiver<Report>,
    /// What the guard recalls of telemetry when it starts.
    pub(crate) learned: Vec<Stored>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    pub(crate) directory: TempDir,
}

/// A client with this id and nothing else.
pub(crate) fn hello(client_id: &str) -> Hello<'_> {
    Hello { client_id, ..Hello::default() }
}

/// Whether what test `name` needs is installed; says so when not.
fn is_possible(name: &str) -> bool {
    let installed = |program: &str| Command::new(program).arg("--help").output().is_ok();
    let all = installed("/usr/sbin/mosquitto") && installed("mosquitto_pub");
    if !all {
        tidegate_tests::skipped(name, "mosquitto and mosquitto-clients are not installed");
    }
    all
}

impl Setup {
    /// A guard for clients that need no proof, with more `keys` of the configuration.
    pub(crate) fn start(name: &str, keys: &str) -> Option<Self> {
        let text = format!("messages.listen = \"127.0.0.1:0\"\nmessages.anonymous = true\n{keys}");
        is_possible(name).then(|| Self::launch(tempfile::tempdir().unwrap(), &text))
    }

    /// A guard for `lamp` and `pump`, whose passwords are their names.
    pub(crate) fn start_with_users(name: &str, keys: &str) -> Option<Self> {
        if !is_possible(name) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("passwords");
        fs::write(&file, "").unwrap();
        for user in ["lamp", "pump"] {
            set_password(&file, user, user);
        }
        let text =
            format!("messages.listen = \"127.0.0.1:0\"\nmessages.passwords = \"{}\"\n{keys}", file.display());
        Some(Self::launch(directory, &text))
    }

    /// A guard with TLS for the files in `directory` that `keys` name.
    pub(crate) fn start_with_tls(name: &str, directory: TempDir, keys: &str) -> Option<Self> {
        let text = format!("messages.listen_tls = \"127.0.0.1:0\"\n{keys}");
        is_possible(name).then(|| Self::launch(directory, &text))
    }

    fn launch(directory: TempDir, keys: &str) -> Self {
        let text = format!(
            "gateway.state_dir = \"{}\"\n{keys}{}{RULES}",
            directory.path().display(),
            // The tests' clients all come from one address.
            if keys.contains("connects_per_second") {
                ""
            } else {
                "message_limits.connects_per_second = 1000\nmessage_limits.strangers_per_second = 1000\n"
            }
        );
        let (orders, stop) = (watch::Sender::default(), watch::Sender::new(false));
        let mut setup = Self {
            text,
            counters: Arc::default(),
            commands: Arc::default(),
            plain: None,
            tls: None,
            orders,
            reports: mpsc::channel(1).1,
            learned: Vec::new(),
            stop,
            thread: None,
            directory,
        };
        setup.run();
        setup
    }

    fn run(&mut self) {
        let config = Config::parse(&self.text, Path::new("test.toml")).unwrap();
        let mut guard = Guard::bind(config.message_settings().unwrap()).unwrap();
        guard.recall(self.learned.clone());
        [self.plain, self.tls] = guard.addresses();
        let (reports, reported) = mpsc::channel(64);
        self.reports = reported;
        self.counters = Arc::default();
        self.commands = Arc::default();
        self.stop = watch::Sender::new(false);
        let bindings = config.messages.bindings.clone();
        let commands = Arc::new(config.command_settings());
        self.orders = watch::Sender::new(Arc::new(Orders {
            rules: config.messages.rules,
            bindings,
            commands,
            ..Orders::default()
        }));
        let (nursery, grower) = nursery();
        let link = Link {
            reports,
            orders: self.orders.subscribe(),
            stop: self.stop.subscribe(),
            counters: Arc::clone(&self.counters),
            commands: Arc::clone(&self.commands),
            nursery,
        };
        std::thread::spawn(move || grower.run());
        self.thread = Some(std::thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(guard.serve(link)).unwrap();
        }));
    }

    /// Ends guard and broker; what is still reported can be read.
    pub(crate) fn end(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Ends guard and broker and starts both again.
    pub(crate) fn restart(&mut self) {
        self.end();
        self.run();
    }

    /// Where clients without TLS connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.plain.unwrap()
    }

    pub(crate) fn port(&self) -> String {
        self.address().port().to_string()
    }

    /// A client that must be let in.
    pub(crate) fn client(&self, client_id: &str) -> Client {
        self.open(&hello(client_id)).unwrap()
    }

    pub(crate) fn open(&self, hello: &Hello<'_>) -> anyhow::Result<Client> {
        Client::open(self.address(), hello, PATIENCE)
    }

    /// Runs one of mosquitto's own clients; all it says.
    pub(crate) fn clients(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program)
            .args(["-h", "127.0.0.1", "-p", &self.port()])
            .args(arguments)
            .output()
            .unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// Tells the guard something else.
    pub(crate) fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.orders.send_modify(|orders| change(Arc::make_mut(orders)));
    }

    /// The next report, if one comes.
    pub(crate) fn report(&mut self) -> Option<Report> {
        wait_for(PATIENCE, || self.reports.try_recv().ok())
    }

    /// The next report, if there is one already.
    pub(crate) fn report_at_once(&mut self) -> Option<Report> {
        self.reports.try_recv().ok()
    }

    pub(crate) fn set_password(&self, user: &str, password: &str) {
        set_password(&self.directory.path().join("passwords"), user, password);
    }

    fn broker_directory(&self) -> PathBuf {
        self.directory.path().join("broker")
    }

    fn broker_pid(&self) -> i32 {
        let file = self.broker_directory().join("broker.pid");
        wait_for(PATIENCE, || fs::read_to_string(&file).ok()?.parse().ok()).expect("a broker")
    }

    pub(crate) fn kill_broker(&self) {
        kill(Pid::from_raw(self.broker_pid()), Signal::SIGKILL).unwrap();
    }

    /// Leaves a broker behind like an agent that was killed does; its process id.
    pub(crate) fn orphan_broker(&mut self) -> u32 {
        self.end();
        let directory = self.broker_directory();
        let mut shell = Command::new("setsid");
        shell.args(["--fork", "/usr/sbin/mosquitto", "-c"]).arg(directory.join("mosquitto.conf"));
        assert!(shell.status().unwrap().success());
        let wanted = directory.join("mosquitto.conf").display().to_string();
        let pid = wait_for(PATIENCE, || {
            fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
                let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
                line.contains(&wanted).then(|| entry.file_name().to_str()?.parse().ok())?
            })
        })
        .expect("the orphan");
        fs::write(directory.join("broker.pid"), format!("{pid}")).unwrap();
        pid
    }

    /// Resident memory of the broker, in bytes.
    pub(crate) fn broker_memory(&self) -> u64 {
        resident(&format!("/proc/{}/status", self.broker_pid()))
    }
}

/// Resident memory by a status file of /proc, in bytes.
pub(crate) fn resident(status: &str) -> u64 {
    let text = fs::read_to_string(status).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) << 10
}

fn set_password(file: &Path, user: &str, password: &str) {
    let output =
        Command::new("mosquitto_passwd").arg("-b").arg(file).args([user, password]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // The test has failed already when the guard has.
            let _ = thread.join();
        }
    }
}
