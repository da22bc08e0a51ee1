//! Routing: the permitted nodes for a caller, nearest first. One pure function behind `GET /v1/route`, on the control plane
//! and on every agent.
//!
//! Law comes before distance: a node is offered only if [`decide`] lets its region serve the caller, so a caller from the
//! European Union is refused, with the reason, rather than sent out of it. Where a caller is taken to be from, when address,
//! statement and position disagree, is the rule of the module `caller`: the strictest wins.

use crate::{
    desired::Route,
    policy::{Denial, Policy, Request, decide},
    region::{Jurisdiction, RegionId},
};
use serde::{Deserialize, Serialize};

mod caller;
mod countries;
mod union;

pub use caller::{Caller, RouteQuery};
pub use countries::middle_of;

/// Most nodes that one answer names: a client tries a few and asks again.
pub const NODES_MAX: usize = 16;

/// One node of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoutedNode {
    /// The node's name.
    pub node: String,
    /// Base URL of its caller API.
    pub url: String,
    /// Its region.
    pub region: RegionId,
    /// The law it stands under.
    pub jurisdiction: Jurisdiction,
    /// Distance from the caller, where the caller's position is known or can be guessed from the country.
    pub distance_km: Option<u32>,
}

/// The answer of `GET /v1/route`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteAnswer {
    /// The country the caller was taken to be in; `None` where it is not known, or several come into question.
    pub country: Option<String>,
    /// Permitted nodes that are up, nearest first; never empty.
    pub nodes: Vec<RoutedNode>,
}

/// Seconds after which a caller who found no node up, or one that does not serve yet, may ask again.
const RETRY_AFTER_S: u64 = 5;

/// Why there is no node for a caller, or this one is none for them. Control plane and agents answer it alike: see
/// [`NoRoute::http_status`], [`NoRoute::code`] and [`NoRoute::retry_after_s`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum NoRoute {
    /// The query contradicts itself.
    #[error("{reason}")]
    BadQuery {
        /// What is wrong and what is expected.
        reason: String,
    },
    /// No region may serve the caller.
    #[error("no region may serve this caller: {reason}")]
    NotPermitted {
        /// What each region's policy says.
        reason: String,
    },
    /// Regions may, but none of their nodes is up.
    #[error(
        "the caller may be served in {regions} only, and no node there is up; try again later (other regions are not permitted)"
    )]
    NoneUp {
        /// The permitted regions.
        regions: String,
    },
    /// The node that was called may not serve the caller; another may.
    #[error("this node may not serve this caller: {reason}; ask for another node at /v1/route")]
    NotHere {
        /// What its region's policy says.
        reason: String,
    },
    /// The node that was called does not know yet whom it may serve.
    #[error("this node serves no region yet, so no law says whom it may serve; try again when it is ready")]
    NotReady,
}

impl NoRoute {
    /// The HTTP status of the answer: 400, 451 (unavailable for legal reasons) or 503.
    pub fn http_status(&self) -> u16 {
        match self {
            Self::BadQuery { .. } => 400,
            Self::NotPermitted { .. } | Self::NotHere { .. } => 451,
            Self::NoneUp { .. } | Self::NotReady => 503,
        }
    }

    /// The code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadQuery { .. } => "bad_query",
            Self::NotPermitted { .. } => "not_permitted",
            Self::NoneUp { .. } => "none_up",
            Self::NotHere { .. } => "caller_not_permitted",
            Self::NotReady => "not_ready",
        }
    }

    /// For the header `Retry-After`, where asking again can help.
    pub fn retry_after_s(&self) -> Option<u64> {
        (self.http_status() == 503).then_some(RETRY_AFTER_S)
    }
}

/// The jurisdictions that keep callers from `country`.
fn homes(routes: &[Route], country: &str) -> Vec<Jurisdiction> {
    if union::is_in_union(country) {
        return vec![Jurisdiction("eu".into())];
    }
    let claims = |route: &&Route| route.policy.serves_countries.iter().any(|code| code == country);
    routes.iter().filter(claims).map(|route| route.jurisdiction.clone()).collect()
}

/// The request to serve a caller from `country` in `node`, for [`decide`].
pub fn serve_request(routes: &[Route], country: Option<&str>, node: &Jurisdiction) -> Request {
    let homes = country.map(|country| homes(routes, country)).unwrap_or_default();
    // Where several jurisdictions claim a country, each of them may serve it.
    let home = if homes.contains(node) { Some(node.clone()) } else { homes.into_iter().next() };
    Request::ServeCaller { country: country.map(str::to_owned), home, node: node.clone() }
}

/// Whether a node in this jurisdiction and under this policy may serve a caller; used for routing, and at a node's door.
///
/// # Errors
/// Why not. Without a policy always.
pub fn permit(routes: &[Route], caller: &Caller, node: &Jurisdiction, policy: Option<&Policy>) -> Result<(), Denial> {
    let taken = caller.taken_from(routes);
    let asked = |country| decide(policy, &serve_request(routes, country, node)).map(drop);
    if taken.countries.is_empty() {
        return asked(None);
    }
    taken.countries.iter().try_for_each(|country| {
        asked(Some(*country)).map_err(|denial| {
            let all = taken.countries.join(", ");
            match (taken.by_position, taken.countries.len()) {
                (true, _) => Denial { reason: format!("by the stated position the caller may be in {all}: {denial}") },
                (false, 1) => denial,
                (false, _) => Denial { reason: format!("address and stated country are {all}: {denial}") },
            }
        })
    })
}

/// The permitted nodes for a caller, nearest first.
pub fn nearest(routes: &[Route], caller: &Caller) -> Result<RouteAnswer, NoRoute> {
    let taken = caller.taken_from(routes);
    let from = caller.location.or_else(|| taken.country().and_then(middle_of));
    let (mut nodes, mut permitted, mut denials) = (Vec::new(), Vec::new(), Vec::new());
    for route in routes {
        if let Err(denial) = permit(routes, caller, &route.jurisdiction, Some(&route.policy)) {
            denials.push(format!("{}: {denial}", route.region));
            continue;
        }
        permitted.push(route.region.to_string());
        let distance_km = from.map(|from| from.distance_km(route.location).round() as u32);
        nodes.extend(route.nodes.iter().filter(|node| node.up).map(|node| RoutedNode {
            node: node.node.clone(),
            url: node.url.clone(),
            region: route.region.clone(),
            jurisdiction: route.jurisdiction.clone(),
            distance_km,
        }));
    }
    if permitted.is_empty() {
        let reason = match denials.is_empty() {
            true => "no region is configured; run `control-plane apply regions/` first".to_owned(),
            false => denials.join("; "),
        };
        return Err(NoRoute::NotPermitted { reason });
    }
    if nodes.is_empty() {
        return Err(NoRoute::NoneUp { regions: permitted.join(", ") });
    }
    // The name breaks ties, so that the same question gets the same answer everywhere.
    nodes.sort_by(|a, b| (a.distance_km, &a.region, &a.node).cmp(&(b.distance_km, &b.region, &b.node)));
    nodes.truncate(NODES_MAX);
    Ok(RouteAnswer { country: taken.country().map(str::to_owned), nodes })
}

#[cfg(test)]
mod tests;
