//! Every task around Tidegate's code: set-up, builds, tests, lab, benchmarks and checks.
//!
//! One file a task; `shell` runs programs and `toolchain` finds the kernel compiler. Tasks print what they do and why
//! before they do it, take no answers from the keyboard, and end with exit code 0 (done), 1 (failed) or 2 (usage).
//! Nothing here is part of the agent: the agent is built and started as a program, like by a user.

#![allow(clippy::print_stdout, reason = "a task talks to the person who typed it")]

mod bench;
mod build;
mod ci;
mod cloud;
mod fault;
mod fuzz;
mod lab;
mod licences;
mod lint;
mod run;
mod setup;
mod shell;
mod single;
mod test;
mod toolchain;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Tasks of Tidegate, the tide gate for the network behind an IoT gateway.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    arg_required_else_help = true,
    after_help = "\
New here? Two commands are enough, on Debian or Ubuntu, as root:
  cargo xtask run        prepares the machine, builds everything, and shows an attack being shut out in network
                         namespaces of its own; nothing touches your real interfaces
  cargo xtask test       runs every test, the ones in network namespaces included

Then, on a gateway whose devices are behind lan0 and lan1:
  cargo xtask run -i lan0 -i lan1 --mode monitor

`run`, `test`, `lab` and `bench` call `setup` and `build` by themselves. TIDEGATE_NO_INSTALL=1 forbids installations."
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what building Tidegate needs, and with --lab what the lab, tests and benchmarks need
    Setup {
        /// Also the attack tools, servers and measuring tools of lab, test and bench
        #[arg(long)]
        lab: bool,
        /// Also the emulator of cloud-test
        #[arg(long)]
        cloud: bool,
    },
    /// Build the kernel programs into target/bpf/tidegate-ebpf.o, then the agent around them
    Build {
        /// Optimised, as it is installed
        #[arg(long)]
        release: bool,
        /// Only the kernel programs
        #[arg(long)]
        bpf_only: bool,
    },
    /// Format, clippy, licences, spelling; says what it could not check
    Lint,
    /// All tests: unit, property, packet tables, network namespaces, documentation
    Test {
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// What the project's CI runs: lint, test, cloud-test, a short lab, a benchmark smoke test
    Ci,
    /// Without -i: the lab with a live view. With -i: guard these interfaces with a release build
    #[command(after_help = "Everything after the interfaces goes to `tidegate run`, for example: \
                            cargo xtask run -i lan0 --mode enforce -c /etc/tidegate/tidegate.toml")]
    Run {
        /// An interface with devices behind it; repeat for more
        #[arg(short, long = "interface", value_name = "IFACE")]
        interfaces: Vec<String>,
        /// Passed on to `tidegate run`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Attack a gateway in network namespaces with real tools and measure how fast Tidegate shuts each attack out
    Lab(lab::Arguments),
    /// Measure side by side with what people use today
    Bench(bench::Arguments),
    /// Kill, fill and cut on purpose: whether anything is lost
    FaultTest(fault::Arguments),
    /// Throw made-up bytes at everything that reads bytes from outside; exit code 1 and the input when something fails
    #[command(
        after_help = "Not a part of `ci`: building takes too long. TARGET is a file of fuzz/fuzz_targets; inputs to begin with are in \
                            fuzz/seeds, what was found since in fuzz/corpus, and what fails in fuzz/artifacts."
    )]
    Fuzz(fuzz::Arguments),
    /// Provisioning, link, metrics and alarms against an emulator of AWS in a network namespace
    CloudTest(cloud::Arguments),
}

/// Where a task writes its figures.
#[derive(clap::Args, Clone, Debug)]
struct Output {
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Setup { lab, cloud } => {
            let emulator = if cloud { setup::emulator().map(drop) } else { Ok(()) };
            let tools = setup::run(if lab { setup::Tier::Lab } else { setup::Tier::Build });
            emulator.and(tools.map(drop))
        }
        Task::Build { release, bpf_only } => build::run(release, bpf_only),
        Task::Lint => lint::run(),
        Task::Test { filter } => test::run(filter.as_deref()),
        Task::Ci => ci::run(),
        Task::Run { interfaces, arguments } => run::run(&interfaces, &arguments),
        Task::Lab(arguments) => lab::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::FaultTest(arguments) => fault::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::CloudTest(arguments) => cloud::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
