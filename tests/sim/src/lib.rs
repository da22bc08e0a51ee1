//! A seeded simulation of a whole fleet: hundreds of nodes and a plane in virtual time, on one thread.
//!
//! The link machines, the fleet, rollouts, offers, renewals and the checks of states are the real ones; what is simulated are the shells around them: network, disks, clocks, devices
//! and people. Everything follows from one seed, so a run that fails is a number, and that number is a test.
//!
//! What goes wrong: packets are late, connections die on one side first and are told of twice, parts of the network are cut off, planes and agents crash and come back from what their disks had
//! synced, a plane's store is lost and restored from its export, the plane's clock is off by up to 90 days and jumps (an agent's wall clock decides nothing here), nodes and planes are of different versions, and people apply good and bad changes, pause, abort,
//! cordon, shut out and enrol. After every step the [`oracles`] are asked; then faults end, and all must converge.
//!
//! What this does not show: that the shells' asynchronous code is right (`control-plane/tests`, `edge-agent/tests` and `tests/` drive that over real QUIC), and anything about calls.

mod admin;
mod agent;
mod catalogue;
mod chance;
mod ctx;
mod disk;
mod faults;
mod links;
mod network;
mod offering;
pub mod oracles;
mod plane;
mod scenario;
mod schedule;
mod slots;
mod trace;
mod world;

pub use oracles::Violation;
pub use scenario::{Sabotage, Scenario};
pub use world::World;

/// Runs one seed; its failure says how to run it again.
pub fn check(seed: u64) -> Result<World, String> {
    let mut world = World::new(Scenario::of(seed), false);
    match world.run() {
        Ok(()) => Ok(world),
        Err(violation) => Err(failure(seed, &world, &violation)),
    }
}

/// What a failed run says.
pub fn failure(seed: u64, world: &World, violation: &Violation) -> String {
    format!(
        "seed {seed} fails after {} steps, at {:.3} s: {violation}\n  replay it with: cargo run --release -p nearfield-sim -- --seed {seed} --trace",
        world.steps(),
        world.now().as_secs_f64(),
    )
}
