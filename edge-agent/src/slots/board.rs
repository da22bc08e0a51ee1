//! Where everybody reads what serves: one `watch`, written by the slots' owner and, as far as routes go, by the control link.
//!
//! Routes change when nodes come and go, without a new generation. A state that becomes active carries the routes of
//! the moment it was made, so those that were told later must win over it; both writers change the same value under one lock.

use crate::node::Serving;
use nearfield_shared::{desired::Route, wire::message::Duty};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The writing side. Clones share it.
#[derive(Clone)]
pub struct Board {
    serving: watch::Sender<Arc<Serving>>,
    told: Arc<Mutex<Option<Arc<Vec<Route>>>>>,
    duty: watch::Sender<Duty>,
}

impl Board {
    /// A board that shows nothing yet, and its reading side.
    pub fn new() -> (Self, watch::Receiver<Arc<Serving>>) {
        let (serving, reading) = watch::channel(Arc::new(Serving::default()));
        (Self { serving, told: Arc::default(), duty: watch::Sender::new(Duty::default()) }, reading)
    }

    /// Shows what serves now, with the routes that were told last.
    pub fn show(&self, mut serving: Serving) {
        self.serving.send_modify(|shown| {
            if let Some(told) = &*self.told.lock().unwrap_or_else(PoisonError::into_inner) {
                serving.routes = told.to_vec();
            }
            *shown = Arc::new(serving);
        });
    }

    /// Takes what the control plane asks of this node.
    pub fn tell_duty(&self, duty: Duty) {
        self.duty.send_if_modified(|told| std::mem::replace(told, duty) != duty);
    }

    /// Follows what the control plane asks of this node.
    pub fn follow_duty(&self) -> watch::Receiver<Duty> {
        self.duty.subscribe()
    }

    /// Takes routes from the control plane.
    pub fn tell_routes(&self, routes: &Arc<Vec<Route>>) {
        self.serving.send_modify(|shown| {
            *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(routes));
            Arc::make_mut(shown).routes = routes.to_vec();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_shared::{
        desired::RouteNode,
        policy::Policy,
        region::{Jurisdiction, Location},
    };

    #[test]
    fn routes_told_during_an_activation_win_over_those_it_brings() {
        let routes = |up: bool| {
            vec![Route {
                region: "eu".parse().expect("region"),
                jurisdiction: Jurisdiction("eu".into()),
                location: Location { latitude: 0.0, longitude: 0.0 },
                policy: Policy {
                    serves_countries: vec![],
                    store_transcripts: false,
                    retention_days: 0,
                    metrics_group_min: 5,
                    notices: vec![],
                },
                nodes: vec![RouteNode { node: "a".into(), url: "http://a".into(), up }],
            }]
        };
        let (board, reading) = Board::new();
        board.show(Serving { routes: routes(false), ..Serving::default() });
        assert!(!reading.borrow().routes[0].nodes[0].up);
        board.tell_routes(&Arc::new(routes(true)));
        assert!(reading.borrow().routes[0].nodes[0].up);
        board.show(Serving { routes: routes(false), ..Serving::default() });
        assert!(reading.borrow().routes[0].nodes[0].up);
    }
}
