//! The command line of `nearfield`, and the two other programs that this binary can be.

use crate::{
    first_call::{self, Caller, Question},
    home::{self, Home},
    process::{Launcher, Program},
    system::{Options, System},
};
use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::{ffi::OsString, path::PathBuf, process::ExitCode};
use tokio::signal::unix::{SignalKind, signal};

/// Exit code of a wrong command line or configuration, as in sysexits.h.
const EXIT_USAGE: u8 = 64;

/// The whole of Nearfield on this machine: a control plane, one agent for each region, and one call.
#[derive(Debug, Parser)]
#[command(name = "nearfield", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Folder for everything this system keeps; deleting it starts over. Default: nearfield/local in your state folder.
    #[arg(long, global = true, env = "NEARFIELD_STATE")]
    state: Option<PathBuf>,
    /// Folder of region files.
    #[arg(long, global = true, default_value = "regions")]
    regions: PathBuf,
    /// Stop after the call.
    #[arg(long, global = true)]
    once: bool,
    /// Use what was fetched before; touch no network.
    #[arg(long, global = true)]
    offline: bool,
    /// What the models run on: auto, cpu, gpu, gpu:NAME or software-gpu.
    #[arg(long, global = true)]
    device: Option<String>,
    /// Where the caller is: country, latitude, longitude.
    #[arg(long, global = true, default_value = "DE,52.52,13.40", value_name = "COUNTRY,LAT,LON")]
    from: Caller,
    /// Print the call as JSON on standard output, for programs; everything else goes to standard error.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask with your own recording.
    Call {
        /// A WAV file: PCM, any sample rate, mono or stereo, up to 30 s.
        file: PathBuf,
    },
}

/// Runs the program with these arguments, the first being its name.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let other = |program: Program, name: &str| {
        (args.get(1).and_then(|first| first.to_str()) == Some(program.argument()))
            .then(|| std::iter::once(OsString::from(name)).chain(args[2..].iter().cloned()).collect::<Vec<_>>())
    };
    if let Some(args) = other(Program::ControlPlane, "control-plane") {
        return control_plane::cli::main_from(args);
    }
    if let Some(args) = other(Program::EdgeAgent, "edge-agent") {
        return edge_agent::main_from(args);
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            let code = if e.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
            // A closed pipe while printing help leaves nobody to tell.
            let _ = e.print();
            return code;
        }
    };
    let run = || -> Result<ExitCode> {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?.block_on(run(cli))
    };
    run().unwrap_or_else(|e| {
        eprintln!("\nnearfield: {e:#}");
        ExitCode::FAILURE
    })
}

async fn run(cli: Cli) -> Result<ExitCode> {
    // A recording that is not one is said before anything is started.
    let own = match &cli.command {
        Some(Command::Call { file }) => Some(Question::from_file(file)?),
        None => None,
    };
    let root = match cli.state {
        Some(root) => root,
        None => home::default_root()?,
    };
    let home = Home::open(&root)?;
    eprintln!("Everything this system keeps is in {}", home.root().display());
    eprintln!("(delete that folder to start over; models are also cached for this user)\n");

    let mut interrupted = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let mut terminated = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let options =
        Options { launcher: Launcher::own()?, regions: cli.regions, offline: cli.offline, device: cli.device };
    let mut system = tokio::select! {
        system = System::start(&home, &options) => system?,
        _ = interrupted.recv() => return Ok(stopped_early()),
        _ = terminated.recv() => return Ok(stopped_early()),
    };
    let question = match own {
        Some(question) => question,
        None => Question::recorded(&home, options.offline).await?,
    };
    let route_url = system.route_url();
    let placed = tokio::select! {
        placed = first_call::place(&home, &route_url, &cli.from, question, cli.json) => placed,
        _ = interrupted.recv() => Ok(()),
        _ = terminated.recv() => Ok(()),
        ended = system.first_to_end() => Err(anyhow::anyhow!(ended)),
    };
    let mut result = placed;
    if result.is_ok() && !cli.once {
        print_serving(&system).await?;
        result = tokio::select! {
            _ = interrupted.recv() => Ok(()),
            _ = terminated.recv() => Ok(()),
            ended = system.first_to_end() => Err(anyhow::anyhow!(ended)),
        };
        eprintln!("\nDraining…");
    }
    for stopped in system.stop().await.iter().filter(|stopped| !stopped.drained) {
        eprintln!("{} did not drain in time and was killed", stopped.name);
    }
    result.map(|()| ExitCode::SUCCESS)
}

/// Dropping the processes on the way here has killed them; there were no calls to drain.
fn stopped_early() -> ExitCode {
    eprintln!("\nstopped before the system was live; the next start goes on from here");
    ExitCode::FAILURE
}

async fn print_serving(system: &System) -> Result<()> {
    eprintln!("\nServing. Callers connect to:");
    for (region, urls) in system.listeners().await? {
        for url in urls {
            eprintln!("  {region:<12} {}/v1/realtime", url.replacen("http", "ws", 1));
        }
    }
    eprintln!("  {:<12} {}?country=DE&latitude=52.52&longitude=13.40", "any caller", system.route_url());
    eprintln!("Ctrl-C drains and stops.");
    Ok(())
}
