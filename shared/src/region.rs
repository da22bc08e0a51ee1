//! Regions: the schema of `regions/*.toml`.

use crate::{artefact::Stage, policy::Policy, rollout::RolloutSettings, wire::VersionName};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// The name of a region: 1 to 40 of `a-z`, `0-9` and `-`, for example `eu-central`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RegionId(String);

impl RegionId {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RegionId {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let ok = !s.is_empty()
            && s.len() <= 40
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !s.starts_with('-');
        if ok {
            Ok(Self(s.to_owned()))
        } else {
            Err(format!("`{s}` is not a region name: use 1 to 40 of a-z, 0-9 and -, not starting with -"))
        }
    }
}

impl TryFrom<String> for RegionId {
    type Error = String;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<RegionId> for String {
    fn from(id: RegionId) -> Self {
        id.0
    }
}

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegionId({})", self.0)
    }
}

/// The body of law that a region stands under, for example `eu` or `us`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Jurisdiction(pub String);

impl fmt::Display for Jurisdiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A point on the earth in degrees.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// Degrees north, -90 to 90.
    pub latitude: f64,
    /// Degrees east, -180 to 180.
    pub longitude: f64,
}

impl Location {
    /// Great-circle distance in kilometres (haversine, mean earth radius 6371 km).
    pub fn distance_km(self, other: Location) -> f64 {
        let (a, b) = (self.latitude.to_radians(), other.latitude.to_radians());
        let dlat = b - a;
        let dlon = (other.longitude - self.longitude).to_radians();
        let h = (dlat / 2.0).sin().powi(2) + a.cos() * b.cos() * (dlon / 2.0).sin().powi(2);
        2.0 * 6371.0 * h.sqrt().min(1.0).asin()
    }
}

/// One region as its TOML file states it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Its name; must equal the file's stem.
    pub id: RegionId,
    /// The law it stands under.
    pub jurisdiction: Jurisdiction,
    /// Where it is, for routing by distance.
    pub location: Location,
    /// What may be done with what callers say here.
    pub policy: Policy,
    /// The catalogue name of the model of each stage.
    pub models: BTreeMap<Stage, String>,
    /// Names of the assistants served here (files in `assistants/`); the first is the default.
    pub assistants: Vec<String>,
    /// How a change reaches its nodes; `None` is all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutSettings>,
    /// Which release of the agent its nodes run; `None` is what is installed on each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentWanted>,
}

/// Which release of the agent a region's nodes run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentWanted {
    /// Its version.
    pub version: VersionName,
}
