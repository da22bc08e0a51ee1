//! Policy: what may be done with what callers say, decided in one pure function.
//!
//! [`decide`] is the only way to get a [`Permit`]; code that stores, sends or reads back asks for one as a parameter. No
//! policy means deny.

use crate::region::Jurisdiction;
use serde::{Deserialize, Serialize};

/// A region's compliance policy, as `[policy]` in its TOML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// ISO 3166-1 alpha-2 country codes whose callers may be served here; `["*"]` means every country that no
    /// other jurisdiction claims as its own.
    pub serves_countries: Vec<String>,
    /// Whether transcripts may be stored at all (with the caller's consent).
    pub store_transcripts: bool,
    /// Days after which a stored transcript is erased; 0 means none may be stored.
    pub retention_days: u32,
    /// Fewest calls in a group before any figure about the group leaves the region (k-anonymity). At least 5.
    pub metrics_group_min: u32,
    /// What every caller is told by voice before anything else. Left out on the wire where there is none, so that older agents read
    /// it; one that is too old to speak a notice refuses the policy that demands it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Notice>,
}

/// Something that a caller must be told before a call, in words that nobody can change or skip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Notice {
    /// That nobody is at the other end: the EU's AI Act, article 50, demands it.
    Ai,
    /// That the call is recorded.
    Recording,
}

impl Policy {
    /// What every caller is told first, in a fixed order and each once.
    pub fn spoken_notices(&self) -> Vec<&'static str> {
        Notice::ALL.into_iter().filter(|notice| self.notices.contains(notice)).map(Notice::words).collect()
    }
}

impl Notice {
    /// Every notice there is.
    pub const ALL: [Notice; 2] = [Notice::Ai, Notice::Recording];

    /// Its name in a region's file.
    pub fn as_str(self) -> &'static str {
        match self {
            Notice::Ai => "ai",
            Notice::Recording => "recording",
        }
    }

    /// What is said.
    pub fn words(self) -> &'static str {
        match self {
            Notice::Ai => "You are speaking with a computer, not with a person.",
            Notice::Recording => "This call is recorded.",
        }
    }
}

/// What someone wants to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Serve a caller from this country (ISO 3166-1 alpha-2, upper case; `None` where it is not known).
    ServeCaller {
        /// The caller's country.
        country: Option<String>,
        /// The jurisdiction that claims that country, where one does.
        home: Option<Jurisdiction>,
        /// The jurisdiction of the node asked.
        node: Jurisdiction,
    },
    /// Store a transcript in the agent's own vault.
    StoreTranscript {
        /// Whether the caller of this session has consented.
        consent: bool,
    },
    /// Read a stored transcript back, on the node itself.
    ReadTranscript,
    /// Erase stored transcripts.
    EraseTranscript,
    /// Send a figure about a group of calls to the control plane.
    ReportMetric {
        /// Calls in the group.
        calls: u64,
    },
}

/// Proof that [`decide`] allowed a request. Cannot be made elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    request: Request,
    retention_days: u32,
}

impl Permit {
    /// What was permitted.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Days that something stored under this permit may be kept.
    pub fn retention_days(&self) -> u32 {
        self.retention_days
    }
}

/// Why a request was refused, in words for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Denial {
    /// The reason, with what would have to change.
    pub reason: String,
}

fn deny(reason: impl Into<String>) -> Denial {
    Denial { reason: reason.into() }
}

/// Decides a request under a policy; `None` (no policy known) denies everything.
pub fn decide(policy: Option<&Policy>, request: &Request) -> Result<Permit, Denial> {
    let policy = policy.ok_or_else(|| deny("no policy is in force here, so nothing is permitted; apply one first"))?;
    match request {
        Request::ServeCaller { country, home, node } => {
            if let Some(home) = home
                && home != node
            {
                return Err(deny(format!(
                    "callers from {} stay within jurisdiction `{home}`; this node is in `{node}`",
                    country.as_deref().unwrap_or("an unknown country"),
                )));
            }
            let listed = |code: &str| policy.serves_countries.iter().any(|c| c == code);
            match country {
                Some(code) if listed(code) || listed("*") => {}
                None if listed("*") => {}
                Some(code) => return Err(deny(format!("this region's policy does not serve callers from {code}"))),
                None => {
                    return Err(deny(
                        "the caller's country is not known and this region serves listed countries only; state the country",
                    ));
                }
            }
        }
        Request::StoreTranscript { consent } => {
            if !policy.store_transcripts || policy.retention_days == 0 {
                return Err(deny("this region's policy does not allow transcripts to be stored"));
            }
            if !consent {
                return Err(deny("the caller has not consented to a transcript being stored"));
            }
        }
        Request::ReadTranscript if !policy.store_transcripts => {
            return Err(deny("this region's policy does not allow stored transcripts to be read"));
        }
        Request::ReadTranscript | Request::EraseTranscript => {}
        Request::ReportMetric { calls } => {
            let least = u64::from(policy.metrics_group_min.max(METRICS_GROUP_FLOOR));
            if *calls < least {
                return Err(deny(format!("a group of {calls} calls is smaller than {least} and is suppressed")));
            }
        }
    }
    Ok(Permit { request: request.clone(), retention_days: policy.retention_days })
}

/// No policy may lower the group size below this: five calls is the least that is commonly accepted for k-anonymity.
pub const METRICS_GROUP_FLOOR: u32 = 5;
