//! A simulated plane: the real fleet, rollouts and link machines, driven as `control-plane/src/plane.rs` drives them, with a disk that takes time.
//!
//! A change is made in memory, queued in that order, and whoever made it goes on once the disk has it. Meanwhile everything else goes on, which
//! is where mistakes hide.

use crate::{
    ctx::{Certificate, Ctx, Event},
    disk::PlaneDisk,
    links::Link,
    scenario::Sabotage,
};
use control_plane::{
    ca::NodeIdentity,
    fleet::{Fleet, heard::Follows, records::RegionRecord, rollouts::Stepped},
    offers::Offers,
    plane::unstored::{Regions, Unstored},
    store::{Store as _, StoreError, Write},
};
use nearfield_shared::{
    desired::Route,
    link::{Offer, PlaneLinkConfig},
    region::RegionId,
    wire::{
        Broadcast, Hello, NodeName,
        message::{Refused, Revoked, Routes},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Changes within this time go into one export.
const EXPORT_SETTLE: Duration = Duration::from_secs(2);

/// How often rollouts are looked at where nothing happens, and the pause between two looks.
const LOOKS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(50));

/// Writes in one batch.
const BATCH_MAX: usize = 512;

/// What goes on once a change is on the disk.
pub(crate) enum After {
    Nothing,
    Admitted {
        conn: u64,
        admitted: Result<(), Refused>,
    },
    Heard {
        conn: u64,
        follows: Follows,
    },
    Stepped {
        region: RegionId,
        stepped: Stepped,
    },
    Applied,
    Ordered {
        region: RegionId,
        stepped: Stepped,
    },
    /// A node's place among routes or rollouts has changed.
    NodeChanged,
    /// A node was shut out for this reason.
    ShutOut {
        node: NodeName,
        serials: Vec<String>,
        refused: Refused,
    },
    TokenMade {
        agent: usize,
        secret: String,
    },
    Enrolled {
        agent: usize,
        node: NodeName,
        secret: String,
        certificate: Certificate,
    },
    RenewAdmitted {
        ask: Ask,
        admitted: bool,
    },
    Renewed {
        ask: Ask,
        certificate: Certificate,
    },
}

/// A node asks for its next certificate.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub agent: usize,
    pub life: u64,
    pub dial: u64,
    pub alone: bool,
    pub identity: NodeIdentity,
}

struct Job {
    writes: Vec<Write>,
    regions: Regions,
    after: After,
}

/// The process of a plane.
pub(crate) struct Plane {
    pub life: u64,
    pub fleet: Fleet,
    pub disk: PlaneDisk,
    pub links: BTreeMap<u64, Link>,
    pub hello: Hello,
    pub config: Arc<PlaneLinkConfig>,
    /// What each region's nodes are offered, and how often that was changed.
    pub offers: BTreeMap<RegionId, (u64, Option<Arc<Offers>>)>,
    pub routes: Vec<Route>,
    pub told: BTreeMap<RegionId, (u64, Broadcast<Routes>)>,
    pub revoked: Option<(u64, Broadcast<Revoked>)>,
    jobs: VecDeque<Job>,
    /// Jobs whose batch is being written.
    writing: Vec<Job>,
    pub unstored: Unstored,
    unsaved: BTreeSet<RegionId>,
    /// Regions that this look has not come to, and those of them that are saved anew.
    pass: Option<(VecDeque<RegionId>, BTreeSet<RegionId>)>,
    looks: u64,
    touched: bool,
    pub routes_due: bool,
    export_due: bool,
    pub draining: bool,
    /// Whether it dies while it writes the next time.
    pub dies_writing: bool,
    pub seen: Seen,
}

/// What oracles ask of a plane since they looked last.
#[derive(Default)]
pub(crate) struct Seen {
    /// Offers that nodes were shown.
    pub shown: Vec<(RegionId, Arc<Offer>)>,
    /// Regions whose rollout the driver has looked at.
    pub looked: Vec<RegionId>,
    /// Serial numbers of certificates that were let in.
    pub let_in: Vec<String>,
    /// Those of nodes that were shut out, once that is on the disk.
    pub shut_out: Vec<String>,
    /// Regions whose undone rollout was told before it was stored, as it is where the disk fails.
    pub told_unsaved: BTreeSet<RegionId>,
}

/// What a plane that is sabotaged remembers wrongly of its regions.
fn misremember(ctx: &Ctx, entries: &mut [(String, String)]) {
    let back = ctx.sabotages(Sabotage::PlaneGoesBack);
    if !back && !ctx.sabotages(Sabotage::ReusesNumber) {
        return;
    }
    for (_, value) in entries.iter_mut().filter(|(key, _)| key.starts_with("region/")) {
        let mut record: RegionRecord = serde_json::from_str(value).expect("what was stored is read");
        // A rollout has two numbers, which would become one.
        if back && record.before.is_none() {
            record.generation.0 -= 1;
        } else if let Some(defined) = record.defined.as_mut().filter(|_| !back) {
            defined.region.policy.retention_days += 1;
        }
        *value = serde_json::to_string(&record).expect("a record is JSON");
    }
}

impl Plane {
    /// A plane starts on a disk; `damaged` if the store has to be restored from its export.
    pub fn start(ctx: &mut Ctx, life: u64, mut disk: PlaneDisk, hello: Hello, damaged: bool) -> Self {
        let now = ctx.plane_unix_s();
        let copied = if damaged { disk.restore() } else { None };
        let mut entries = disk.scan("").expect("the disk is there");
        misremember(ctx, &mut entries);
        let mut fleet = Fleet::load(&entries, now).expect("what was stored is read");
        if let Some(copied) = copied {
            let writes = fleet.restored(copied, now, &[]);
            disk.write(&writes).expect("the disk takes it");
            disk.export(now);
            ctx.trace.say(ctx.now, format_args!("the plane's store was restored from its export"));
        }
        ctx.trace.say(ctx.now, format_args!("the plane starts, version {}", hello.max));
        let version = "1".parse().expect("a number is a version name");
        let mut plane = Self {
            life,
            routes: fleet.routes(now),
            fleet,
            disk,
            links: BTreeMap::new(),
            hello,
            config: Arc::new(PlaneLinkConfig::new(version)),
            offers: BTreeMap::new(),
            told: BTreeMap::new(),
            revoked: None,
            jobs: VecDeque::new(),
            writing: Vec::new(),
            unstored: Unstored::default(),
            unsaved: BTreeSet::new(),
            pass: None,
            looks: 0,
            touched: false,
            routes_due: false,
            export_due: false,
            draining: false,
            dies_writing: false,
            seen: Seen::default(),
        };
        plane.publish_revoked(ctx);
        let regions: Vec<RegionId> = plane.fleet.regions().map(|record| record.id.clone()).collect();
        for region in &regions {
            plane.follow(ctx, region);
        }
        plane.schedule_look(ctx, LOOKS.0);
        plane
    }

    /// The process dies. What was not synced is gone, and a batch that was being written may be there or not.
    pub fn crash(mut self, ctx: &mut Ctx) -> PlaneDisk {
        let reached = ctx.chance.below(self.disk.writing_bytes() * 2 + 1);
        self.disk.crash(reached);
        for conn in self.links.keys() {
            let wait = ctx.chance.secs(0, 20);
            if let Some(conn) = ctx.net.conns.get_mut(conn) {
                conn.plane_left = true;
                conn.cut = true;
            }
            ctx.end_at_agent(ctx.now + wait, *conn);
        }
        self.disk
    }

    /// Queues what has changed; `after` goes on once it is on the disk. Nothing to write is done at once.
    pub fn commit(&mut self, ctx: &mut Ctx, writes: Vec<Write>, after: After) {
        if writes.is_empty() {
            return self.committed(ctx, after, Ok(()));
        }
        self.touch_routes(ctx);
        let regions = self.unstored.queued(&writes);
        self.jobs.push_back(Job { writes, regions, after });
        self.write_next(ctx);
    }

    fn write_next(&mut self, ctx: &mut Ctx) {
        if !self.writing.is_empty() || self.jobs.is_empty() {
            return;
        }
        let mut batch = Vec::new();
        while batch.len() < BATCH_MAX
            && let Some(mut job) = self.jobs.pop_front()
        {
            batch.append(&mut job.writes);
            self.writing.push(job);
        }
        self.disk.begin(batch).expect("records fit the store");
        let slow = ctx.fault(5) || self.dies_writing;
        let wait = if slow { ctx.chance.secs(0, 4) } else { ctx.chance.ms(1, 15) };
        if std::mem::take(&mut self.dies_writing) {
            let dies = ctx.chance.ms(0, wait.as_millis() as u64);
            ctx.after(dies, Event::PlaneDies { life: self.life });
        }
        ctx.after(wait, Event::Synced { life: self.life });
    }

    /// The disk has taken a batch, or says that it cannot.
    pub fn synced(&mut self, ctx: &mut Ctx) {
        let failed = ctx.fault(4);
        if failed {
            ctx.trace.say(ctx.now, format_args!("the plane's disk fails"));
            self.disk.failed();
        } else {
            self.disk.synced();
            if !std::mem::replace(&mut self.export_due, true) {
                ctx.after(EXPORT_SETTLE, Event::Exports { life: self.life });
            }
        }
        for job in std::mem::take(&mut self.writing) {
            let stored = if failed { Err(StoreError::Engine("on request".into())) } else { Ok(()) };
            let told = if let After::Heard { conn, .. } = &job.after { Some(*conn) } else { None };
            let held = self.unstored.ended(&job.regions, !failed);
            if failed && !job.regions.is_empty() {
                self.unsaved.extend(job.regions.into_keys());
                self.touch_rollouts(ctx);
            }
            self.publish_where(ctx, |region| held.contains(region));
            self.committed(ctx, job.after, stored);
            if let Some(conn) = told {
                self.wake(ctx, conn);
            }
        }
        self.write_next(ctx);
    }

    pub fn export(&mut self, ctx: &Ctx) {
        self.export_due = false;
        self.disk.export(ctx.plane_unix_s());
    }

    /// Goes on with what waited for the disk.
    fn committed(&mut self, ctx: &mut Ctx, after: After, stored: Result<(), StoreError>) {
        match after {
            After::Nothing => {}
            After::Admitted { conn, admitted } => self.admitted(ctx, conn, admitted, stored.is_ok()),
            After::Heard { conn, follows } => self.follow_up(ctx, conn, follows, stored.is_ok()),
            After::Stepped { region, stepped } => {
                match stored {
                    Ok(()) => {
                        self.tell_of_rollout(ctx, &stepped);
                        self.publish_where(ctx, |rolling| *rolling == region);
                    }
                    Err(_) => self.rollout_not_stored(ctx, &region),
                }
                self.step_next(ctx);
            }
            After::Ordered { region, stepped } => match stored {
                Ok(()) => {
                    self.tell_of_rollout(ctx, &stepped);
                    self.touch_rollouts(ctx);
                }
                Err(_) => self.rollout_not_stored(ctx, &region),
            },
            After::Applied | After::NodeChanged => {
                if stored.is_ok() {
                    self.publish_where(ctx, |_| true);
                    self.touch_routes(ctx);
                    self.touch_rollouts(ctx);
                }
            }
            After::ShutOut { node, serials, refused } => {
                if stored.is_ok() {
                    self.seen.shut_out.extend(serials);
                    self.refuse_links(ctx, &node, &refused, |_| true);
                    self.publish_revoked(ctx);
                    self.touch_routes(ctx);
                }
            }
            After::TokenMade { agent, secret } => {
                if stored.is_ok() {
                    let at = ctx.packet(agent);
                    ctx.schedule.add(at, Event::EnrolReaches { agent, secret });
                }
            }
            After::Enrolled { agent, node, secret, certificate } => {
                if stored.is_ok() {
                    let refused = crate::admin::enrolled_again(&node);
                    self.refuse_links(ctx, &node, &refused, |_| true);
                    self.publish_revoked(ctx);
                    let at = ctx.packet(agent);
                    ctx.schedule.add(at, Event::Enrolled { agent, secret, certificate });
                }
            }
            After::RenewAdmitted { ask, admitted } => self.sign_next(ctx, ask, admitted && stored.is_ok()),
            After::Renewed { ask, certificate } => {
                self.answer_renewal(ctx, &ask, stored.is_ok().then_some(certificate));
            }
        }
    }

    fn tell_of_rollout(&mut self, ctx: &mut Ctx, stepped: &Stepped) {
        for entry in &stepped.told {
            ctx.trace.say(ctx.now, format_args!("rollout: {}", entry.what));
        }
        if stepped.offers_changed {
            self.publish_where(ctx, |_| true);
        }
    }

    fn rollout_not_stored(&mut self, ctx: &mut Ctx, region: &RegionId) {
        self.unsaved.insert(region.clone());
        if self.fleet.rollout_under_way(region).is_none() {
            self.seen.told_unsaved.insert(region.clone());
            self.publish(ctx, |rolled| rolled == region, |_, _| false);
        }
        self.touch_rollouts(ctx);
    }

    pub fn touch_rollouts(&mut self, ctx: &mut Ctx) {
        if !std::mem::replace(&mut self.touched, true) && self.pass.is_none() {
            self.schedule_look(ctx, LOOKS.1);
        }
    }

    fn schedule_look(&mut self, ctx: &mut Ctx, wait: Duration) {
        self.looks += 1;
        ctx.after(wait, Event::Looks { life: self.life, number: self.looks });
    }

    /// Looks at every rollout that is under way, one after the other.
    pub fn look(&mut self, ctx: &mut Ctx, number: u64) {
        if number != self.looks || self.pass.is_some() {
            return;
        }
        self.touched = false;
        let unsaved = std::mem::take(&mut self.unsaved);
        let rolling = self.fleet.rolling().into_iter().filter(|region| !unsaved.contains(region));
        let regions: VecDeque<RegionId> = unsaved.iter().cloned().chain(rolling).collect();
        // Where nothing rolls, a look finds nothing until something is touched.
        if !regions.is_empty() {
            self.pass = Some((regions, unsaved));
            self.step_next(ctx);
        }
    }

    fn step_next(&mut self, ctx: &mut Ctx) {
        let Some((regions, unsaved)) = &mut self.pass else { return };
        let Some(region) = regions.pop_front() else {
            self.pass = None;
            let wait = if self.touched { LOOKS.1 } else { LOOKS.0 + LOOKS.1 };
            return self.schedule_look(ctx, wait);
        };
        let save = unsaved.contains(&region);
        self.seen.looked.push(region.clone());
        let ignored = ctx.sabotages(Sabotage::IgnoresBreach)
            && self.fleet.rollout_under_way(&region).is_some_and(|rollout| !rollout.moved.is_empty());
        let mut stepped =
            if ignored { Stepped::default() } else { self.fleet.step_rollout(&region, ctx.plane_unix_s()) };
        let mut writes = std::mem::take(&mut stepped.writes);
        if save {
            writes = self.fleet.rollout_writes(&region);
        }
        self.commit(ctx, writes, After::Stepped { region, stepped });
    }
}
