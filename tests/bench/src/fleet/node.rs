//! One simulated node: the agent's control link, with nothing behind it.

use anyhow::{Context, Result};
use edge_agent::{
    artefacts::{ArtefactStore, Fetcher, Progress},
    control::{self, ControlParts, LinkState, dial::Dialer, revoked::RevokedList, tls::link_config},
    enrol::{EnrolError, EnrolOrder, agent_version, enrol},
    identity::Identity,
    neighbours::{NeighbourParts, Neighbours},
    registry::Registry,
    slots::{Board, Outcome, Wanted},
    state_dir::StateDir,
};
use nearfield_shared::{
    artefact::{Manifest, Stage},
    clock::{Clock, SystemClock},
    desired::Generation,
    link::{AgentLinkConfig, BackoffConfig},
    report::AnonymisedReport,
    wire::{
        DeviceName,
        enrol::EnrolRefusal,
        message::{DeviceKind, DeviceSummary, HereIAm, LiveModel, Status},
    },
};
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// How often an enrolment that the plane has no room for is tried again.
const BUSY_TRIES: usize = 200;
/// Rest between them.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// What a node tells of itself, in microseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub enum Told {
    /// The plane welcomed it.
    Welcomed(i64),
    /// It lost the plane.
    Lost,
    /// It took a state.
    Activated(u64, i64),
}

/// What a node holds, shared with whoever lets it fetch.
#[derive(Clone)]
pub struct Shelf {
    /// Its model files.
    pub store: ArtefactStore,
    /// What it tells the plane to serve.
    pub serves: Arc<Mutex<Vec<LiveModel>>>,
}

impl Shelf {
    /// In a node's folder.
    fn of(dir: &StateDir) -> Self {
        Self { store: ArtefactStore::at(&dir.artefacts()), serves: Arc::default() }
    }

    /// From now on the node says that it serves this model.
    pub fn serve(&self, manifest: &Manifest) {
        let model = LiveModel { stage: Stage::Llm, digest: manifest.digest };
        self.serves.lock().unwrap_or_else(PoisonError::into_inner).push(model);
    }
}

/// What lets a node that runs fetch.
pub struct Fetching {
    /// Where the files go.
    pub shelf: Shelf,
    /// Fetches them.
    pub fetcher: Fetcher,
    /// Counts their bytes.
    pub progress: Progress,
}

/// A node that is enrolled.
pub struct Node {
    dir: StateDir,
    plane: String,
    serving: Generation,
}

impl Node {
    /// Enrols it, with a key of its own, in a folder of its own.
    ///
    /// # Errors
    /// What the enrolment said.
    pub async fn enrol(folder: &Path, plane: &str, token: &str, number: usize) -> Result<Self> {
        let dir = StateDir::open(folder).context("no folder for a node")?;
        let order = EnrolOrder {
            planes: vec![plane.to_owned()],
            token: token.parse().map_err(|e| anyhow::anyhow!("the token: {e}"))?,
            node: Some(format!("sim-{number:05}").parse().map_err(|e| anyhow::anyhow!("the name: {e}"))?),
            url: Some(format!("https://sim-{number:05}.example.net")),
            again: false,
        };
        for _ in 0..BUSY_TRIES {
            match enrol(&dir, &order).await {
                Ok(_) => return Ok(Self { dir, plane: plane.to_owned(), serving: Generation(0) }),
                Err(EnrolError::Refused(refused)) if refused.code == EnrolRefusal::Busy => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Err(e) => return Err(e.into()),
            }
        }
        anyhow::bail!("the control plane had no room for an enrolment for {:?}", BUSY_PAUSE * BUSY_TRIES as u32)
    }

    /// Keeps its link until the token fires. With `fetching` it also gives and takes models as a neighbour, and says how once.
    ///
    /// # Errors
    /// When its identity cannot be used.
    pub async fn run(
        self,
        seed: u64,
        dialer: Dialer,
        told: mpsc::UnboundedSender<Told>,
        fetching: Option<oneshot::Sender<Fetching>>,
        stop: CancellationToken,
    ) -> Result<()> {
        let identity = Identity::load(&self.dir)?;
        let tls = link_config(&self.dir, &identity)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let revoked = Arc::new(RevokedList::open(&self.dir, &identity.authority));
        let (state, mut link) = watch::channel(LinkState::default());
        let registry = Arc::new(Registry::open(&self.dir, Arc::clone(&clock), link.clone()));
        let (connection, shown) = watch::channel(None);
        let shelf = Shelf::of(&self.dir);
        let mut neighbours = None;
        if let Some(fetching) = fetching {
            let parts = NeighbourParts {
                dir: self.dir.clone(),
                identity: identity.clone(),
                clock: Arc::clone(&clock),
                revoked: Arc::clone(&revoked),
                link: link.clone(),
                store: shelf.store.clone(),
            };
            let bound = Neighbours::bind(([127, 0, 0, 1], 0).into(), parts).context("no socket for neighbours")?;
            neighbours = Some(bound.address());
            let (finder, giver) = bound.split();
            tokio::spawn(giver.run(stop.clone()));
            let progress = Progress::default();
            let fetcher = Fetcher::new(shown, progress.clone()).with_neighbours(Some(finder));
            // Whoever asked for it may have gone; the node serves on.
            fetching.send(Fetching { shelf: shelf.clone(), fetcher, progress }).ok();
        }
        let me = HereIAm {
            node: identity.node.clone(),
            region: identity.region.clone(),
            agent_version: agent_version(),
            serving: self.serving,
            refused: None,
            device: DeviceSummary {
                kind: DeviceKind::Cpu,
                name: DeviceName::from_driver("simulated"),
                memory_bytes: 0,
            },
            public_url: format!("https://{}.example.net", identity.node).parse().ok(),
            neighbours,
        };
        let (wanted, mut wants) = watch::channel(Wanted::default());
        let (outcome, outcomes) = mpsc::channel(4);
        let (_reports, reports) = mpsc::channel::<AnonymisedReport>(1);
        let started = Instant::now();
        let parts = ControlParts {
            planes: vec![self.plane],
            dir: self.dir,
            identity,
            clock,
            registry,
            revoked,
            tls,
            dialer,
            link: AgentLinkConfig { backoff: BackoffConfig::default(), ..AgentLinkConfig::default() },
            me,
            seed,
            wanted,
            outcomes,
            board: Board::new().0,
            connection,
            status: Box::new(move || Status {
                serving: Generation(0),
                activating: None,
                trial: None,
                accepting: true,
                models: shelf.serves.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                calls_in_progress: 0,
                calls_max: 8,
                load: 0.0,
                resident_bytes: 0,
                uptime_s: started.elapsed().as_secs(),
                program: None,
            }),
            reports,
            state,
        };
        let serve = async {
            while wants.changed().await.is_ok() {
                let Some(generation) = wants.borrow_and_update().state.as_ref().map(|state| state.generation) else {
                    continue;
                };
                // Whoever counts them may have gone; the node serves on.
                told.send(Told::Activated(generation.0, super::now_unix_us())).ok();
                if outcome.send(Outcome::Activated(generation)).await.is_err() {
                    return;
                }
            }
        };
        let watch = async {
            let mut connected = false;
            while link.changed().await.is_ok() {
                let now = link.borrow_and_update().connected;
                if now != connected {
                    connected = now;
                    told.send(if now { Told::Welcomed(super::now_unix_us()) } else { Told::Lost }).ok();
                }
            }
        };
        tokio::join!(control::run(parts, stop), serve, watch);
        Ok(())
    }
}
