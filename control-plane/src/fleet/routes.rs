//! Where callers can go: all of it for the plane's own answers, a part of it for nodes.
//!
//! A node answers `/v1/route` too, for when no plane does. It is told a part: were every node told of every node, each coming or
//! going would cost the square of the fleet. The downside is that a node's own answer leaves most of a large region's nodes out.

use super::{Fleet, NodeState};
use nearfield_shared::{
    desired::{Route, RouteNode},
    region::RegionId,
};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

/// Nodes of its own region that a node is told of, at most.
pub const OWN_REGION_MAX: usize = 32;

/// Nodes of each other region that a node is told of, at most.
pub const OTHER_REGION_MAX: usize = 8;

impl Fleet {
    /// Where callers can go now.
    pub fn routes(&self, now: i64) -> Vec<Route> {
        let mut nodes: BTreeMap<&RegionId, Vec<RouteNode>> = BTreeMap::new();
        for node in self.nodes.values() {
            let Some(url) = &node.public_url else { continue };
            let state = self.state(node, now);
            if state != NodeState::Revoked {
                let up = matches!(state, NodeState::Up | NodeState::Returning) && node.cordon.is_none();
                let of_region = nodes.entry(&node.region).or_default();
                of_region.push(RouteNode { node: node.node.to_string(), url: url.to_string(), up });
            }
        }
        let route = |record: &super::RegionRecord| {
            let region = &record.defined.as_ref()?.region;
            Some(Route {
                region: record.id.clone(),
                jurisdiction: region.jurisdiction.clone(),
                location: region.location,
                policy: region.policy.clone(),
                nodes: nodes.remove(&record.id).unwrap_or_default(),
            })
        };
        self.regions().filter_map(route).collect()
    }
}

/// The part of the routes that nodes of a region are told: every region, with some of its nodes. Those that are up come first; else
/// chance decides, another one for each region, and the same one each time, so that a node that comes or goes changes few parts.
pub fn part_for(own: &RegionId, routes: &[Route]) -> Vec<Route> {
    let part = |route: &Route| {
        let max = if route.region == *own { OWN_REGION_MAX } else { OTHER_REGION_MAX };
        let mut nodes: Vec<&RouteNode> = route.nodes.iter().collect();
        if nodes.len() > max {
            nodes.sort_by_cached_key(|node| {
                let mut hasher = DefaultHasher::new();
                (own.as_str(), &node.node).hash(&mut hasher);
                (Reverse(node.up), hasher.finish())
            });
            nodes.truncate(max);
            nodes.sort_by(|a, b| a.node.cmp(&b.node));
        }
        Route {
            region: route.region.clone(),
            jurisdiction: route.jurisdiction.clone(),
            location: route.location,
            policy: route.policy.clone(),
            nodes: nodes.into_iter().cloned().collect(),
        }
    };
    routes.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_shared::{
        policy::Policy,
        region::{Jurisdiction, Location},
    };

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn routes(up: impl Fn(usize) -> bool) -> Vec<Route> {
        let policy = Policy {
            serves_countries: vec![],
            store_transcripts: false,
            retention_days: 0,
            metrics_group_min: 5,
            notices: vec![],
        };
        let node = |i: usize| RouteNode { node: format!("n{i}"), url: format!("https://n{i}"), up: up(i) };
        let one = |name: &str, nodes: usize| Route {
            region: region(name),
            jurisdiction: Jurisdiction("eu".into()),
            location: Location { latitude: 0.0, longitude: 0.0 },
            policy: policy.clone(),
            nodes: (0..nodes).map(node).collect(),
        };
        vec![one("large", 1_000), one("other", 500), one("small", 3)]
    }

    #[test]
    fn a_part_has_every_region_and_at_most_so_many_nodes_that_are_up() {
        let all = routes(|i| i % 10 == 0);
        let part = part_for(&region("large"), &all);
        let sizes: Vec<usize> = part.iter().map(|route| route.nodes.len()).collect();
        assert_eq!(sizes, [OWN_REGION_MAX, OTHER_REGION_MAX, 3]);
        assert!(part[..2].iter().flat_map(|route| &route.nodes).all(|node| node.up));
        assert_eq!(part[2], all[2], "a small region is told whole, whether its nodes are up or not");
    }

    #[test]
    fn regions_are_told_different_parts_and_a_node_that_goes_changes_one_place() {
        let all = routes(|_| true);
        let names = |own: &str, all: &[Route]| -> Vec<String> {
            part_for(&region(own), all)[1].nodes.iter().map(|node| node.node.clone()).collect()
        };
        let before = names("large", &all);
        assert_ne!(before, names("small", &all));
        let gone = before[0].clone();
        let mut fewer = all.clone();
        fewer[1].nodes.retain(|node| node.node != gone);
        let after = names("large", &fewer);
        assert_eq!(before.iter().filter(|name| after.contains(name)).count(), OTHER_REGION_MAX - 1);
    }
}
