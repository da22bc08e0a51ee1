//! `edge-agent run`: the daemon as a process, or the supervisor of one where another program than the installed one runs.

use crate::{
    cli::{self, Run},
    config::Config,
    daemon::{Daemon, DaemonParts, Drained},
    inference,
    state_dir::{DirError, DirLock, StateDir},
    update::{self, Cord, EXIT_HAND_OVER, Ended, Handed, Launch, Leave, STABLE_AFTER, Shelf, Supervisor, Updates, Way},
};
use nearfield_shared::{clock::SystemClock, link::AgentLinkConfig, panic_words};
use std::{
    ffi::OsString,
    io::IsTerminal as _,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};

/// How long a daemon whose supervisor was killed may take to be gone: the system kills it at once, and then tidies up after it.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(5);

/// How often that is looked at.
const ORPHAN_POLL: Duration = Duration::from_millis(20);

/// How a daemon came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// For good, with this exit code.
    Exit(u8),
    /// For the program that it has asked for.
    MakeWay,
}

/// Runs the node until SIGTERM or Ctrl-C; a second one ends it at once. `args` are those of the program, without its name.
pub fn command(run: Run, args: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let dir = StateDir::open(&run.folder.dir)?;
    let daemon = |handed| daemon(run, dir.clone(), handed);
    process(&dir, args, daemon).map(ExitCode::from)
}

/// What this process is to be: a supervised daemon, the supervisor of one, or a daemon alone. Returns the exit code; `args` are those of a
/// release's program.
///
/// # Errors
/// Where the folder is in use, or the daemon does not start.
pub fn process(
    dir: &StateDir,
    args: Vec<OsString>,
    daemon: impl FnOnce(Option<Handed>) -> anyhow::Result<End>,
) -> anyhow::Result<u8> {
    if let Some(handed) = Handed::own() {
        return Ok(match daemon(Some(handed))? {
            End::Exit(code) => code,
            End::MakeWay => EXIT_HAND_OVER,
        });
    }
    let programs = dir.lock_programs()?;
    let supervisor = Supervisor { shelf: Shelf::of(dir), installed: Launch::own()?, args, stable_after: STABLE_AFTER };
    if supervisor.shelf.is_used() {
        wait_for_orphan(dir)?;
    }
    if supervisor.is_needed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        if let Ended::Exit(code) = runtime.block_on(supervisor.run())? {
            return Ok(code);
        }
    }
    match daemon(None)? {
        End::Exit(code) => Ok(code),
        End::MakeWay => {
            drop::<DirLock>(programs);
            Err(anyhow::Error::new(update::exec_again()).context(
                "this program cannot be started again to supervise the one that was asked for; start the service again",
            ))
        }
    }
}

/// Waits for a daemon that is on its way out, because its supervisor was killed. Another that runs is told by the daemon itself.
fn wait_for_orphan(dir: &StateDir) -> Result<(), DirError> {
    let deadline = Instant::now() + ORPHAN_PATIENCE;
    loop {
        match dir.lock() {
            Err(DirError::InUse(_)) if Instant::now() < deadline => std::thread::sleep(ORPHAN_POLL),
            Err(DirError::InUse(_)) | Ok(_) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

fn daemon(run: Run, dir: StateDir, handed: Option<Handed>) -> anyhow::Result<End> {
    let config = cli::settings(&dir, run.listen, run.device)?;
    start_log(&config);
    let identity = cli::identity(&dir)?;
    // The device is looked at before the runtime starts: drivers print, panic and take seconds.
    let inference = inference::start(&config.device, config.calls_max)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let parts = DaemonParts {
        updates: Updates::none(),
        dir,
        config,
        identity,
        host: inference.host,
        speech: inference.speech,
        device: inference.device,
        device_reason: inference.reason,
        link: AgentLinkConfig::default(),
        clock: Arc::new(SystemClock::default()),
        calls: crate::media::router,
    };
    runtime.block_on(serve(parts, handed))
}

/// Runs a daemon of these parts to its end, as a process of its own: it follows signals, and makes way as it was started.
///
/// # Errors
/// Where it does not start.
pub async fn serve(parts: DaemonParts, handed: Option<Handed>) -> anyhow::Result<End> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (node, region, grace) = (parts.identity.node.clone(), parts.identity.region.clone(), parts.config.drain_grace);
    let way = match handed {
        Some(handed) => Way::Supervised(Cord::take(handed)?),
        None => Way::Alone,
    };
    let updates = Updates::of(way, Shelf::of(&parts.dir), parts.config.update_healthy, grace);
    let daemon = Daemon::start(DaemonParts { updates, ..parts }).await?;
    cli::print_line(&format!("{node} in {region} listens on {}", daemon.urls().join(", ")))?;
    if let Some(address) = daemon.wyoming() {
        cli::print_line(&format!("Home Assistant finds it at tcp://{address} (Wyoming)"))?;
    }
    let updates = daemon.updates();
    let leave = tokio::select! {
        _ = term.recv() => None,
        _ = interrupt.recv() => None,
        leave = daemon.has_to_leave() => Some(leave),
    };
    let calls = daemon.status().calls.in_progress;
    let what = if leave.is_some() { "making way" } else { "stopping" };
    eprintln!(
        "{what}: {calls} calls in progress get up to {} s to end; a second signal stops at once",
        grace.as_secs()
    );
    let again = async {
        // A terminal and a service manager signal the daemon as well as its supervisor, so only that one can count.
        if updates.is_supervised() {
            return updates.stop_at_once().await;
        }
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        drained = daemon.drain() => {
            say_drained(drained);
            Ok(match leave {
                None => End::Exit(0),
                Some(Leave::HandOver) => End::MakeWay,
                Some(Leave::GiveUp) => End::Exit(1),
            })
        }
        () = again => {
            eprintln!("stopped at once");
            Ok(End::Exit(1))
        }
    }
}

fn say_drained(Drained { calls_cut }: Drained) {
    match calls_cut {
        0 => eprintln!("stopped; every call ended well"),
        1 => eprintln!("stopped; 1 call outlasted the grace period and was cut"),
        n => eprintln!("stopped; {n} calls outlasted the grace period and were cut"),
    }
}

/// Starts the log of a daemon: it goes to the standard error stream, `RUST_LOG` wins over the settings, and of a panic it tells
/// where, never what.
pub fn start_log(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(&config.log));
    // A log that goes to a file or a journal is read by programs too.
    let colours = std::io::stderr().is_terminal();
    // A process that has a log already (a test) keeps it.
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).try_init();
    panic_words::leave_out(|panicked| tracing::error!("{panicked}"));
}
