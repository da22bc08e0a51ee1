//! `control-plane serve`: the server in the foreground, until a signal ends it.

use super::{admin::Access, log_to_stderr};
use crate::{
    serve::{Ended, Server},
    state_dir::StateDir,
};
use clap::Args;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Longest time for what is left of a server that may not lead any more.
const LEFT_OVER: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Settings; config.toml in the state folder if not given.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn serve(dir: &StateDir, args: ServeArgs, access: &Access) -> anyhow::Result<()> {
    let config = access.config_at(&args.config.unwrap_or_else(|| dir.config_path()))?;
    log_to_stderr();
    loop {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let ended = runtime.block_on(async {
            let stop = CancellationToken::new();
            let server = Server::bind(dir.clone(), config.clone()).await?;
            tokio::spawn(stop_on_signal(stop.clone()));
            server.run(stop).await
        });
        if ended? == Ended::Stopped {
            return Ok(());
        }
        // Whatever of it still runs ends with its runtime, before the next one begins: what led and may not any more must leave nothing behind.
        let began = Instant::now();
        runtime.shutdown_timeout(LEFT_OVER);
        if began.elapsed() >= LEFT_OVER {
            anyhow::bail!(
                "it led and may not any more, and did not come to an end in time; whoever supervises it starts it again"
            );
        }
    }
}

async fn stop_on_signal(stop: CancellationToken) {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<Option<()>>();
    tokio::select! {
        _ = interrupt => {}
        _ = terminate => {}
    }
    stop.cancel();
}
