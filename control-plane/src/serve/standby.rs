//! Waiting while another control plane leads: agents are turned away to it, `status` says who it is, and nothing else is answered.

use super::{Base, Doors, Leads, load};
use crate::{
    api::standing_by::{self, StandingBy},
    control,
    store::{
        StoreError,
        etcd::{self, Client, EtcdSettings, Leader, Leadership},
    },
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often etcd is asked who leads, within the time of a lease; so much of it is added to the time without a leader, on average half.
const LOOKS: u32 = 8;

/// Longest time for whoever is being told that this one waits.
const GRACE: Duration = Duration::from_secs(1);

/// Waits until nobody else leads, and then has the state; `None` where the token fired first.
pub(super) async fn wait(
    base: &Base,
    doors: &Doors,
    settings: &EtcdSettings,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Leads>> {
    let (leader, seen) = watch::channel(None);
    let (tasks, over) = (TaskTracker::new(), stop.child_token());
    let state = StandingBy {
        running: doors.running.clone(),
        state_dir: base.dir.root().display().to_string(),
        credential: base.credential.clone(),
        leader: seen.clone(),
    };
    let state = Arc::new(state);
    doors.serve(&tasks, standing_by::for_callers(), standing_by::for_admins(state), &over, Some(GRACE))?;
    tasks.spawn(control::turn_away(doors.endpoint.clone(), seen, over.clone()));
    let leads = tokio::select! {
        leads = take_turn(base, doors, settings, &leader) => leads.map(Some),
        () = stop.cancelled() => Ok(None),
    };
    over.cancel();
    tasks.close();
    tokio::time::timeout(GRACE * 2, tasks.wait()).await.ok();
    leads
}

/// Takes the leadership as soon as nobody has it, and opens the state.
async fn take_turn(
    base: &Base,
    doors: &Doors,
    settings: &EtcdSettings,
    shown: &watch::Sender<Option<Leader>>,
) -> anyhow::Result<Leads> {
    let client = Client::new(settings)?;
    let mut trouble = None;
    loop {
        match look(&client, base, doors, settings, shown).await {
            Ok(Some((leadership, me))) => match begin(base, settings, leadership, me).await {
                // Another was quicker after all, or etcd went away meanwhile.
                Err(error) if matches!(error.downcast_ref(), Some(StoreError::NotLeading)) => {
                    tracing::warn!("the leadership was lost before the state was read");
                }
                begun => return begun,
            },
            Ok(None) => trouble = None,
            Err(error) => {
                let error = error.to_string();
                // The same again and again belongs in the log once.
                if trouble.as_ref() != Some(&error) {
                    tracing::warn!(error, "nobody can lead now; this control plane tries again");
                }
                trouble = Some(error);
            }
        }
        tokio::time::sleep(settings.lease() / LOOKS).await;
    }
}

/// Looks who leads; the leadership, if nobody did.
async fn look(
    client: &Client,
    base: &Base,
    doors: &Doors,
    settings: &EtcdSettings,
    shown: &watch::Sender<Option<Leader>>,
) -> Result<Option<(Leadership, Leader)>, etcd::EtcdError> {
    let leader = etcd::who_leads(client, settings).await?;
    let news = shown.send_if_modified(|shown| {
        let news = *shown != leader;
        shown.clone_from(&leader);
        news
    });
    if let Some(leader) = leader {
        if news {
            tracing::info!(leader = leader.name, agents = leader.agents, "standing by; another control plane leads");
        }
        return Ok(None);
    }
    let me = Leader {
        name: settings.name(),
        agents: doors.running.agents.to_string(),
        pid: std::process::id(),
        since_unix_s: base.clock.unix_s(),
    };
    Ok(etcd::campaign(client, settings, &me).await?.map(|leadership| (leadership, me)))
}

async fn begin(base: &Base, settings: &EtcdSettings, leadership: Leadership, me: Leader) -> anyhow::Result<Leads> {
    tracing::info!("nobody leads; this control plane takes over");
    let (dir, settings, fence) = (base.dir.clone(), settings.clone(), leadership.fence());
    let (now, transfers) = (base.clock.unix_s(), base.transfers.clone());
    // The store reads with a runtime of its own, which must not stand within this one.
    let loading = tokio::task::spawn_blocking(move || load::shared(&dir, &settings, fence, me, now, &transfers));
    let loaded = loading.await?;
    let begun = match loaded {
        Ok(loaded) => base.plane(loaded, None).await,
        Err(error) => Err(error),
    };
    match begun {
        Ok(leads) => Ok(Leads { leadership: Some(leadership), ..leads }),
        Err(error) => {
            // Whoever else waits may have more luck.
            tokio::task::spawn_blocking(move || leadership.resign()).await.ok();
            Err(error)
        }
    }
}
