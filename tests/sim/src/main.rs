//! `nearfield-sim`: thousands of seeds, or one again with its trace.

use clap::Parser;
use nearfield_sim::{Scenario, World, check, failure};
use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

/// Simulates fleets under faults, and says which seeds break an invariant.
#[derive(Parser)]
struct Args {
    /// Runs this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints what happens in it.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Runs so many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.seed {
        let mut world = World::new(Scenario::of(seed), args.trace);
        return match world.run() {
            Ok(()) => {
                let (steps, hash) = (world.steps(), world.trace_hash());
                println!(
                    "seed {seed}: all converged after {:.0} s, {steps} steps, trace {hash:016x}",
                    world.now().as_secs_f64()
                );
                ExitCode::SUCCESS
            }
            Err(violation) => {
                println!("{}", failure(seed, &world, &violation));
                ExitCode::FAILURE
            }
        };
    }
    let (next, failed, steps) = (AtomicU64::new(args.from), AtomicU64::new(0), AtomicU64::new(0));
    let until = args.from.saturating_add(args.seeds);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= until {
                        return;
                    }
                    match check(seed) {
                        Ok(world) => _ = steps.fetch_add(world.steps(), Ordering::Relaxed),
                        Err(words) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            println!("{words}");
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!("{} seeds, {} steps, {failed} failed", args.seeds, steps.into_inner());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
