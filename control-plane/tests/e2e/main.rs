//! The control plane over real QUIC, real HTTP and a real disk. The agent's side is a small client of these tests, so that it can misbehave.
#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that is not as it should be")]

mod accounts;
mod agent;
mod agent_releases;
mod artefacts;
mod audit;
mod backups;
mod bad_input;
mod command_line;
mod dashboard;
mod door;
mod enrolment;
mod figures;
mod generations;
mod imports;
mod panics;
mod plane;
mod registry;
mod renewal;
mod restart;
mod revocation;
mod roaming;
mod rollout;
mod routes;
mod several;
mod shelves;

#[path = "../../../tests/environments/mod.rs"]
mod environments;
#[path = "../../../shared/tests/manual_clock/mod.rs"]
mod manual_clock;

#[path = "../etcd_cluster/mod.rs"]
mod etcd_cluster;
