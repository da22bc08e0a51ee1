//! Running the server: open the state, bind, serve, drain.

use crate::{
    api::{
        admin::{self, Admin},
        door::Door,
        listener::{BoundedListener, Peer},
        public,
    },
    audit::{Actor, Audit, AuditFile, Stored},
    config::Config,
    control::{self, tls},
    dashboard,
    fleet::Fleet,
    plane::Plane,
    state_dir::{Running, StateDir},
    store::{
        Store as _,
        open::{self, Opened},
        sled_store::SledStore,
        snapshot,
        writer::StoreWriter,
    },
};
use anyhow::Context as _;
use axum::Router;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use nearfield_shared::clock::{Clock, SystemClock};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long closed connections may take to be forgotten by the other side, too, before the process ends.
const LAST_PACKETS: Duration = Duration::from_millis(500);

/// A server that is bound and has its state, and does not serve yet.
pub struct Server {
    plane: Arc<Plane>,
    endpoint: quinn::Endpoint,
    api: TcpListener,
    door: Option<Door>,
    admin: TcpListener,
    running: Arc<Running>,
    credential: Arc<zeroize::Zeroizing<String>>,
    store_thread: std::thread::JoinHandle<()>,
}

fn open_store(dir: &StateDir, now: i64) -> anyhow::Result<(SledStore, Fleet, Audit)> {
    let opened = open::open(&dir.store(), &dir.snapshot(), now)?;
    let (mut store, restored) = match opened {
        Opened::Whole(store) => (store, None),
        Opened::Restored { store, damage, set_aside, exported_unix_s } => {
            let set_aside = set_aside.display();
            match exported_unix_s {
                Some(at) => tracing::error!(
                    damage, %set_aside, exported = crate::api::views::time(at),
                    "the store was damaged and is set aside; its last export was restored. Check nodes enrolled and changes applied since then"
                ),
                None => tracing::error!(
                    damage, %set_aside,
                    "the store was damaged and is set aside; there is no export, so it begins empty. Apply the regions and enrol the nodes again"
                ),
            }
            (store, Some(exported_unix_s))
        }
    };
    let entries = store.scan("")?;
    let mut fleet = Fleet::load(&entries, now)?;
    let stored = Stored::find(&entries).context("the audit's end in the store")?;
    let audit = AuditFile::open(&dir.audit(), stored, restored.is_some(), now)
        .with_context(|| format!("{} cannot be used", dir.audit().display()))?;
    if let Some(exported_unix_s) = restored {
        store.write(&fleet.restored(exported_unix_s.unwrap_or(now), now, &audit.since))?;
    }
    if let Some(problem) = &audit.problem {
        tracing::error!(
            problem,
            "audit.log is not as it was left; see `control-plane audit verify`. Changes go on being added to it"
        );
    }
    if !audit.writes.is_empty() {
        store.write(&audit.writes)?;
    }
    if restored.is_some() {
        // The new store counts its batches from one, so that the export of the old one would say that it has lost some.
        snapshot::export(&store, &dir.snapshot(), now)?;
    }
    Ok((store, fleet, Audit::new(audit)))
}

impl Server {
    /// Opens the state and binds every address. Nothing is served before [`Server::run`].
    pub async fn bind(dir: StateDir, config: Config) -> anyhow::Result<Self> {
        Self::bind_with(dir, config, Arc::new(SystemClock::default())).await
    }

    /// The same, with another clock than the machine's.
    pub async fn bind_with(dir: StateDir, config: Config, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let now = clock.unix_s();
        let door = Door::new(&dir, &config)?;
        let lock = open::lock(dir.root())?;
        let ca = Arc::new(dir.ca()?);
        let signing_public_key = dir.signing_public_key()?;
        let credential = Arc::new(dir.admin_token()?);
        let (store, fleet, audit) = open_store(&dir, now)?;
        let (writer, store_thread) = StoreWriter::start(store, lock)?;

        let plane = Plane::new(config, dir, ca, clock, signing_public_key, (fleet, writer, audit));
        // What was imported while no server ran.
        let imported = plane.imported().context("the imported models cannot be read")?;
        plane.note_models(&Actor::Plane, &imported).await?;
        let config = &plane.config;
        let bind = |what: &'static str, address: SocketAddr| {
            format!("cannot listen on {address} for {what} (`{what}` in {})", plane.dir.config_path().display())
        };
        let endpoint = tls::endpoint(&plane.ca, config, &plane.clock, &plane.transfers)?;
        let endpoint = endpoint.with_context(|| bind("agents", config.agents))?;
        let api = TcpListener::bind(config.api).await.with_context(|| bind("api", config.api))?;
        let admin = TcpListener::bind(config.admin).await.with_context(|| bind("admin", config.admin))?;
        let running = Arc::new(Running {
            pid: std::process::id(),
            agents: endpoint.local_addr()?,
            api: api.local_addr()?,
            api_tls: door.is_some(),
            admin: admin.local_addr()?,
        });
        Ok(Self { plane, endpoint, api, door, admin, running, credential, store_thread })
    }

    /// Where it is bound.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Serves until the token fires, then drains: agents are told to come back, and have `drain_s` to hear it.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self { plane, endpoint, api, door, admin, running, credential, store_thread } = self;
        let tasks = TaskTracker::new();
        plane.dir.set_running(&running)?;
        tracing::info!(agents = %running.agents, api = running.api_url(), admin = %running.admin, "serving");

        let keeper = tasks.spawn(plane.clone().keep_up(stop.clone()));
        let admin_state = Admin { plane: plane.clone(), running, credential };
        let (tls, key) = door.map(|Door { tls, key }| (tls, key)).unzip();
        tasks.spawn(http(api, tls, public::router(plane.clone(), key), stop.clone()));
        let for_admins = dashboard::router(admin_state.clone()).merge(admin::router(admin_state));
        tasks.spawn(http(admin, None, for_admins, stop.clone()));
        let links = tasks.spawn(control::run(plane.clone(), endpoint.clone(), stop.clone()));

        stop.cancelled().await;
        let open = plane.connections();
        let began = Instant::now();
        tracing::info!(connections = open, "draining");
        tasks.close();
        let grace = Duration::from_secs_f64(plane.config.drain_s);
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
        plane.export().await;
        plane.dir.clear_running();
        if let Ok(plane) = Arc::try_unwrap(plane).map_err(drop) {
            drop(plane);
            // Only then has every handle gone, and the thread ends by itself.
            tokio::task::spawn_blocking(move || store_thread.join().ok()).await.ok();
        }
        // Every agent was told; one that still missed it hears it from whoever answers here next.
        tokio::time::timeout(LAST_PACKETS, endpoint.wait_idle()).await.ok();
        Ok(())
    }
}

async fn http(listener: TcpListener, tls: Option<Arc<rustls::ServerConfig>>, app: Router, stop: CancellationToken) {
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
        handle.graceful_shutdown(None);
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
