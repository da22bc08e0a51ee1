//! The control plane that is measured: a process of its own, on ports that outlive its restarts.

use super::region_name;
use anyhow::{Context, Result, bail};
use control_plane::{
    admin_client::AdminClient,
    api::views::{NewToken, PlanView},
    config::Config,
    definition::read_folder,
    registry,
    state_dir::StateDir,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use nearfield::{home::Home, plane::Plane, process::Launcher, system::Options};
use nearfield_shared::artefact::Manifest;
use std::{fs, net::UdpSocket, path::Path, time::Duration};

/// What stands in every region.
const REGION: &str = include_str!("../../data/sim_region.toml");
/// The assistant of every region; its text is changed to push a new state.
const ASSISTANT: &str = include_str!("../../data/sim_assistant.toml");

/// Tokens asked for at once.
const TOKENS_AT_ONCE: usize = 64;
/// How long the process may drain.
const GRACE: Duration = Duration::from_secs(20);
/// A token's life.
const TOKEN_S: i64 = 3600;

/// The plane under measurement.
pub struct Subject {
    home: Home,
    options: Options,
    regions: tempfile::TempDir,
    region_count: usize,
    plane: Option<Plane>,
    edits: usize,
}

impl Subject {
    /// Sets it up in an empty folder, with so many regions, and starts it.
    ///
    /// # Errors
    /// What the set-up, an import or the server said.
    pub async fn start(root: &Path, region_count: usize, agents: usize, offline: bool) -> Result<Self> {
        let home = Home::open(root)?;
        let port = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).context("no free UDP port")?;
        let config = Config { agents: port, agents_max: agents * 2, enrolments_max: 64, ..Config::on_loopback() };
        StateDir::init(&home.plane(), &config)?;
        let regions = tempfile::tempdir().context("no temporary folder")?;
        let options = Options { launcher: Launcher::own()?, regions: regions.path().to_owned(), offline, device: None };
        let mut subject = Self { home, options, regions, region_count, plane: None, edits: 0 };
        subject.write()?;
        subject.begin().await?;
        subject.apply().await?;
        Ok(subject)
    }

    fn write(&self) -> Result<()> {
        let folder = self.regions.path();
        fs::create_dir_all(folder.join("assistants")).context("no folder for assistants")?;
        for i in 0..self.region_count {
            let text = REGION.replace("{id}", &region_name(i)).replace("{longitude}", &format!("{}.0", i % 20));
            fs::write(folder.join(format!("{}.toml", region_name(i))), text).context("a region's file")?;
        }
        let assistant = ASSISTANT.replace("{edit}", &self.edits.to_string());
        fs::write(folder.join("assistants/sim.toml"), assistant).context("the assistant's file")
    }

    async fn begin(&mut self) -> Result<()> {
        self.plane = Some(Plane::start(&self.home, &self.options).await?);
        Ok(())
    }

    fn plane(&self) -> Result<&Plane> {
        self.plane.as_ref().context("the control plane does not run")
    }

    fn client(&self) -> Result<AdminClient> {
        Ok(AdminClient::connect(self.plane()?.state())?)
    }

    async fn apply(&self) -> Result<()> {
        match self.client()?.apply(read_folder(self.regions.path())?).await? {
            PlanView::Plan(_) => Ok(()),
            PlanView::Mistakes(mistakes) => bail!("the simulated regions are refused: {mistakes:?}"),
        }
    }

    /// Changes what every region should be.
    ///
    /// # Errors
    /// What the plane said.
    pub async fn change(&mut self) -> Result<()> {
        self.edits += 1;
        self.write()?;
        self.apply().await
    }

    /// Where nodes dial.
    ///
    /// # Errors
    /// When it does not run.
    pub fn address(&self) -> Result<String> {
        Ok(self.plane()?.running().agents.to_string())
    }

    /// Its process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&self) -> Result<u32> {
        Ok(self.plane()?.running().pid)
    }

    /// So many tokens, spread over the regions.
    ///
    /// # Errors
    /// What the plane said.
    pub async fn tokens(&self, count: usize) -> Result<Vec<String>> {
        let client = &self.client()?;
        let asked = (0..count).map(|i| async move {
            let region = region_name(i % self.region_count).parse().map_err(|e| anyhow::anyhow!("{e}"))?;
            let token = client.create_token(&NewToken { region, node: None, ttl_s: TOKEN_S }).await?;
            Ok::<_, anyhow::Error>(token.token)
        });
        stream::iter(asked).buffered(TOKENS_AT_ONCE).try_collect().await
    }

    /// Nodes that serve what their region should be, as the plane knows it, and all nodes.
    ///
    /// # Errors
    /// What the plane said.
    pub async fn current(&self) -> Result<(usize, usize)> {
        let status = self.client()?.status().await?;
        Ok(status.regions.iter().fold((0, 0), |(current, nodes), r| (current + r.current, nodes + r.nodes)))
    }

    /// The largest model that its regions name.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub fn largest_model(&self) -> Result<Manifest> {
        let state = self.plane()?.state();
        let models = registry::list(&registry::Store::from(state), &state.signing_public_key()?)?;
        models.into_iter().map(|model| model.manifest).max_by_key(|m| m.bytes).context("no model was imported")
    }

    /// Stops it, as an upgrade or (`crash`) as a power cut would, and starts it again.
    ///
    /// # Errors
    /// What the plane said.
    pub async fn restart(&mut self, crash: bool) -> Result<()> {
        let plane = self.plane.take().context("the control plane does not run")?;
        if crash {
            plane.kill().await;
        } else {
            plane.stop(GRACE).await;
        }
        self.begin().await
    }

    /// Ends it.
    pub async fn stop(self) {
        if let Some(plane) = self.plane {
            plane.stop(GRACE).await;
        }
    }
}
