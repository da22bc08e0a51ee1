//! `edge-agent run`: the daemon as a process.

use crate::{
    cli::{self, Run},
    config::Config,
    daemon::{Daemon, DaemonParts, Drained},
    inference,
    state_dir::StateDir,
};
use nearfield_shared::{clock::SystemClock, link::AgentLinkConfig, panic_words};
use std::{io::IsTerminal as _, process::ExitCode, sync::Arc};
use tokio::signal::unix::{SignalKind, signal};

/// Runs the node until SIGTERM or Ctrl-C; a second one ends it at once.
pub fn command(run: Run) -> anyhow::Result<ExitCode> {
    let dir = StateDir::open(&run.folder.dir)?;
    let config = cli::settings(&dir, run.listen, run.device)?;
    start_log(&config);
    let identity = cli::identity(&dir)?;
    // The device is looked at before the runtime starts: drivers print, panic and take seconds.
    let inference = inference::start(&config.device, config.calls_max)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (node, region, grace) = (identity.node.clone(), identity.region.clone(), config.drain_grace);
        let daemon = Daemon::start(DaemonParts {
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
        })
        .await?;
        cli::print_line(&format!("{node} in {region} listens on {}", daemon.urls().join(", ")))?;
        if let Some(address) = daemon.wyoming() {
            cli::print_line(&format!("Home Assistant finds it at tcp://{address} (Wyoming)"))?;
        }
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        let calls = daemon.status().calls.in_progress;
        eprintln!(
            "stopping: {calls} calls in progress get up to {} s to end; a second signal stops at once",
            grace.as_secs()
        );
        let again = async {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        tokio::select! {
            drained = daemon.drain() => Ok(say_drained(drained)),
            () = again => {
                eprintln!("stopped at once");
                Ok(ExitCode::FAILURE)
            }
        }
    })
}

fn say_drained(Drained { calls_cut }: Drained) -> ExitCode {
    match calls_cut {
        0 => eprintln!("stopped; every call ended well"),
        1 => eprintln!("stopped; 1 call outlasted the grace period and was cut"),
        n => eprintln!("stopped; {n} calls outlasted the grace period and were cut"),
    }
    ExitCode::SUCCESS
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
