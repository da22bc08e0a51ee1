//! What every task of the server shares: the fleet behind one lock, the store behind it, and watches for what others follow.
//!
//! A change goes through [`Plane::commit`]: it is made in memory, handed to the store in the same order, and the caller waits
//! until it is on the disk before it tells anyone. BACKPRESSURE: the store's queue is bounded; where it is full, the caller
//! gets `Overloaded`.

mod models;
mod offering;
mod registry;
mod rollouts;
mod several;
pub mod unstored;

pub use several::Kept;

use crate::{
    audit::{Act, Actor, Audit},
    ca::{Ca, NodeIdentity},
    config::Config,
    control::socket::Transfers,
    fleet::{ConnectionId, Fleet, RETURN_GRACE_S, routes::part_for},
    offers::Offers,
    registry::shelf::ArtefactCache,
    state_dir::StateDir,
    store::{StoreError, Write, etcd::Leader, writer::StoreWriter},
};
use nearfield_shared::{
    artefact::{Digest, Manifest},
    clock::Clock,
    desired::Route,
    link::{PlaneLinkConfig, RegistryOffer},
    region::RegionId,
    wire::{
        Broadcast, NodeName, PlaneToAgent,
        message::{Refused, RefusedCode, Revoked, Routes},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;
use unstored::Unstored;

/// Changes within this time make one update of routes.
const ROUTES_SETTLE: Duration = Duration::from_millis(50);

/// Bytes a second that telling nodes of routes may take: where a fleet is so large that it would take more, changes wait longer for
/// one another. A tenth of a 1 Gbit/s link.
const ROUTES_BYTES_PER_SECOND: usize = 12 << 20;

/// Changes within this time go into one export.
const EXPORT_SETTLE: Duration = Duration::from_secs(2);

/// A link that stands, and where the one thing goes that others want of it: that it says why and hangs up. `None` once that was said.
type Connected = (ConnectionId, Option<oneshot::Sender<Refused>>);

/// The shared state of a running server.
pub struct Plane {
    /// Settings.
    pub config: Config,
    /// The folder.
    pub dir: StateDir,
    /// The authority.
    pub ca: Arc<Ca>,
    /// What tells the time.
    pub clock: Arc<dyn Clock>,
    /// Public half of the key that signs manifests.
    pub signing_public_key: Vec<u8>,
    fleet: Mutex<Fleet>,
    store: StoreWriter,
    /// How every link behaves.
    pub link: Arc<PlaneLinkConfig>,
    /// Models that are being sent now.
    pub transfers: Transfers,
    /// What was changed, and by whom.
    pub audit: Arc<Audit>,
    /// How this control plane leads, where several share the store.
    pub leads: Option<Leader>,
    store_works: AtomicBool,
    /// Locked after the fleet.
    unstored: Mutex<Unstored>,
    desired: Mutex<BTreeMap<RegionId, watch::Sender<Option<Arc<Offers>>>>>,
    routes: watch::Sender<Arc<Vec<Route>>>,
    /// The part that nodes of a region are told.
    told: Mutex<BTreeMap<RegionId, watch::Sender<Broadcast<Routes>>>>,
    /// The number and the list.
    revoked: watch::Sender<Option<(u64, Broadcast<Revoked>)>>,
    /// The registry's metadata as nodes are told it, and its newest root.
    registry: watch::Sender<Option<(Arc<RegistryOffer>, String)>>,
    /// Models that nodes may ask for, by the digests of their files.
    manifests: RwLock<HashMap<Digest, Arc<Manifest>>>,
    /// Model files that stand beyond the state folder.
    pub artefact_cache: Option<ArtefactCache>,
    /// What the log was told of it last.
    registry_said: Mutex<Vec<String>>,
    registry_ended: Notify,
    /// Mostly one for each node; two while a node moves.
    connections: Mutex<HashMap<NodeName, Vec<Connected>>>,
    next_connection: AtomicU64,
    routes_changed: Notify,
    rollouts_touched: Notify,
    /// Regions whose rollout the disk does not have as it is.
    rollouts_unsaved: Mutex<BTreeSet<RegionId>>,
    stored: Notify,
    /// The owner's moment zero, for the link machines.
    pub started: Instant,
}

/// Routes for every node of a region.
fn told(routes: Vec<Route>) -> Broadcast<Routes> {
    Routes { routes: Arc::new(routes) }.into()
}

/// Shows what differs from what is shown; says whether it does.
fn show_news<T: PartialEq>(shown: &watch::Sender<T>, next: T) -> bool {
    shown.send_if_modified(|current| {
        let news = *current != next;
        if news {
            *current = next;
        }
        news
    })
}

/// A lock whose holder panicked is taken all the same: every change under it is a plain assignment, complete or not begun.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Plane {
    /// The state of a server that starts.
    pub fn new(
        config: Config,
        dir: StateDir,
        ca: Arc<Ca>,
        clock: Arc<dyn Clock>,
        signing_public_key: Vec<u8>,
        artefact_cache: Option<ArtefactCache>,
        Kept { fleet, store, audit, leads, transfers }: Kept,
    ) -> Arc<Self> {
        let routes = watch::Sender::new(Arc::new(fleet.routes(clock.unix_s())));
        let version = env!("CARGO_PKG_VERSION").parse().expect("cargo's versions keep to the rule of version names");
        let link = PlaneLinkConfig { heartbeat: config.heartbeat(), ..PlaneLinkConfig::new(version) };
        let plane = Arc::new(Self {
            config,
            dir,
            ca,
            clock,
            signing_public_key,
            fleet: Mutex::new(fleet),
            store,
            link: Arc::new(link),
            transfers,
            audit: Arc::new(audit),
            leads,
            store_works: AtomicBool::new(true),
            unstored: Mutex::default(),
            desired: Mutex::default(),
            routes,
            told: Mutex::default(),
            revoked: watch::Sender::new(None),
            registry: watch::Sender::new(None),
            registry_said: Mutex::default(),
            registry_ended: Notify::new(),
            manifests: RwLock::default(),
            artefact_cache,
            connections: Mutex::default(),
            next_connection: AtomicU64::new(1),
            routes_changed: Notify::new(),
            rollouts_touched: Notify::new(),
            rollouts_unsaved: Mutex::default(),
            stored: Notify::new(),
            started: Instant::now(),
        });
        plane.publish_revoked();
        plane.follow_all();
        plane
    }

    /// Seconds since 1970.
    pub fn now(&self) -> i64 {
        self.clock.unix_s()
    }

    /// Looks at the fleet.
    pub fn look<R>(&self, look: impl FnOnce(&Fleet) -> R) -> R {
        look(&locked(&self.fleet))
    }

    /// Changes the fleet, and waits until the change is on the disk.
    pub async fn commit<R>(&self, change: impl FnOnce(&mut Fleet) -> (R, Vec<Write>)) -> Result<R, StoreError> {
        let (result, changed, queued, wait) = {
            let mut fleet = locked(&self.fleet);
            let (result, writes) = change(&mut fleet);
            let changed = !writes.is_empty();
            let queued = self.queued(&writes);
            // Queued under the lock, so that the disk sees changes in the order in which they were made.
            (result, changed, queued, self.store.write(writes))
        };
        if changed {
            self.routes_changed.notify_one();
        }
        let outcome = wait.await;
        queued.ended(outcome.is_ok());
        if changed {
            self.store_works.store(outcome.is_ok(), Ordering::Relaxed);
            self.stored.notify_one();
        }
        outcome.map(|()| result)
    }

    /// Changes the fleet on somebody's behalf: as [`Plane::commit`], and what the change says of itself is in the audit before this returns.
    pub async fn change<R>(
        &self,
        actor: &Actor,
        change: impl FnOnce(&mut Fleet) -> (R, Vec<Write>, Option<Act>),
    ) -> Result<R, StoreError> {
        let mut line = None;
        let result = self
            .commit(|fleet| {
                let (result, mut writes, act) = change(fleet);
                if let Some(act) = act {
                    // Under the fleet's lock, so that lines have the order of their batches.
                    let (n, of_line) = self.audit.add(actor, act, self.now());
                    writes.extend(of_line);
                    line = Some(n);
                }
                (result, writes)
            })
            .await?;
        if let Some(n) = line {
            let audit = self.audit.clone();
            // Off this task, so that it is written even if whoever asked goes away.
            let written = tokio::task::spawn_blocking(move || audit.write(n)).await;
            let written = written.unwrap_or_else(|panic| Err(io::Error::other(panic)));
            written.map_err(|error| StoreError::Audit(error.to_string()))?;
        }
        Ok(result)
    }

    /// Whether the last change reached the disk.
    pub fn store_works(&self) -> bool {
        self.store_works.load(Ordering::Relaxed)
    }

    /// Follows what nodes of a region are told of where callers can go.
    pub fn follow_routes(&self, region: &RegionId) -> watch::Receiver<Broadcast<Routes>> {
        let mut followed = locked(&self.told);
        let sender = followed
            .entry(region.clone())
            .or_insert_with(|| watch::Sender::new(told(part_for(region, &self.routes.borrow()))));
        sender.subscribe()
    }

    /// Where callers can go now.
    pub fn routes(&self) -> Arc<Vec<Route>> {
        self.routes.borrow().clone()
    }

    /// Follows the list of revoked certificates, with its number.
    pub fn follow_revoked(&self) -> watch::Receiver<Option<(u64, Broadcast<Revoked>)>> {
        self.revoked.subscribe()
    }

    /// Signs the list of revoked certificates, if it has changed, and tells every node of every region.
    pub fn publish_revoked(&self) {
        let Some((number, revoked)) = self.look(Fleet::revocations) else { return };
        if self.revoked.borrow().as_ref().is_some_and(|(told, _)| *told >= number) {
            return;
        }
        match self.ca.revocation_list(&revoked, number, self.now()) {
            Ok(pem) => {
                // Of two that publish at once, the one with the older list may come last.
                self.revoked.send_if_modified(|current| {
                    let news = current.as_ref().is_none_or(|(told, _)| *told < number);
                    if news {
                        *current = Some((number, Revoked { crl_pem: Arc::new(pem) }.into()));
                    }
                    news
                });
            }
            Err(error) => tracing::error!(%error, "the list of revoked certificates cannot be signed"),
        }
    }

    /// Lets a connection with this certificate in, if its node may connect. Its time is not asked here.
    pub async fn admit(&self, identity: &NodeIdentity) -> Result<(), Refused> {
        let admitted = self.change(&Actor::Plane, |fleet| fleet.let_in(identity)).await;
        admitted.unwrap_or_else(|error| {
            tracing::error!(node = %identity.node, %error, "that a new certificate is in use is not stored");
            let reason = "the control plane's store failed; try again".to_owned();
            Err(Refused { code: RefusedCode::Overloaded, reason })
        })
    }

    /// Something changed that routes depend on.
    pub fn touch_routes(&self) {
        self.routes_changed.notify_one();
    }

    fn refresh_routes(&self) {
        let routes = self.look(|fleet| fleet.routes(self.now()));
        show_news(&self.routes, Arc::new(routes));
    }

    /// Tells every node what it should know of the routes, and returns how long to wait before it is done again.
    fn tell_routes(&self) -> Duration {
        let routes = self.routes();
        let mut bytes = 0;
        for (region, sender) in &*locked(&self.told) {
            if show_news(sender, told(part_for(region, &routes))) {
                // What cannot be measured is not told either: both encode it.
                let each = PlaneToAgent::Routes(sender.borrow().clone()).encode().map_or(0, |frame| frame.len());
                bytes += each * sender.receiver_count();
            }
        }
        ROUTES_SETTLE.max(Duration::from_secs_f64(bytes as f64 / ROUTES_BYTES_PER_SECOND as f64))
    }

    /// A number for a new connection.
    pub fn number_connection(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes a connection in. An older one of the same node stays until this one has greeted ([`Plane::replace_older`]), so that a node
    /// that moves from one to the other is never gone.
    pub fn connected(&self, node: &NodeName, id: ConnectionId) -> oneshot::Receiver<Refused> {
        let (sender, receiver) = oneshot::channel();
        locked(&self.connections).entry(node.clone()).or_default().push((id, Some(sender)));
        receiver
    }

    /// A connection has greeted: others of the same node are told that they are replaced.
    pub fn replace_older(&self, node: &NodeName, id: ConnectionId) {
        let reason = "the node has connected again; if that was not you, two agents run with one identity".into();
        self.refuse(node, &Refused { code: RefusedCode::Replaced, reason }, |other| other < id);
    }

    /// A connection has ended.
    pub fn disconnected(&self, node: &NodeName, id: ConnectionId) {
        let mut connections = locked(&self.connections);
        if let Some(of_node) = connections.get_mut(node) {
            of_node.retain(|(other, _)| *other != id);
            if of_node.is_empty() {
                connections.remove(node);
            }
        }
    }

    /// Hangs up on a node, whatever connections it has.
    pub fn hang_up(&self, node: &NodeName, refused: &Refused) {
        self.refuse(node, refused, |_| true);
    }

    fn refuse(&self, node: &NodeName, refused: &Refused, which: impl Fn(ConnectionId) -> bool) {
        for (id, connection) in locked(&self.connections).get_mut(node).into_iter().flatten() {
            if which(*id)
                && let Some(connection) = connection.take()
            {
                // One that is gone has hung up already.
                connection.send(refused.clone()).ok();
            }
        }
    }

    /// Nodes connected.
    pub fn connections(&self) -> usize {
        locked(&self.connections).len()
    }

    /// Exports the store; everything that anyone was told of is in it.
    pub async fn export_now(&self) -> Result<(), StoreError> {
        self.store.export(self.dir.snapshot(), self.now()).await
    }

    /// The same, of which only the log is told.
    pub async fn export(&self) {
        if let Err(error) = self.export_now().await {
            tracing::error!(%error, "the store could not be exported; should it break now, the last export is older");
        }
    }

    /// Keeps routes and the export up to date until the token fires; then exports once more.
    pub async fn keep_up(self: Arc<Self>, stop: CancellationToken) {
        let grace_over = tokio::time::sleep(Duration::from_secs(RETURN_GRACE_S as u64 + 1));
        tokio::pin!(grace_over);
        let mut grace = true;
        let routes = async {
            loop {
                tokio::select! {
                    () = self.routes_changed.notified() => tokio::time::sleep(ROUTES_SETTLE).await,
                    () = &mut grace_over, if grace => grace = false,
                }
                self.refresh_routes();
            }
        };
        let mut routes_seen = self.routes.subscribe();
        let tells = async {
            while routes_seen.changed().await.is_ok() {
                let pause = self.tell_routes();
                tokio::time::sleep(pause).await;
            }
        };
        let exports = async {
            loop {
                self.stored.notified().await;
                tokio::time::sleep(EXPORT_SETTLE).await;
                if self.exports_by_itself() {
                    self.export().await;
                }
            }
        };
        tokio::select! {
            () = routes => {}
            () = self.keep_rollouts() => {}
            () = tells => {}
            () = exports => {}
            () = self.keep_registry() => {}
            () = stop.cancelled() => {}
        }
    }
}
