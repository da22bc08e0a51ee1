//! Where a caller is, from what their address says, what they state, and their position.
//!
//! These may contradict each other: a country can be stated that the address does not bear out, and a position in the European Union
//! may come with no country at all. The rule is that **the strictest wins**:
//!
//! 1. If any country that is known, of an address or stated, stands under the law of the Union, the caller is taken for one from
//!    there, whatever else is said.
//! 2. Otherwise, if the position may lie in the Union, so is the caller. Positions are judged generously (`union`), so some who are
//!    just outside are served under the stricter law.
//! 3. Otherwise a country that a region claims by name goes before one that none does.
//! 4. Otherwise the stated country counts, and without one that of the address.
//!
//! What is left by this may be several countries, and a node may serve the caller only if its policy permits it from **each** of
//! them. So nobody gets out of a law by stating something, and whoever wants a choice of nodes can only narrow it.

use super::{NoRoute, homes, union};
use crate::{desired::Route, region::Location};
use serde::Deserialize;
use std::{collections::BTreeSet, net::IpAddr};

/// What is known about where a caller is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Caller {
    /// Every country that something speaks for, what the caller states before what addresses say; ISO 3166-1 alpha-2, upper
    /// case.
    pub countries: Vec<String>,
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
    /// The caller's address, where somebody asks for them. It counts beside the address that asks, unless that one belongs to no
    /// country (a private network): otherwise stating one would be a way out of the law.
    pub address: Option<IpAddr>,
}

impl RouteQuery {
    /// The caller this query is about. `address_country` finds the country of an address; `peer` is who asks.
    ///
    /// # Errors
    /// [`NoRoute::BadQuery`] where it contradicts itself.
    pub fn caller(
        &self,
        peer: Option<IpAddr>,
        address_country: impl Fn(IpAddr) -> Option<String>,
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
        let stated = match &self.country {
            Some(code) if code.len() == 2 && code.bytes().all(|b| b.is_ascii_alphabetic()) => {
                Some(code.to_ascii_uppercase())
            }
            Some(_) => return bad("country must be two letters of ISO 3166-1, for example DE"),
            None => None,
        };
        let of_addresses = [self.address, peer].into_iter().flatten().filter_map(address_country);
        let mut seen = BTreeSet::new();
        let countries = stated.into_iter().chain(of_addresses).filter(|code| seen.insert(code.clone())).collect();
        Ok(Caller { countries, location })
    }
}

/// Which countries a caller is taken to be from, by the rule of this module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TakenFrom<'a> {
    /// A node may serve the caller only if it may from each of these; empty where nothing is known.
    pub countries: Vec<&'a str>,
    /// Whether only the position speaks for them, so that it is one of them and nobody knows which.
    pub by_position: bool,
}

impl TakenFrom<'_> {
    /// The country to name in an answer, where it is one.
    pub fn country(&self) -> Option<&str> {
        if self.by_position && self.countries.len() > 1 { None } else { self.countries.first().copied() }
    }
}

impl Caller {
    /// Whether nothing is known that could keep the caller from any node.
    pub fn is_unknown(&self) -> bool {
        self.countries.is_empty() && self.location.is_none_or(|at| union::may_be_in(at).is_empty())
    }

    /// The countries that the caller is taken to be from.
    pub(super) fn taken_from(&self, routes: &[Route]) -> TakenFrom<'_> {
        let those = |which: &dyn Fn(&str) -> bool| -> Vec<&str> {
            self.countries.iter().map(String::as_str).filter(|code| which(code)).collect()
        };
        let known = |countries| TakenFrom { countries, by_position: false };
        let in_union = those(&union::is_in_union);
        if !in_union.is_empty() {
            return known(in_union);
        }
        let around = self.location.map(union::may_be_in).unwrap_or_default();
        if !around.is_empty() {
            return TakenFrom { countries: around, by_position: true };
        }
        let claimed = those(&|code| !homes(routes, code).is_empty());
        if !claimed.is_empty() {
            return known(claimed);
        }
        known(self.countries.first().map(String::as_str).into_iter().collect())
    }
}
