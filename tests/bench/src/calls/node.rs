//! A real node under load: a control plane and one agent, as processes of their own.

use super::Target;
use anyhow::{Context, Result};
use control_plane::registry::Cache;
use nearfield::{
    agent::{Agent, settings},
    home::Home,
    plane::Plane,
    process::Launcher,
    system::Options,
};
use std::{fs, path::PathBuf, time::Duration};

const REGION: &str = "eu-central";
const REGION_FILE: &str = include_str!("../../../../regions/eu-central.toml");
/// The assistant that the callers talk to; the naive server reads the same file.
pub const ASSISTANT_FILE: &str = include_str!("../../data/assistant.toml");

/// Calls that the node's own setting lets in; what it really takes is what is measured.
const CALLS_MAX: usize = 200;
/// How long a process may drain.
const GRACE: Duration = Duration::from_secs(10);

/// A running node.
pub struct Node {
    plane: Plane,
    agent: Agent,
    target: Target,
    _regions: tempfile::TempDir,
    _home: Home,
}

impl Node {
    /// Starts it and waits until all its models are live and its cached answers are rendered.
    ///
    /// # Errors
    /// When a process ends, or refuses what it is given.
    pub async fn start(cache: &Cache, device: &str, offline: bool) -> Result<Self> {
        let home = Home::open(&cache.folder().join("bench-node"))?;
        let regions = tempfile::tempdir().context("no temporary folder")?;
        let write = |name: &str, text: &str| {
            let file: PathBuf = regions.path().join(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
        };
        fs::create_dir(regions.path().join("assistants")).context("cannot make a folder for the assistant")?;
        write(&format!("{REGION}.toml"), &REGION_FILE.replace("\"front-desk\"", "\"bench\""))?;
        write("assistants/bench.toml", ASSISTANT_FILE)?;
        let options = Options {
            launcher: Launcher::own()?,
            regions: regions.path().to_owned(),
            offline,
            device: Some(device.to_owned()),
        };
        let plane = Plane::start(&home, &options).await?;
        plane.apply(&options.regions).await?;
        Agent::enrol(&home, &plane, REGION, &options).await?;
        let settings = format!("{}calls_max = {CALLS_MAX}\n", settings(plane.running().agents));
        let mut agent = Agent::start(&home, REGION, &options, &settings)?;
        let status = agent.wait_until_live(|_| {}).await?;
        let listener = status.listeners.first().context("the agent listens nowhere")?;
        let url = format!(
            "{}/v1/realtime?assistant=bench&greeting=off",
            listener.replacen("http", "ws", 1).trim_end_matches('/')
        );
        let process = agent.process_id().context("the agent's process has ended")?;
        let target = Target { name: "Nearfield".to_owned(), url, process };
        Ok(Self { plane, agent, target, _regions: regions, _home: home })
    }

    /// Where it is called.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Ends both processes.
    pub async fn stop(self) {
        self.agent.stop(GRACE).await;
        self.plane.stop(GRACE).await;
    }
}
