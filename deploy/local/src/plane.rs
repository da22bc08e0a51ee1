//! The control plane of a local system: set up once, then a process of its own.

use crate::{
    home::Home,
    models,
    process::{Daemon, Launcher, Program, Stopped, args},
    system::Options,
};
use anyhow::{Context, Result, bail};
use control_plane::{
    config::Config,
    state_dir::{Running, StateDir, StateDirError},
};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// How long the server may take until it is bound; it opens its store first. Generous, for loaded machines.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How often a server that starts is asked whether it has.
const POLL: Duration = Duration::from_millis(50);

/// A running control plane.
pub struct Plane {
    launcher: Launcher,
    state: StateDir,
    running: Running,
    daemon: Daemon,
}

impl Plane {
    /// Sets it up if it never was, imports the models that the regions name, and starts the server.
    ///
    /// # Errors
    /// What the import or the server said.
    pub async fn start(home: &Home, options: &Options) -> Result<Self> {
        let folder = home.plane();
        let state = match StateDir::open(&folder) {
            // Free ports on loopback: other things may run on this machine.
            Err(StateDirError::NotInitialised(_)) => StateDir::init(&folder, &Config::on_loopback()),
            opened => opened,
        }
        .context("cannot set up the control plane")?;
        models::import(&folder, &options.regions, options.offline).await?;

        // Left behind by a server that was killed, it would name ports that nobody listens on.
        state.clear_running();
        let serve = args([&"--state", &folder, &"serve"]);
        let log = home.log("control-plane");
        let mut daemon = options.launcher.start("the control plane", Program::ControlPlane, &serve, &log)?;
        let deadline = Instant::now() + START_PATIENCE;
        let running = loop {
            daemon.still_runs()?;
            if let Some(running) = state.running() {
                break running;
            }
            if Instant::now() > deadline {
                bail!("the control plane did not start within {} s; see {}", START_PATIENCE.as_secs(), log.display());
            }
            tokio::time::sleep(POLL).await;
        };
        Ok(Self { launcher: options.launcher.clone(), state, running, daemon })
    }

    /// Applies a folder of regions.
    ///
    /// # Errors
    /// Every mistake in every file, as the control plane reports them.
    pub async fn apply(&self, regions: &Path) -> Result<()> {
        let apply = args([&"--state", &self.state.root(), &"apply", &regions]);
        self.launcher.run(Program::ControlPlane, &apply).await.context("the control plane did not take the regions")?;
        Ok(())
    }

    /// A one-time token for a node of a region.
    ///
    /// # Errors
    /// When the region is not applied.
    pub async fn new_token(&self, region: &str) -> Result<String> {
        let create = args([&"--state", &self.state.root(), &"token", &"create", &"--region", &region, &"--json"]);
        let said = self.launcher.run(Program::ControlPlane, &create).await.context("no enrolment token")?;
        let json: serde_json::Value = serde_json::from_str(&said).context("the token is not JSON")?;
        json["token"].as_str().map(str::to_owned).context("the control plane printed no token")
    }

    /// Its folder.
    pub fn state(&self) -> &StateDir {
        &self.state
    }

    /// Where it is bound.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Fails, with the end of its log, if it has ended.
    ///
    /// # Errors
    /// The end of its log.
    pub fn still_runs(&mut self) -> Result<()> {
        self.daemon.still_runs()
    }

    /// Returns when it ends by itself, with the end of its log.
    pub async fn ended(&mut self) -> String {
        self.daemon.ended().await
    }

    /// Asks it to drain, and kills it after `grace`.
    pub async fn stop(self, grace: Duration) -> Stopped {
        self.daemon.stop(grace).await
    }

    /// Kills it, as a crash would.
    pub async fn kill(self) {
        self.daemon.kill().await;
    }
}
