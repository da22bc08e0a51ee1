//! Running the server: open the state, bind, serve, drain. Where the store is shared with other control planes: bind, wait, and open the state once this one
//! leads.

mod load;
mod standby;

use crate::{
    api::{
        admin::{self, Admin},
        door::Door,
        listener::{BoundedListener, Peer},
        public,
    },
    audit::Actor,
    ca::Ca,
    config::{Config, ConfigErrors},
    control::{self, socket::Transfers, tls},
    dashboard,
    plane::Plane,
    registry::shelf::{ArtefactCache, Shelf, ShelfError, copying::cache_folder},
    state_dir::{Running, StateDir},
    store::{
        etcd::{EtcdSettings, Leadership},
        open,
    },
};
use anyhow::Context as _;
use axum::Router;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use load::Loaded;
use nearfield_shared::clock::{Clock, SystemClock};
use std::{
    fs::File,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long closed connections may take to be forgotten by the other side, too, before the process ends.
const LAST_PACKETS: Duration = Duration::from_millis(500);

/// The same where another control plane leads by now: whoever is not told in this time finds out.
const LOST_GRACE: Duration = Duration::from_secs(2);

/// Why a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// It led and may not any more. What is in memory may be behind the store, so nothing of this server goes on: a new one is bound, and waits.
    LeadershipLost,
}

/// A server that is bound, and does not serve yet.
pub struct Server {
    base: Base,
    doors: Doors,
    begins: Begins,
}

/// What a server is made of before it has any state.
struct Base {
    dir: StateDir,
    config: Config,
    ca: Arc<Ca>,
    clock: Arc<dyn Clock>,
    signing_public_key: Vec<u8>,
    credential: Arc<zeroize::Zeroizing<String>>,
    transfers: Transfers,
    /// Held for as long as this process may write to the folder.
    lock: Arc<File>,
}

/// Everything that is bound.
struct Doors {
    endpoint: quinn::Endpoint,
    api: StdListener,
    admin: StdListener,
    /// TLS and the key of callers beyond this machine.
    door: Option<Door>,
    running: Arc<Running>,
}

/// How a server begins.
enum Begins {
    /// With its own store: it leads.
    Leads(Box<Leads>),
    /// With a store that it shares: it waits until nobody else leads.
    Waits(EtcdSettings),
}

/// The state of a server that leads.
struct Leads {
    plane: Arc<Plane>,
    store_thread: std::thread::JoinHandle<()>,
    /// Where the store is shared.
    leadership: Option<Leadership>,
}

impl Base {
    /// From what a store holds to a plane that knows it.
    async fn plane(&self, loaded: Loaded, leadership: Option<Leadership>) -> anyhow::Result<Leads> {
        let Loaded { kept, store_thread } = loaded;
        let plane = Plane::new(
            self.config.clone(),
            self.dir.clone(),
            self.ca.clone(),
            self.clock.clone(),
            self.signing_public_key.clone(),
            artefact_cache(&self.dir, &self.config)?,
            kept,
        );
        // What was imported while no server ran.
        let imported = plane.imported().context("what was imported cannot be read")?;
        plane.note_imports(&Actor::Plane, &imported).await?;
        if leadership.is_some() {
            plane.take_over_registry().await;
        } else {
            plane.refresh_registry().await;
        }
        for lacking in plane.lacking() {
            tracing::error!(
                "{lacking}; nodes go on with what they have, and those that lack it too cannot take up the state that names it"
            );
        }
        Ok(Leads { plane, store_thread, leadership })
    }
}

impl Doors {
    async fn bind(base: &Base, door: Option<Door>) -> anyhow::Result<Self> {
        let config = &base.config;
        let bind = |what: &'static str, address: SocketAddr| {
            format!("cannot listen on {address} for {what} (`{what}` in {})", base.dir.config_path().display())
        };
        let endpoint = tls::endpoint(&base.ca, config, &base.clock, &base.transfers)?;
        let endpoint = endpoint.with_context(|| bind("agents", config.agents))?;
        let listen = async |address| TcpListener::bind(address).await.and_then(TcpListener::into_std);
        let api = listen(config.api).await.with_context(|| bind("api", config.api))?;
        let admin = listen(config.admin).await.with_context(|| bind("admin", config.admin))?;
        let running = Arc::new(Running {
            pid: std::process::id(),
            agents: endpoint.local_addr()?,
            api: api.local_addr()?,
            api_tls: door.is_some(),
            admin: admin.local_addr()?,
        });
        Ok(Self { endpoint, api, admin, door, running })
    }

    /// Serves both HTTP addresses until the token fires; what is open then has `grace` to end, or as long as it takes.
    fn serve(
        &self,
        tasks: &TaskTracker,
        for_callers: Router,
        for_admins: Router,
        stop: &CancellationToken,
        grace: Option<Duration>,
    ) -> anyhow::Result<()> {
        // Of the same sockets: what follows this server takes over who waits there.
        let listener = |of: &StdListener| of.try_clone().and_then(TcpListener::from_std).context("a listener");
        let tls = self.door.as_ref().map(|door| door.tls.clone());
        tasks.spawn(http(listener(&self.api)?, tls, for_callers, stop.clone(), grace));
        tasks.spawn(http(listener(&self.admin)?, None, for_admins, stop.clone(), grace));
        Ok(())
    }
}

/// What keeps model files of another place, where the settings name one.
fn artefact_cache(dir: &StateDir, config: &Config) -> Result<Option<ArtefactCache>, ShelfError> {
    let Some(place) = &config.artefacts else { return Ok(None) };
    let shelf = Shelf::open(place, &config.s3)?;
    ArtefactCache::open(shelf, &cache_folder(dir), config.s3.cache_mb << 20).map(Some)
}

impl Server {
    /// Opens the state and binds every address. Nothing is served before [`Server::run`]. Where the store is shared, the state is opened once this
    /// server leads.
    pub async fn bind(dir: StateDir, config: Config) -> anyhow::Result<Self> {
        Self::bind_with(dir, config, Arc::new(SystemClock::default())).await
    }

    /// The same, with another clock than the machine's.
    pub async fn bind_with(dir: StateDir, config: Config, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let now = clock.unix_s();
        let door = Door::new(&dir, &config)?;
        let shared = config.shared_store().map_err(|wrong| ConfigErrors(vec![wrong]))?;
        let base = Base {
            lock: Arc::new(open::lock(dir.root())?),
            ca: Arc::new(dir.ca()?),
            signing_public_key: dir.signing_public_key()?,
            credential: Arc::new(dir.admin_token()?),
            transfers: Transfers::default(),
            dir,
            config,
            clock,
        };
        let begins = match shared {
            None => {
                let loaded = load::own(&base.dir, now, &base.transfers, base.lock.clone())?;
                Begins::Leads(Box::new(base.plane(loaded, None).await?))
            }
            Some(settings) => Begins::Waits(settings),
        };
        let doors = Doors::bind(&base, door).await?;
        Ok(Self { base, doors, begins })
    }

    /// Where it is bound.
    pub fn running(&self) -> &Running {
        &self.doors.running
    }

    /// Serves until the token fires, then drains: agents are told to come back, and have `drain_s` to hear it. Where the store is shared, it first waits until
    /// it leads, and ends when it does not any more.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<Ended> {
        let Self { base, doors, begins } = self;
        base.dir.set_running(&doors.running)?;
        let ended = match begins {
            Begins::Leads(leads) => lead(&base, &doors, *leads, &stop).await,
            Begins::Waits(settings) => match standby::wait(&base, &doors, &settings, &stop).await {
                Ok(Some(leads)) => lead(&base, &doors, leads, &stop).await,
                Ok(None) => Ok(Ended::Stopped),
                Err(error) => Err(error),
            },
        };
        doors.endpoint.close(control::close::GOING_DOWN.into(), b"going down");
        base.dir.clear_running();
        // Every agent was told; one that still missed it hears it from whoever answers here next.
        tokio::time::timeout(LAST_PACKETS, doors.endpoint.wait_idle()).await.ok();
        ended
    }
}

/// Serves with all of the state, until the token fires or another may lead.
async fn lead(base: &Base, doors: &Doors, leads: Leads, stop: &CancellationToken) -> anyhow::Result<Ended> {
    let Leads { plane, store_thread, leadership } = leads;
    let Doors { endpoint, running, .. } = doors;
    let lost = leadership.as_ref().map_or_else(CancellationToken::new, |held| held.fence().lost().clone());
    let (tasks, over) = (TaskTracker::new(), stop.child_token());
    tracing::info!(agents = %running.agents, api = running.api_url(), admin = %running.admin, "serving");

    let keeper = tasks.spawn(plane.clone().keep_up(over.clone()));
    let admin_state = Admin { plane: plane.clone(), running: running.clone(), credential: base.credential.clone() };
    let key = doors.door.as_ref().map(|door| door.key.clone());
    let for_admins = dashboard::router(admin_state.clone()).merge(admin::router(admin_state));
    doors.serve(&tasks, public::router(plane.clone(), key), for_admins, &over, None)?;
    let links = tasks.spawn(control::run(plane.clone(), endpoint.clone(), over.clone()));

    let (ended, grace) = tokio::select! {
        () = stop.cancelled() => (Ended::Stopped, Duration::from_secs_f64(plane.config.drain_s)),
        () = lost.cancelled() => {
            tracing::error!("another control plane may lead by now; this one hangs up on its agents and waits for its turn");
            (Ended::LeadershipLost, LOST_GRACE)
        }
    };
    over.cancel();
    let open = plane.connections();
    let began = Instant::now();
    tracing::info!(connections = open, "draining");
    tasks.close();
    let drained = tokio::time::timeout(grace, links).await.is_ok();
    endpoint.close(control::close::GOING_DOWN.into(), b"going down");
    if drained {
        tracing::info!(took_ms = began.elapsed().as_millis() as u64, "every agent was told");
    } else {
        tracing::warn!(still_open = plane.connections(), "the time for draining is over; connections were cut");
    }
    // Whatever still runs gets as much time again; the store's thread ends when they have let go of it.
    if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
        tracing::warn!("some requests did not end in time and are cut");
    }
    drop(keeper);
    if plane.exports_by_itself() {
        plane.export().await;
    }
    if let Ok(plane) = Arc::try_unwrap(plane).map_err(drop) {
        drop(plane);
        // Only then has every handle gone, and the thread ends by itself.
        tokio::task::spawn_blocking(move || store_thread.join().ok()).await.ok();
    }
    if let Some(leadership) = leadership.filter(|_| ended == Ended::Stopped) {
        // So that nobody waits for the lease to end.
        tokio::task::spawn_blocking(move || leadership.resign()).await.ok();
    }
    Ok(ended)
}

async fn http(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    app: Router,
    stop: CancellationToken,
    grace: Option<Duration>,
) {
    let app = app.into_make_service_with_connect_info::<Peer>();
    let handle = axum_server::Handle::<Peer>::new();
    let server = axum_server::Server::from_listener(BoundedListener::new(listener)).handle(handle.clone());
    let serving = async {
        match tls {
            Some(tls) => server.acceptor(RustlsAcceptor::new(RustlsConfig::from_config(tls))).serve(app).await,
            None => server.serve(app).await,
        }
    };
    let stopping = async {
        stop.cancelled().await;
        handle.graceful_shutdown(grace);
        // `serving` ends when the last connection has.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = serving => if let Err(error) = served {
            tracing::error!(%error, "an HTTP listener failed");
        },
        () = stopping => {}
    }
}
