//! The whole system on this machine: a control plane and one agent for each region, all real processes on loopback.
//!
//! Every step can be repeated: a folder that has an authority, models, or enrolled agents keeps them, so a second start is quick.

use crate::{
    agent::{Agent, settings},
    home::Home,
    plane::Plane,
    process::{Launcher, Stopped},
};
use anyhow::{Context, Result, bail};
use edge_agent::status::StatusReport;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a process may drain before it is killed; longer than the agents' own grace.
const DRAIN_GRACE: Duration = Duration::from_secs(25);

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Starts the programs.
    pub launcher: Launcher,
    /// Folder of region files.
    pub regions: PathBuf,
    /// Use only what is cached.
    pub offline: bool,
    /// What the models run on, as `edge-agent run --device` takes it.
    pub device: Option<String>,
}

/// The running system.
pub struct System {
    plane: Plane,
    agents: Vec<Agent>,
}

impl System {
    /// Starts everything and waits until every region's models are live.
    ///
    /// # Errors
    /// When a step fails: with what the step said, or the last lines of the log of the process that ended.
    pub async fn start(home: &Home, options: &Options) -> Result<Self> {
        let regions = region_names(&options.regions)?;
        let plane = Plane::start(home, options).await?;
        plane.apply(&options.regions).await?;
        eprintln!("The control plane runs; {} regions are applied.", regions.len());
        let mut system = Self { plane, agents: Vec::new() };
        for region in &regions {
            Agent::enrol(home, &system.plane, region, options).await?;
            let settings = settings(system.plane.running().agents);
            system.agents.push(Agent::start(home, region, options, &settings)?);
        }
        system.wait_until_live().await?;
        Ok(system)
    }

    /// Where callers ask the control plane for a route.
    pub fn route_url(&self) -> String {
        format!("{}/v1/route", self.plane.running().api_url())
    }

    /// Each region with the addresses that its agent listens on.
    ///
    /// # Errors
    /// When an agent does not answer.
    pub async fn listeners(&self) -> Result<Vec<(String, Vec<String>)>> {
        let mut listeners = Vec::new();
        for agent in &self.agents {
            let status = agent.status().await.with_context(|| format!("agent {}", agent.region()))?;
            listeners.push((agent.region().to_owned(), status.listeners));
        }
        Ok(listeners)
    }

    /// Returns when a process ends by itself, with what it left in its log.
    pub async fn first_to_end(&mut self) -> String {
        let agents = futures_util::future::select_all(self.agents.iter_mut().map(|agent| Box::pin(agent.ended())));
        tokio::select! {
            (ended, _, _) = agents => ended,
            ended = self.plane.ended() => ended,
        }
    }

    /// Stops the agents first, so that their calls end and their last report is taken, then the control plane.
    pub async fn stop(self) -> Vec<Stopped> {
        let agents = self.agents.into_iter().map(|agent| agent.stop(DRAIN_GRACE));
        let mut stopped = futures_util::future::join_all(agents).await;
        stopped.push(self.plane.stop(DRAIN_GRACE).await);
        stopped
    }

    async fn wait_until_live(&mut self) -> Result<()> {
        let bars = MultiProgress::new();
        for agent in &mut self.agents {
            let bar = bars.add(ProgressBar::new_spinner().with_prefix(agent.region().to_owned()));
            let style = ProgressStyle::with_template("  {spinner} {prefix:<12} {msg}").context("the bar's template")?;
            bar.set_style(style);
            bar.enable_steady_tick(Duration::from_millis(100));
            let live = live_line(&agent.wait_until_live(|said| bar.set_message(said.to_owned())).await?);
            if bar.is_hidden() {
                // Not a terminal: one line says what the bar would have shown.
                eprintln!("  {:<12} {live}", agent.region());
            }
            bar.finish_with_message(live);
        }
        Ok(())
    }
}

fn live_line(status: &StatusReport) -> String {
    let resident: u64 = status.models.iter().map(|model| model.resident_bytes).sum();
    format!(
        "live on {}: {} models, {} MB of weights, generation {}",
        status.device.name,
        status.models.len(),
        resident / 1_000_000,
        status.serving
    )
}

/// Names of the region files in a folder, in alphabetical order.
fn region_names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| {
        format!("cannot read {}; run from the project's folder, or name a folder with --regions", folder.display())
    })?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "toml")
            && let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
        {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    if names.is_empty() {
        bail!("{} has no region files; each region is one TOML file", folder.display());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_the_toml_files_of_a_folder() {
        let dir = tempfile::tempdir().expect("temporary folder");
        assert!(region_names(dir.path()).is_err(), "an empty folder has no regions");
        for name in ["b.toml", "a.toml", "notes.md"] {
            fs::write(dir.path().join(name), "").expect("write");
        }
        assert_eq!(region_names(dir.path()).expect("regions"), ["a", "b"]);
        let missing = region_names(&dir.path().join("none")).expect_err("no such folder");
        assert!(missing.to_string().contains("--regions"), "{missing}");
    }
}
