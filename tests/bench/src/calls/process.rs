//! What a process takes, as the system counts it.

use edge_agent::memory::Memory;
use std::fs;

/// A process under load. Where the system does not tell, every figure is 0.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    id: u32,
}

impl Process {
    /// The process with this number.
    pub fn of(id: u32) -> Self {
        Self { id }
    }

    /// Bytes in memory now.
    pub fn resident_bytes(&self) -> u64 {
        Memory::of(self.id).map_or(0, |memory| memory.resident_bytes)
    }

    /// The most it ever was, or was since [`Process::forget_peak`].
    pub fn peak_bytes(&self) -> u64 {
        Memory::of(self.id).map_or(0, |memory| memory.peak_bytes)
    }

    /// Begins a new peak. Where the system refuses, the peak includes the start of the process.
    pub fn forget_peak(&self) {
        let _ = fs::write(format!("/proc/{}/clear_refs", self.id), "5");
    }

    /// Seconds that all its threads have computed.
    pub fn cpu_seconds(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.id)).unwrap_or_default();
        // The name, in parentheses, may hold spaces; user and system time are the 12th and 13th field behind it.
        let fields = text.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
        let ticks: u64 = fields.skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
        // SAFETY: asks for a constant of the system.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        ticks as f64 / per_second.max(1) as f64
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_something() {
        let own = Process::of(std::process::id());
        assert!(own.resident_bytes() > 1 << 20 && own.peak_bytes() >= own.resident_bytes() / 2);
        while own.cpu_seconds() == 0.0 {
            std::hint::black_box((0..1_000_000u64).sum::<u64>());
        }
        assert_eq!(Process::of(0).resident_bytes(), 0);
    }
}
