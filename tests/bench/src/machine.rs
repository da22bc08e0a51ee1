//! What this runs on, for the head of every table: a figure without its machine says nothing.

use anyhow::{Context, Result};
use nearfield_inference::device::{Kind, Selected};
use serde::Serialize;
use std::fs;

/// The machine and the device.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Its cores.
    pub cores: usize,
    /// Memory in GB.
    pub memory_gb: u64,
    /// What our models ran on.
    pub device: String,
    /// Whether that is a GPU.
    pub gpu: bool,
    /// Threads that each side computes with on the CPU.
    pub threads: usize,
    /// Processes that wanted to run, averaged over the minute before the measurement.
    pub load_before: f64,
}

impl Machine {
    /// Looks around.
    pub fn look(selected: &Selected, threads: usize) -> Self {
        let line = |file: &str, key: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let found = text.lines().find_map(|l| l.strip_prefix(key)).map(|l| l.trim_start_matches([' ', '\t', ':']));
            found.map(|l| l.trim().to_owned())
        };
        let kilobytes = line("/proc/meminfo", "MemTotal").and_then(|l| l.split(' ').next()?.parse::<u64>().ok());
        let load = fs::read_to_string("/proc/loadavg").ok().and_then(|l| l.split(' ').next()?.parse().ok());
        Self {
            cpu: line("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: cores(),
            memory_gb: kilobytes.unwrap_or(0).div_ceil(1_000_000),
            device: selected.name.clone(),
            gpu: selected.kind != Kind::Cpu,
            threads,
            load_before: load.unwrap_or(0.0),
        }
    }

    /// A line for a person.
    pub fn describe(&self) -> String {
        let busy = if self.load_before > 0.3 {
            format!("; BUSY: {:.1} other processes wanted to run before it began", self.load_before)
        } else {
            String::new()
        };
        let threads = if self.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", self.threads) };
        format!(
            "{}, {} cores, {} GB; ours on {}; {threads} and as many cores on either side{busy}",
            self.cpu, self.cores, self.memory_gb, self.device
        )
    }
}

/// Of the machine, however many of them this process keeps to.
fn cores() -> usize {
    // SAFETY: asks for a number of the system.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(online).unwrap_or(1).max(1)
}

/// Bounds this process, and every process it starts, to as many cores as there are threads, and our own pool to as many threads.
/// Call it once, before anything computes.
///
/// # Errors
/// When the pool was made before.
pub fn bound_threads(threads: usize) -> Result<()> {
    keep_to_cores(threads);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().context("the thread pool exists already")
}

/// Other pools count cores instead of asking how many threads there shall be. Where the system refuses, they go on doing so.
#[cfg(target_os = "linux")]
fn keep_to_cores(threads: usize) {
    // SAFETY: a zeroed set is an empty one, and both calls write and read only the set they are given.
    unsafe {
        let mut may: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut may) != 0 {
            return;
        }
        let mut keep: libc::cpu_set_t = std::mem::zeroed();
        let cores = (0..libc::CPU_SETSIZE as usize).filter(|i| libc::CPU_ISSET(*i, &may));
        cores.take(threads).for_each(|i| libc::CPU_SET(i, &mut keep));
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const keep);
    }
}

#[cfg(not(target_os = "linux"))]
fn keep_to_cores(_: usize) {}
