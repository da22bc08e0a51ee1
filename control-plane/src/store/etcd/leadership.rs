//! Who leads: a key that is held by a lease.
//!
//! Several leaders at once were not chosen: what one control plane decides rests on all that it knows, in memory, and a fleet that two of them change needs
//! rules for every pair of changes. One leads, the others wait; taking over costs a lease and reading the store.
//!
//! The holder renews the lease at a third of its time, on a thread of its own, so that a busy server is not taken for a dead one. It counts the time from *before*
//! each renewal was asked for, by a clock that no one can set, so it gives up no later than etcd lets others have the key. That a process was stopped
//! meanwhile cannot be known before it goes on, so this clock decides nothing about what is written: every transaction asks etcd itself ([`super`]).

use super::{
    client::{Client, EtcdError},
    settings::EtcdSettings,
    wire::{Compare, KeyValue, Step},
};
use serde::{Deserialize, Serialize};
use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Pause before a renewal that failed is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// Renewals within the time of a lease: two may be lost.
const RENEWALS: u32 = 3;

/// Name of the key, below the prefix.
pub(super) const LEADER: &str = "leader";

/// Who leads, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Name of the control plane.
    pub name: String,
    /// Where its agents connect, as it is configured.
    pub agents: String,
    /// Its process.
    pub pid: u32,
    /// Since when, seconds since 1970.
    pub since_unix_s: i64,
}

/// What shows that its holder leads; every transaction carries it.
#[derive(Debug, Clone)]
pub struct Fence {
    /// The leader's key.
    pub(super) key: String,
    /// The revision at which our holding of it began. No two holdings have the same.
    pub(super) created: i64,
    until: Arc<Mutex<Instant>>,
    lost: CancellationToken,
}

impl Fence {
    fn prolong(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the lease may still be ours. What etcd says is what counts.
    pub fn may_hold(&self) -> bool {
        !self.lost.is_cancelled() && Instant::now() < self.until()
    }

    /// Says that it is over.
    pub(super) fn lose(&self) {
        self.lost.cancel();
    }

    /// Fires when it is over.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }
}

/// The leadership itself. Dropping it leaves the lease to its end; [`Leadership::resign`] gives it back.
#[derive(Debug)]
pub struct Leadership {
    fence: Fence,
    /// Tells the keeper to give it back; dropped, that it just stops.
    resign: Option<oneshot::Sender<()>>,
    keeper: Option<thread::JoinHandle<()>>,
}

impl Leadership {
    /// For whoever writes.
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// Gives it back at once, so that nobody waits for the lease to end. Blocks for a request.
    pub fn resign(mut self) {
        if let Some(resign) = self.resign.take() {
            resign.send(()).ok();
        }
        if let Some(keeper) = self.keeper.take() {
            // One that panicked has told the log; the lease ends by itself.
            keeper.join().ok();
        }
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        // The keeper's wait for it ends with an error.
        self.resign.take();
        self.fence.lose();
    }
}

/// Who leads now.
///
/// # Errors
/// When etcd does not say.
pub async fn who_leads(client: &Client, settings: &EtcdSettings) -> Result<Option<Leader>, EtcdError> {
    let found = client.get(&settings.key(LEADER)).await?;
    Ok(found.map(|held| leader(&held)))
}

fn leader(held: &KeyValue) -> Leader {
    // One of a later version may say it in other words.
    serde_json::from_slice(&held.value.0).unwrap_or_else(|_| Leader {
        name: "another control plane".into(),
        agents: "-".into(),
        pid: 0,
        since_unix_s: 0,
    })
}

/// Takes the leadership if nobody has it.
///
/// # Errors
/// When etcd does not answer; it is not ours then, or ends with a lease that nobody renews.
pub async fn campaign(client: &Client, settings: &EtcdSettings, me: &Leader) -> Result<Option<Leadership>, EtcdError> {
    let key = settings.key(LEADER);
    let asked = Instant::now();
    let (lease, ttl) = client.grant(settings.lease()).await?;
    let value = serde_json::to_vec(me).map_err(|e| EtcdError::Answer(e.to_string()))?;
    let taken = client
        .txn(&[Compare::Absent(key.clone())], &[Step::PutLeased(key.clone(), value, lease)], &[Step::Get(key.clone())])
        .await?;
    let created = if taken.succeeded {
        Some(taken.header.revision.0)
    } else {
        // An answer that was lost, and asked for again: then it is ours by its lease.
        let held = taken.responses.into_iter().next().and_then(|step| step.response_range.kvs.into_iter().next());
        held.filter(|held| held.lease.0 == lease).map(|held| held.create_revision.0)
    };
    let Some(created) = created else {
        // Another was quicker. Whatever is left of the lease ends by itself.
        client.revoke(lease).await.ok();
        return Ok(None);
    };
    let fence = Fence { key, created, until: Arc::new(Mutex::new(asked + ttl)), lost: CancellationToken::new() };
    let (resign, resigned) = oneshot::channel();
    let (keeping, settings) = (fence.clone(), settings.clone());
    let keeper = thread::Builder::new()
        .name("lease".into())
        .spawn(move || {
            if let Err(error) = keep(&settings, &keeping, lease, resigned) {
                tracing::error!(%error, "the lease of the leadership cannot be kept");
            }
            keeping.lose();
        })
        .map_err(|e| EtcdError::Settings(format!("no thread for the lease: {e}")))?;
    Ok(Some(Leadership { fence, resign: Some(resign), keeper: Some(keeper) }))
}

fn keep(settings: &EtcdSettings, fence: &Fence, lease: i64, resigned: oneshot::Receiver<()>) -> Result<(), EtcdError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| EtcdError::Settings(format!("no runtime for the lease: {e}")))?;
    let client = Client::new(settings)?;
    runtime.block_on(async {
        let renewing = renew(&client, settings, fence, lease);
        tokio::select! {
            () = renewing => {}
            resigned = resigned => if resigned.is_ok()
                && let Err(error) = client.revoke(lease).await
            {
                tracing::warn!(%error, "the leadership is not given back; it ends with its lease");
            },
        }
    });
    Ok(())
}

/// Renews until the lease is gone, or must be.
async fn renew(client: &Client, settings: &EtcdSettings, fence: &Fence, lease: i64) {
    let mut pause = settings.lease() / RENEWALS;
    let mut trouble = false;
    loop {
        tokio::time::sleep(pause).await;
        let asked = Instant::now();
        // Not longer than the lease lasts, however many endpoints there are.
        let kept = tokio::time::timeout_at(fence.until().into(), client.keep_alive(lease)).await;
        match kept.unwrap_or_else(|_| Err(EtcdError::Unreachable("no answer within the lease".into()))) {
            Ok(Some(ttl)) => {
                fence.prolong(asked + ttl);
                pause = ttl.min(settings.lease()) / RENEWALS;
                trouble = false;
            }
            Ok(None) => {
                tracing::warn!("the lease of the leadership has ended");
                return;
            }
            Err(error) if fence.may_hold() => {
                if !std::mem::replace(&mut trouble, true) {
                    tracing::warn!(%error, "the lease of the leadership is not renewed yet; that is tried again until it ends");
                }
                pause = AGAIN;
            }
            Err(error) => {
                tracing::error!(%error, "the lease of the leadership could not be renewed in time");
                return;
            }
        }
        if fence.lost.is_cancelled() {
            return;
        }
    }
}
