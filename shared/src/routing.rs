//! Routing: the permitted nodes for a caller, nearest first. One pure function behind `GET /v1/route`, on the control plane
//! and on every agent.
//!
//! Law comes before distance: a node is offered only if [`decide`] lets its region serve the caller, so a caller from the
//! European Union is refused, with the reason, rather than sent out of it.

use crate::{
    desired::Route,
    policy::{Request, decide},
    region::{Jurisdiction, Location, RegionId},
};
use serde::{Deserialize, Serialize};

mod countries;

pub use countries::middle_of;

/// Most nodes that one answer names: a client tries a few and asks again.
pub const NODES_MAX: usize = 16;

/// Countries where the General Data Protection Regulation is law: the European Union and the EEA. They are at home in
/// the jurisdiction `eu` even while no region there is configured, so that a gap in the configuration never exports anyone.
const EU_LAW: [&str; 30] = [
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IS", "IT", "LI", "LT",
    "LU", "LV", "MT", "NL", "NO", "PL", "PT", "RO", "SE", "SI", "SK",
];

/// Parts of member states with a country code of their own where the law of the Union holds: the outermost regions of France
/// (article 355 TFEU) and Åland.
const EU_LAW_OUTERMOST: [&str; 7] = ["AX", "GF", "GP", "MF", "MQ", "RE", "YT"];

/// What is known about where a caller is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Caller {
    /// ISO 3166-1 alpha-2, upper case.
    pub country: Option<String>,
    /// Position, where it was stated.
    pub location: Option<Location>,
}

/// The query of `GET /v1/route`; all fields are optional. Without any, the address that asks counts.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteQuery {
    /// The caller's country, two letters.
    pub country: Option<String>,
    /// Degrees north; only together with `longitude`.
    pub latitude: Option<f64>,
    /// Degrees east; only together with `latitude`.
    pub longitude: Option<f64>,
    /// The caller's address, where somebody asks for them.
    pub address: Option<std::net::IpAddr>,
}

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
    /// The country the caller was taken to be in.
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

impl RouteQuery {
    /// The caller this query is about. `address_country` finds the country of an address; `peer` is who asks.
    pub fn caller(
        &self,
        peer: Option<std::net::IpAddr>,
        address_country: impl Fn(std::net::IpAddr) -> Option<String>,
    ) -> Result<Caller, NoRoute> {
        let bad = |reason: &str| Err(NoRoute::BadQuery { reason: reason.to_owned() });
        let location = match (self.latitude, self.longitude) {
            (None, None) => None,
            (Some(latitude), Some(longitude)) => {
                if !(-90.0..=90.0).contains(&latitude) || !(-180.0..=180.0).contains(&longitude) {
                    return bad("latitude must be within -90 to 90 and longitude within -180 to 180 degrees");
                }
                Some(Location { latitude, longitude })
            }
            _ => return bad("latitude and longitude go together; state both or neither"),
        };
        let country = match &self.country {
            Some(code) if code.len() == 2 && code.bytes().all(|b| b.is_ascii_alphabetic()) => {
                Some(code.to_ascii_uppercase())
            }
            Some(_) => return bad("country must be two letters of ISO 3166-1, for example DE"),
            None => self.address.or(peer).and_then(address_country),
        };
        Ok(Caller { country, location })
    }
}

/// The jurisdictions that keep callers from `country`.
fn homes(routes: &[Route], country: &str) -> Vec<Jurisdiction> {
    if EU_LAW.contains(&country) || EU_LAW_OUTERMOST.contains(&country) {
        return vec![Jurisdiction("eu".into())];
    }
    let claims = |route: &&Route| route.policy.serves_countries.iter().any(|code| code == country);
    routes.iter().filter(claims).map(|route| route.jurisdiction.clone()).collect()
}

/// The request to serve `caller` in `node`, for [`decide`]; used for routing, and at a node's door.
pub fn serve_request(routes: &[Route], country: Option<&str>, node: &Jurisdiction) -> Request {
    let homes = country.map(|country| homes(routes, country)).unwrap_or_default();
    // Where several jurisdictions claim a country, each of them may serve it.
    let home = if homes.contains(node) { Some(node.clone()) } else { homes.into_iter().next() };
    Request::ServeCaller { country: country.map(str::to_owned), home, node: node.clone() }
}

/// The permitted nodes for a caller, nearest first.
pub fn nearest(routes: &[Route], caller: &Caller) -> Result<RouteAnswer, NoRoute> {
    let from = caller.location.or_else(|| caller.country.as_deref().and_then(middle_of));
    let (mut nodes, mut permitted, mut denials) = (Vec::new(), Vec::new(), Vec::new());
    for route in routes {
        let request = serve_request(routes, caller.country.as_deref(), &route.jurisdiction);
        if let Err(denial) = decide(Some(&route.policy), &request) {
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
    Ok(RouteAnswer { country: caller.country.clone(), nodes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{desired::RouteNode, policy::Policy};

    fn route(region: &str, law: &str, at: (f64, f64), countries: &[&str], up: &[bool]) -> Route {
        Route {
            region: region.parse().expect("region"),
            jurisdiction: Jurisdiction(law.into()),
            location: Location { latitude: at.0, longitude: at.1 },
            policy: Policy {
                serves_countries: countries.iter().map(|c| (*c).to_owned()).collect(),
                store_transcripts: false,
                retention_days: 0,
                metrics_group_min: 5,
            },
            nodes: up
                .iter()
                .enumerate()
                .map(|(i, up)| RouteNode {
                    node: format!("{region}-{i}"),
                    url: format!("https://{region}-{i}"),
                    up: *up,
                })
                .collect(),
        }
    }

    fn world(eu_up: bool) -> Vec<Route> {
        vec![
            route("us-east", "us", (39.0, -77.5), &["*"], &[true]),
            route("us-west", "us", (45.6, -121.2), &["*"], &[true]),
            route("eu-central", "eu", (50.1, 8.7), &["DE", "FR"], &[eu_up, false]),
            route("eu-north", "eu", (59.3, 18.1), &["SE", "DE"], &[eu_up]),
        ]
    }

    fn names(routes: &[Route], country: Option<&str>, at: Option<(f64, f64)>) -> Result<Vec<String>, NoRoute> {
        let location = at.map(|(latitude, longitude)| Location { latitude, longitude });
        nearest(routes, &Caller { country: country.map(str::to_owned), location })
            .map(|answer| answer.nodes.into_iter().map(|node| node.node).collect())
    }

    #[test]
    fn law_comes_before_distance() {
        let berlin = Some((52.5, 13.4));
        assert_eq!(names(&world(true), Some("DE"), berlin).expect("nodes"), ["eu-central-0", "eu-north-0"]);
        assert_eq!(names(&world(true), Some("SE"), None).expect("nodes"), ["eu-north-0"]);
        // A German in New York stays at home; everybody else goes to the nearest.
        assert_eq!(names(&world(true), Some("DE"), Some((40.7, -74.0))).expect("nodes").len(), 2);
        assert_eq!(names(&world(true), Some("US"), Some((37.8, -122.4))).expect("nodes"), ["us-west-0", "us-east-0"]);
        assert_eq!(names(&world(true), Some("US"), None).expect("nodes").len(), 2);
    }

    #[test]
    fn with_no_permitted_node_up_the_caller_is_refused_with_the_reason() {
        let said = names(&world(false), Some("DE"), None).expect_err("refused");
        assert_eq!(said, NoRoute::NoneUp { regions: "eu-central, eu-north".into() });
        // Italy is listed nowhere, yet it is in the Union: the wildcard of another jurisdiction does not catch it.
        let said = names(&world(true), Some("IT"), None).expect_err("refused");
        assert!(
            matches!(&said, NoRoute::NotPermitted { reason } if reason.contains("stay within jurisdiction `eu`")),
            "{said}"
        );
        let reunion = names(&world(true), Some("RE"), None).expect_err("refused");
        assert!(matches!(reunion, NoRoute::NotPermitted { .. }), "{reunion}");
        let only_us = &world(true)[..2];
        assert!(matches!(names(only_us, Some("FR"), None), Err(NoRoute::NotPermitted { .. })));
        assert!(matches!(names(&[], Some("FR"), None), Err(NoRoute::NotPermitted { .. })));
    }

    #[test]
    fn every_refusal_has_one_status_for_control_plane_and_agents() {
        let reason = || "r".to_owned();
        for (refusal, status, code, again) in [
            (NoRoute::BadQuery { reason: reason() }, 400, "bad_query", false),
            (NoRoute::NotPermitted { reason: reason() }, 451, "not_permitted", false),
            (NoRoute::NotHere { reason: reason() }, 451, "caller_not_permitted", false),
            (NoRoute::NoneUp { regions: reason() }, 503, "none_up", true),
            (NoRoute::NotReady, 503, "not_ready", true),
        ] {
            let told = (refusal.http_status(), refusal.code(), refusal.retry_after_s().is_some());
            assert_eq!(told, (status, code, again), "{refusal}");
        }
    }

    #[test]
    fn an_unknown_country_goes_only_where_everybody_is_served() {
        assert_eq!(names(&world(true), None, Some((50.0, 8.0))).expect("nodes"), ["us-east-0", "us-west-0"]);
    }

    #[test]
    fn a_query_is_read_or_refused_with_what_is_expected() {
        let peer = Some("192.0.2.1".parse().expect("address"));
        let in_france = |_| Some("FR".to_owned());
        let query = |country: Option<&str>, latitude, longitude| RouteQuery {
            country: country.map(str::to_owned),
            latitude,
            longitude,
            address: None,
        };
        let caller = query(Some("de"), Some(1.0), Some(2.0)).caller(peer, in_france).expect("caller");
        assert_eq!(caller.country.as_deref(), Some("DE"));
        assert_eq!(query(None, None, None).caller(peer, in_france).expect("caller").country.as_deref(), Some("FR"));
        assert_eq!(query(None, None, None).caller(None, in_france).expect("caller"), Caller::default());
        for bad in [
            query(Some("DEU"), None, None),
            query(Some("4X"), None, None),
            query(None, Some(1.0), None),
            query(None, Some(91.0), Some(0.0)),
            query(None, Some(f64::NAN), Some(0.0)),
        ] {
            assert!(matches!(bad.caller(peer, in_france), Err(NoRoute::BadQuery { .. })), "{bad:?}");
        }
    }

    #[test]
    fn each_country_has_one_plausible_middle() {
        for code in EU_LAW {
            let middle = middle_of(code).unwrap_or_else(|| panic!("{code} has no middle"));
            let frankfurt = Location { latitude: 50.1, longitude: 8.7 };
            assert!(middle.distance_km(frankfurt) < 3_000.0, "{code}");
        }
        assert!(EU_LAW_OUTERMOST.iter().all(|code| middle_of(code).is_some()));
        assert!(countries::MIDDLES.windows(2).all(|pair| pair[0].0 < pair[1].0), "sorted, none twice");
        assert!(middle_of("ZZ").is_none());
    }
}
