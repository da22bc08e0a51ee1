//! A fleet of simulated nodes against one real control plane, over real QUIC on loopback.
//!
//! A simulated node is the agent's own enrolment, dialling and control link (`edge_agent::control`) without models behind them: it
//! takes every state at once. [`crowd`] is a process with many of them, [`subject`] the control plane that is measured, [`script`]
//! what is done to it, [`report`] what came of it. Nodes and plane share the machine, as the figures say.

pub mod crowd;
pub mod node;
pub mod report;
pub mod script;
pub mod subject;

/// Names of the regions that nodes are spread over.
pub fn region_name(i: usize) -> String {
    format!("sim-{i:02}")
}

/// The time of day in microseconds since 1970: what several processes of one machine share.
pub fn now_unix_us() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
