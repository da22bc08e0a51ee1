//! The daemon: everything of a running node put together, started in order and stopped in order.
//!
//! Start: the folder's lock, the vault, the listeners (so that a taken port is told before anything else happens), then the tasks. The
//! last-known-good state goes into place before the control plane is dialled, so the node never claims what it does not serve.
//! Stop: the door closes, calls end within the grace period, the last figures and the goodbye go out, the rest stops.

use crate::{
    admin,
    artefacts::{ArtefactStore, Fetcher, Progress},
    calls::CallDoor,
    config::Config,
    control::{self, ControlParts, LinkState, dial::Dialer, revoked::RevokedList, tls, unix_now_s},
    http::{self, ListenError, Listener},
    identity::Identity,
    media::{
        telephony::{Telephony, TelephonyError},
        webrtc::WebRtc,
    },
    neighbours::{NeighbourParts, Neighbours},
    node::{Services, Serving},
    outbound::{Outbound, OutboundError},
    registry::Registry,
    slots::{Activity, Board, LastKnownGood, ModelHost, Slots, SlotsParts, Wanted},
    speech::Speech,
    state_dir::{DirError, DirLock, StateDir},
    status::{StatusReport, StatusSource},
    telemetry::Tally,
    trial::Trials,
    update::{Leave, Updates},
    vault::{Vault, VaultError},
    wyoming,
};
use axum::Router;
use nearfield_shared::{
    clock::Clock,
    desired::Generation,
    link::AgentLinkConfig,
    report::AnonymisedReport,
    wire::{
        PublicUrl,
        message::{DeviceSummary, Duty, HereIAm},
    },
};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often the vault is looked through for what has outlived its time.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// How long HTTP connections that are no calls get at the end.
const HTTP_GRACE: Duration = Duration::from_secs(2);

/// Reports on their way to the link's owner.
const REPORTS_QUEUED_MAX: usize = 4;

/// Shortest window between reports that a control plane may ask for, so that no message can make a node frantic.
const REPORT_WINDOW_MIN: Duration = Duration::from_secs(1);

/// What a daemon is made of.
pub struct DaemonParts {
    /// The node's folder.
    pub dir: StateDir,
    /// Its settings.
    pub config: Config,
    /// Who it is.
    pub identity: Identity,
    /// Holds its models.
    pub host: Arc<dyn ModelHost>,
    /// Uses its models.
    pub speech: Arc<dyn Speech>,
    /// What they run on.
    pub device: DeviceSummary,
    /// Why that device was chosen.
    pub device_reason: String,
    /// Times of the control link.
    pub link: AgentLinkConfig,
    /// What tells the time.
    pub clock: Arc<dyn Clock>,
    /// Makes the router that takes calls.
    pub calls: fn(Services) -> Router,
    /// Which program this is, and how it makes way for another.
    pub updates: Updates,
}

/// Why a daemon does not start. Nothing was bound or changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder is in use, or open to others.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The vault does not open.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A listener is not secured, or taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Calls by telephone cannot be taken as `agent.toml` wants it.
    #[error(transparent)]
    Telephony(#[from] TelephonyError),
    /// TLS towards the control plane cannot be configured.
    #[error(transparent)]
    Tls(#[from] tls::TlsSetupError),
    /// The settings do not name the control plane.
    #[error("agent.toml does not name the control plane; add `plane = \"HOST:PORT\"`, or enrol this node")]
    NoPlane,
    /// The admin socket cannot be made.
    #[error("the admin socket cannot be made: {0}")]
    Admin(std::io::Error),
    /// The address for neighbours cannot be used.
    #[error(
        "neighbours = \"{address}\" in agent.toml cannot be listened on: {source}; name a free UDP port of an address of this machine"
    )]
    Neighbours {
        /// The address.
        address: SocketAddr,
        /// What the system or TLS said.
        source: std::io::Error,
    },
    /// What asks other hosts cannot be made.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// No randomness.
    #[error("the system gives no random numbers")]
    Random,
}

/// A running node.
pub struct Daemon {
    services: Services,
    wyoming: Option<SocketAddr>,
    status: StatusSource,
    reports: mpsc::Sender<AnonymisedReport>,
    leave: watch::Receiver<Option<Leave>>,
    updates: Arc<Updates>,
    http: Vec<axum_server::Handle<SocketAddr>>,
    drain_grace: Duration,
    stop: CancellationToken,
    tasks: TaskTracker,
    _lock: DirLock,
}

/// How a daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Calls that were cut because they outlasted the grace period.
    pub calls_cut: usize,
}

impl Daemon {
    /// Starts a node.
    pub async fn start(parts: DaemonParts) -> Result<Self, StartError> {
        let DaemonParts { dir, config, identity, host, speech, device, device_reason, link, clock, calls, updates } =
            parts;
        let updates = Arc::new(updates);
        let planes = config.planes.clone();
        let plane = planes.first().ok_or(StartError::NoPlane)?;
        let lock = dir.lock()?;
        let link_tls = tls::link_config(&dir, &identity)?;
        let vault = Vault::open(&dir)?;
        let listeners = http::bind(&dir, &config)?;
        let wyoming = wyoming::bind(&config)?;
        let telephony = Telephony::read(&config)?;
        let webrtc = WebRtc::listen(&config.webrtc)?;
        let admin = admin::listen(&dir).map_err(StartError::Admin)?;
        let mut seed = [0; 8];
        aws_lc_rs::rand::fill(&mut seed).map_err(|_| StartError::Random)?;

        let (board, serving) = Board::new();
        let (activity_tx, activity) = watch::channel(Activity::default());
        let (link_tx, link_state) = watch::channel(LinkState { plane: plane.clone(), ..LinkState::default() });
        let (connection_tx, connection) = watch::channel(None);
        let (wanted_tx, wanted) = watch::channel(Wanted::default());
        let (outcomes_tx, outcomes) = mpsc::channel(1);
        let (reports_tx, reports) = mpsc::channel(REPORTS_QUEUED_MAX);
        let progress = Progress::default();
        let store = ArtefactStore::at(&dir.artefacts());
        let revoked = Arc::new(RevokedList::open(&dir, &identity.authority));
        let registry = Arc::new(Registry::open(&dir, Arc::clone(&clock), link_state.clone()));
        let neighbours = config.neighbours.map(|address| {
            let parts = NeighbourParts {
                dir: dir.clone(),
                identity: identity.clone(),
                clock: Arc::clone(&clock),
                revoked: Arc::clone(&revoked),
                link: link_state.clone(),
                store: store.clone(),
            };
            Neighbours::bind(address, parts).map_err(|source| StartError::Neighbours { address, source })
        });
        let neighbours = neighbours.transpose()?;
        let gives_at = neighbours.as_ref().map(Neighbours::address);
        let (finder, giver) = neighbours.map(Neighbours::split).unzip();
        let node: Arc<str> = identity.node.as_str().into();
        let public_url = public_url(&config, &listeners);
        let urls: Arc<[String]> = listeners.iter().map(Listener::url).collect();
        let services = Services {
            node: Arc::clone(&node),
            speech,
            serving: serving.clone(),
            vault: vault.clone(),
            tally: Tally::default(),
            trials: Trials::default(),
            calls: CallDoor::new(config.calls_max),
            client_secrets: Default::default(),
            places: Default::default(),
            telephony,
            webrtc,
            outbound: Outbound::new(&config.private_hosts, &dir.tool_secrets())?,
        };
        let status = StatusSource {
            node,
            region: identity.region.as_str().into(),
            started: Instant::now(),
            device: device.clone(),
            device_reason: device_reason.into(),
            listeners: Arc::clone(&urls),
            public_url: public_url.as_ref().map(|url| url.as_str().into()),
            serving,
            activity,
            progress: progress.clone(),
            link: link_state.clone(),
            calls: services.calls.clone(),
            tally: services.tally.clone(),
            trials: services.trials.clone(),
            host: Arc::clone(&host),
            updates: Arc::clone(&updates),
        };
        let slots = Slots::new(SlotsParts {
            host,
            store,
            fetcher: Fetcher::new(connection, progress).with_neighbours(finder),
            signing_key: identity.signing_key.clone(),
            registry: Arc::clone(&registry),
            last_known_good: LastKnownGood::at(&dir.last_known_good()),
            artefacts_keep: config.artefacts_keep,
            board: board.clone(),
            trials: services.trials.clone(),
            activity: activity_tx,
            updates: Arc::clone(&updates),
            calls: services.calls.clone(),
        });
        let me = HereIAm {
            node: identity.node.clone(),
            region: identity.region.clone(),
            agent_version: updates.version(),
            serving: Generation(0),
            refused: None,
            device,
            public_url,
            neighbours: gives_at,
        };
        let duty = board.follow_duty();
        let control = ControlParts {
            planes,
            dir,
            identity,
            clock,
            revoked,
            registry,
            tls: link_tls,
            dialer: Dialer::default(),
            link,
            me,
            seed: u64::from_le_bytes(seed),
            wanted: wanted_tx,
            outcomes,
            board,
            connection: connection_tx,
            status: Box::new({
                let status = status.clone();
                move || status.for_plane()
            }),
            reports,
            state: link_tx,
        };

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let follows = (updates.clone(), link_state);
        tasks.spawn(boot_then_follow(slots, control, follows, (wanted, outcomes_tx), stop.clone()));
        if let Some(giver) = giver {
            tasks.spawn(giver.run(stop.clone()));
        }
        tasks.spawn(admin::serve(admin, status.clone(), vault.clone(), stop.clone()));
        tasks.spawn(sweep(vault, services.serving.clone(), stop.clone()));
        tasks.spawn(hold(services.calls.clone(), duty.clone(), stop.clone()));
        tasks.spawn(report(services.clone(), reports_tx.clone(), (config.report_window, duty), stop.clone()));
        let router = calls(services.clone());
        let mut handles = Vec::new();
        for listener in listeners {
            let handle = axum_server::Handle::new();
            handles.push(handle.clone());
            let app = http::router(status.clone(), router.clone(), services.client_secrets.clone(), &listener);
            tasks.spawn(async move {
                if let Err(e) = http::serve(listener, handle, app).await {
                    tracing::error!(error = %e, "a listener failed");
                }
            });
        }
        let wyoming_address = wyoming.as_ref().and_then(|listener| listener.local_addr().ok());
        if let Some(listener) = wyoming {
            tasks.spawn(wyoming::serve(listener, services.clone(), stop.clone()));
        }
        tasks.close();
        Ok(Self {
            services,
            wyoming: wyoming_address,
            status,
            reports: reports_tx,
            leave: updates.follow(),
            updates,
            http: handles,
            drain_grace: config.drain_grace,
            stop,
            tasks,
            _lock: lock,
        })
    }

    /// The handles that calls use.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Which program this is, and how it makes way for another.
    pub fn updates(&self) -> Arc<Updates> {
        self.updates.clone()
    }

    /// How the node is.
    pub fn status(&self) -> StatusReport {
        self.status.report()
    }

    /// Base URLs that callers on this machine can use.
    pub fn urls(&self) -> &[String] {
        &self.status.listeners
    }

    /// Where the Wyoming protocol is served, if it is.
    pub fn wyoming(&self) -> Option<SocketAddr> {
        self.wyoming
    }

    /// Returns when the daemon has to go by itself, and why: [`Daemon::drain`] comes next.
    pub async fn has_to_leave(&self) -> Leave {
        let mut leave = self.leave.clone();
        let told = leave.wait_for(Option::is_some).await.ok().and_then(|told| *told);
        match told {
            Some(leave) => leave,
            // Nobody is left who could want it.
            None => std::future::pending().await,
        }
    }

    /// Stops well: calls get the grace period, then the rest ends.
    pub async fn drain(self) -> Drained {
        let calls_cut = self.services.calls.drain(self.drain_grace).await;
        // The calls that just ended are the last figures of this process.
        let policy = self.services.serving.borrow().policy.clone();
        while let Ok(report) = self.services.tally.take_report(policy.as_ref()) {
            if self.reports.try_send(report).is_err() {
                tracing::warn!("the last report could not be handed to the control link");
                break;
            }
        }
        for handle in &self.http {
            handle.graceful_shutdown(Some(HTTP_GRACE));
        }
        self.stop.cancel();
        self.tasks.wait().await;
        Drained { calls_cut }
    }
}

/// Where callers reach this node, as the control plane will tell them.
fn public_url(config: &Config, listeners: &[Listener]) -> Option<PublicUrl> {
    let stated = config.url.clone();
    // Without a stated URL the first listener's address serves callers on this machine, which is what a trial needs.
    let url = stated.or_else(|| listeners.iter().find(|l| !l.is_wildcard()).map(Listener::url));
    if url.is_none() {
        tracing::warn!(
            "no `url` is configured and the listeners have no address of their own; callers will not be routed here"
        );
    }
    url.and_then(|url| url.parse().ok())
}

async fn boot_then_follow(
    mut slots: Slots,
    mut control: ControlParts,
    (updates, link): (Arc<Updates>, watch::Receiver<LinkState>),
    (wanted, outcomes): (watch::Receiver<Wanted>, mpsc::Sender<crate::slots::Outcome>),
    stop: CancellationToken,
) {
    let booted = tokio::select! {
        generation = slots.boot() => generation,
        () = stop.cancelled() => return,
    };
    control.me.serving = booted;
    let follow = async {
        // What is only being tried takes no new state, so that nothing is acknowledged that would be taken back.
        let stays = tokio::select! {
            stays = updates.come_up(slots.has_booted(), link) => stays,
            () = stop.cancelled() => return,
        };
        if stays {
            slots.run(wanted, outcomes, stop.clone()).await;
        }
    };
    tokio::join!(follow, control::run(control, stop.clone()));
}

/// Erases what has outlived its time: at the start, every hour, and whenever the policy changes.
async fn sweep(vault: Vault, mut serving: watch::Receiver<Arc<Serving>>, stop: CancellationToken) {
    loop {
        let retention_days = serving.borrow_and_update().policy.as_ref().map(|policy| policy.retention_days);
        match vault.sweep(unix_now_s().max(0) as u64, retention_days).await {
            Ok(0) => {}
            Ok(erased) => tracing::info!(erased, "transcripts outlived their time and were erased"),
            Err(e) => tracing::error!(error = %e, "the vault could not be swept"),
        }
        tokio::select! {
            () = tokio::time::sleep(SWEEP_EVERY) => {}
            changed = serving.wait_for(|s| s.policy.as_ref().map(|p| p.retention_days) != retention_days) => {
                if changed.is_err() {
                    return;
                }
            }
            () = stop.cancelled() => return,
        }
    }
}

/// Keeps new calls out while the control plane wants none here.
async fn hold(calls: CallDoor, mut duty: watch::Receiver<Duty>, stop: CancellationToken) {
    loop {
        let held = !duty.borrow_and_update().accepting;
        if calls.is_held() != held {
            tracing::info!(held, "whether new calls are kept out, as the control plane wants it");
            calls.hold(held);
        }
        tokio::select! {
            changed = duty.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Hands reports to the link once per window, where the groups are large enough. The control plane may ask for shorter windows while a change is watched.
async fn report(
    services: Services,
    reports: mpsc::Sender<AnonymisedReport>,
    (usual, mut duty): (Duration, watch::Receiver<Duty>),
    stop: CancellationToken,
) {
    loop {
        let asked = duty.borrow_and_update().report_every_ms.map(|ms| Duration::from_millis(ms.into()));
        let window = asked.map_or(usual, |asked| asked.max(REPORT_WINDOW_MIN).min(usual));
        tokio::select! {
            () = tokio::time::sleep(window) => {}
            changed = duty.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = stop.cancelled() => return,
        }
        let policy = services.serving.borrow().policy.clone();
        loop {
            match services.tally.take_report(policy.as_ref()) {
                Ok(report) => {
                    if let Err(mpsc::error::TrySendError::Full(report)) = reports.try_send(report) {
                        services.tally.put_back(&report);
                        break;
                    }
                }
                Err(denial) => {
                    tracing::debug!(reason = %denial, "nothing more is reported for this window");
                    break;
                }
            }
        }
    }
}
