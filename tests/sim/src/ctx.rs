//! What all parts of a run share: the time, the queue, chance, the network, the models.

use crate::{
    catalogue::Catalogue,
    chance::Chance,
    network::{Conn, Network},
    scenario::Sabotage,
    schedule::Schedule,
    trace::Trace,
};
use nearfield_shared::wire::{
    FrameDecoder, Limit,
    message::{AgentToPlane, PlaneToAgent},
};
use std::{
    hash::{Hash, Hasher},
    mem::discriminant,
    time::Duration,
};

/// Seconds since 1970 at the virtual moment zero, by a clock that is right.
pub(crate) const BASE_UNIX_S: i64 = 1_800_000_000;

/// A message on its way, with the bytes that it takes on the wire.
#[derive(Debug)]
pub(crate) struct Parcel<M> {
    pub message: Box<M>,
    bytes: usize,
}

impl<M> Hash for Parcel<M> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        discriminant(&*self.message).hash(state);
        self.bytes.hash(state);
    }
}

/// A certificate, as far as anybody here looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Certificate {
    pub serial: String,
    pub valid_unix_s: (i64, i64),
}

/// What became of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Dialled {
    Connected(u64),
    Failed,
    MustRenew,
}

/// Everything that happens. `life` numbers the incarnations of a process, so that what was meant for an earlier one is dropped.
#[derive(Debug, Hash)]
pub(crate) enum Event {
    DialReaches {
        agent: usize,
        life: u64,
        dial: u64,
        moved: bool,
    },
    DialEnds {
        agent: usize,
        life: u64,
        dial: u64,
        moved: bool,
        outcome: Dialled,
    },
    AgentHears {
        conn: u64,
        parcel: Parcel<PlaneToAgent>,
    },
    PlaneHears {
        conn: u64,
        parcel: Parcel<AgentToPlane>,
    },
    AgentLoses {
        conn: u64,
    },
    PlaneLoses {
        conn: u64,
    },
    /// `alone` on a connection of its own, in the middle of a dial.
    RenewReaches {
        agent: usize,
        life: u64,
        dial: u64,
        alone: bool,
    },
    RenewAnswered {
        agent: usize,
        life: u64,
        dial: u64,
        alone: bool,
        renewed: Option<Certificate>,
    },
    EnrolReaches {
        agent: usize,
        secret: String,
    },
    Enrolled {
        agent: usize,
        secret: String,
        certificate: Certificate,
    },
    AgentStarts {
        agent: usize,
        life: u64,
    },
    AgentTicks {
        agent: usize,
        life: u64,
    },
    Works {
        agent: usize,
        life: u64,
        push: u64,
    },
    Outcome {
        agent: usize,
        life: u64,
    },
    Reports {
        agent: usize,
        life: u64,
        number: u64,
    },
    PlaneStarts,
    LinkRuns {
        life: u64,
        conn: u64,
    },
    LinkTicks {
        life: u64,
        conn: u64,
    },
    Synced {
        life: u64,
    },
    Looks {
        life: u64,
        number: u64,
    },
    RoutesChange {
        life: u64,
    },
    Exports {
        life: u64,
    },
    PlaneStopped {
        life: u64,
    },
    PlaneDies {
        life: u64,
    },
    Chaos,
    Heals,
    Cares,
}

/// What all parts share.
pub(crate) struct Ctx {
    pub now: Duration,
    pub schedule: Schedule<Event>,
    pub chance: Chance,
    pub trace: Trace,
    pub catalogue: Catalogue,
    pub net: Network,
    /// Whether faults are over.
    pub calm: bool,
    /// How far the plane's clock is off.
    pub plane_skew_s: i64,
    /// Whether messages go through their bytes.
    pub wire: bool,
    pub sabotage: Option<Sabotage>,
}

impl Ctx {
    /// The plane's clock.
    pub fn plane_unix_s(&self) -> i64 {
        BASE_UNIX_S + self.now.as_secs() as i64 + self.plane_skew_s
    }

    pub fn after(&mut self, wait: Duration, event: Event) {
        self.schedule.add(self.now + wait, event);
    }

    pub fn sabotages(&self, what: Sabotage) -> bool {
        self.sabotage == Some(what)
    }

    /// True so often, unless faults are over.
    pub fn fault(&mut self, permille: u64) -> bool {
        !self.calm && self.chance.permille(permille)
    }

    /// A packet from or to an agent that has no connection yet: when it arrives.
    pub fn packet(&mut self, agent: usize) -> Duration {
        self.net.arrival(agent, self.now, Duration::ZERO, &mut self.chance)
    }

    pub fn open(&mut self, agent: usize, version: u16) -> u64 {
        self.net.open(Conn::new(agent, version))
    }

    pub fn send_to_agent(&mut self, id: u64, message: PlaneToAgent) {
        let Some(conn) = self.net.conns.get(&id).filter(|conn| !conn.agent_left && !conn.cut) else { return };
        let frame = message.encode().expect("what a plane says fits the wire");
        // What an agent of version 1 does not know it skips.
        let unknown = match &message {
            _ if conn.version >= 2 => None,
            PlaneToAgent::State(_) => Some(9),
            PlaneToAgent::Manifest(_) => Some(10),
            PlaneToAgent::Duty(_) => Some(11),
            _ => None,
        };
        let message = match unknown {
            Some(kind) => PlaneToAgent::Unknown(kind),
            None if self.wire => {
                let mut decoder = FrameDecoder::new(Limit::FROM_PLANE);
                decoder.receive(&frame);
                let whole = decoder.next_frame().expect("a frame of ours is one").expect("it is whole");
                PlaneToAgent::decode(&whole).expect("what was encoded is decoded")
            }
            None => message,
        };
        let (agent, last) = (conn.agent, conn.to_agent_last);
        let at = self.net.arrival(agent, self.now, last, &mut self.chance);
        if let Some(conn) = self.net.conns.get_mut(&id) {
            conn.to_agent_last = at;
        }
        self.schedule
            .add(at, Event::AgentHears { conn: id, parcel: Parcel { message: Box::new(message), bytes: frame.len() } });
    }

    pub fn send_to_plane(&mut self, id: u64, message: AgentToPlane) {
        let Some(conn) = self.net.conns.get(&id).filter(|conn| !conn.plane_left && !conn.cut) else { return };
        let frame = message.encode().expect("what an agent says fits the wire");
        let message = if self.wire {
            let mut decoder = FrameDecoder::new(Limit::FROM_AGENT);
            decoder.receive(&frame);
            let whole = decoder.next_frame().expect("a frame of ours is one").expect("it is whole");
            AgentToPlane::decode(&whole).expect("what was encoded is decoded")
        } else {
            message
        };
        let (agent, last) = (conn.agent, conn.to_plane_last);
        let at = self.net.arrival(agent, self.now, last, &mut self.chance);
        if let Some(conn) = self.net.conns.get_mut(&id) {
            conn.to_plane_last = at;
        }
        self.schedule
            .add(at, Event::PlaneHears { conn: id, parcel: Parcel { message: Box::new(message), bytes: frame.len() } });
    }

    /// The plane hangs up after its last words.
    pub fn plane_leaves(&mut self, id: u64) {
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        conn.plane_left = true;
        let (agent, last) = (conn.agent, conn.to_agent_last);
        let at = self.net.arrival(agent, self.now, last, &mut self.chance);
        self.end_at_agent(at, id);
        self.net.forget(id);
    }

    /// The agent hangs up; what it has said before may be lost with it, unless it waits for that.
    pub fn agent_leaves(&mut self, id: u64, waits: bool) {
        let loses = !waits && !self.calm && self.chance.one_in(2);
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        conn.agent_left = true;
        conn.cut |= loses;
        let (agent, last) = (conn.agent, conn.to_plane_last);
        let at = self.net.arrival(agent, self.now, last, &mut self.chance);
        self.end_at_plane(at, id);
        self.net.forget(id);
    }

    /// A connection dies: nothing of it arrives any more, and each side notices when it does.
    pub fn cut(&mut self, id: u64) {
        let (near, far) = (self.chance.secs(0, 20), self.chance.secs(0, 60));
        if let Some(conn) = self.net.conns.get_mut(&id) {
            conn.cut = true;
            self.end_at_agent(self.now + near, id);
            self.end_at_plane(self.now + far, id);
        }
    }

    /// An end is told twice now and then, as it is where a stream and its connection both say so.
    pub fn end_at_agent(&mut self, at: Duration, conn: u64) {
        for _ in 0..1 + u64::from(self.chance.one_in(8)) {
            self.schedule.add(at, Event::AgentLoses { conn });
        }
    }

    pub fn end_at_plane(&mut self, at: Duration, conn: u64) {
        for _ in 0..1 + u64::from(self.chance.one_in(8)) {
            self.schedule.add(at, Event::PlaneLoses { conn });
        }
    }
}
