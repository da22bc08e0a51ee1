//! The agent of one region of a local system: enrolled once, then a process of its own.

use crate::{
    home::Home,
    plane::Plane,
    process::{Daemon, Program, Stopped, args},
    system::Options,
};
use anyhow::{Context, Result, bail};
use edge_agent::{
    admin::{self, Answer, Ask},
    state_dir::StateDir,
    status::StatusReport,
};
use std::{
    ffi::OsString,
    fs,
    time::{Duration, Instant},
};

/// How long an agent may take from its start until all models are live: reading, verifying and proving 250 MB.
const LIVE_PATIENCE: Duration = Duration::from_secs(900);

/// How often an agent that starts is asked how far it is.
const POLL: Duration = Duration::from_millis(100);

/// A running agent.
pub struct Agent {
    region: String,
    dir: StateDir,
    daemon: Daemon,
}

impl Agent {
    /// Enrols the agent of a region with a fresh token, unless it has an identity already.
    ///
    /// # Errors
    /// When the control plane gives no token or does not take it.
    pub async fn enrol(home: &Home, plane: &Plane, region: &str, options: &Options) -> Result<()> {
        let folder = home.agent(region);
        let dir = StateDir::open(&folder)?;
        if dir.identity().exists() {
            return Ok(());
        }
        let token = plane.new_token(region).await?;
        let (address, node) = (plane.running().agents.to_string(), format!("{region}-1"));
        let enroll = args([&"enroll", &"--dir", &folder, &"--plane", &address, &"--node", &node]);
        // The token goes through the environment: every user of the machine can read arguments.
        let variables = [("NEARFIELD_ENROL_TOKEN", token.as_str())];
        let enrolled = options.launcher.run_with(Program::EdgeAgent, &enroll, &variables).await;
        enrolled.with_context(|| format!("the agent for {region} could not enrol"))?;
        Ok(())
    }

    /// Starts the agent of a region. `settings` are its agent.toml.
    ///
    /// # Errors
    /// When its folder cannot be written or the process cannot be started.
    pub fn start(home: &Home, region: &str, options: &Options, settings: &str) -> Result<Self> {
        let folder = home.agent(region);
        let dir = StateDir::open(&folder)?;
        fs::write(dir.config(), settings).with_context(|| format!("cannot write {}", dir.config().display()))?;
        let mut run = args([&"run", &"--dir", &folder]);
        if let Some(device) = &options.device {
            run.extend([OsString::from("--device"), device.into()]);
        }
        let name = format!("agent-{region}");
        let daemon = options.launcher.start(&name, Program::EdgeAgent, &run, &home.log(&name))?;
        Ok(Self { region: region.to_owned(), dir, daemon })
    }

    /// Waits until all models are live, telling `progress` how far it is.
    ///
    /// # Errors
    /// When the process ends, refuses the desired state, or takes too long.
    pub async fn wait_until_live(&mut self, mut progress: impl FnMut(&str)) -> Result<StatusReport> {
        let deadline = Instant::now() + LIVE_PATIENCE;
        loop {
            self.daemon.still_runs()?;
            // Not answering yet is the normal state of a process that has just been started.
            let said = match self.status().await {
                Ok(status) if status.missing.is_empty() => return Ok(status),
                Ok(status) => match (&status.last_refusal, status.activating) {
                    (Some(refusal), None) => {
                        bail!("the agent for {} refused the desired state: {}", self.region, refusal.reason)
                    }
                    _ => how_far(&status),
                },
                Err(_) => "starting".to_owned(),
            };
            progress(&said);
            if Instant::now() > deadline {
                bail!("the agent for {} is not live after {} s: {said}", self.region, LIVE_PATIENCE.as_secs());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// How it is, as `edge-agent status` shows it.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> Result<StatusReport> {
        match admin::ask(&self.dir, &Ask::Status).await? {
            Answer::Status(report) => Ok(*report),
            Answer::Failed { reason } => bail!(reason),
            _ => bail!("the agent answered something else"),
        }
    }

    /// Its region.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The number of its process, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.daemon.id()
    }

    /// Its folder.
    pub fn dir(&self) -> &StateDir {
        &self.dir
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

/// Settings of an agent on this machine: where its control plane is, and a free port on loopback for callers. The control plane has other
/// ports after every start, so the address is written anew each time.
pub fn settings(plane: std::net::SocketAddr) -> String {
    format!("plane = \"{plane}\"\nlisten = [\"127.0.0.1:0\"]\n")
}

fn how_far(status: &StatusReport) -> String {
    match (status.fetching, status.activating) {
        (Some((here, all)), _) => format!("fetching models, {} of {} MB", here / 1_000_000, all / 1_000_000),
        (None, Some(generation)) => format!("loading and proving the models of generation {generation}"),
        (None, None) => "waiting for the control plane".to_owned(),
    }
}
