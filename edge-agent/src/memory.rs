//! What a process takes of the machine's memory, as the system counts it.

use serde::{Deserialize, Serialize};
use std::fs;

/// Memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Bytes in memory now: weights, caches, the program itself.
    pub resident_bytes: u64,
    /// The most it ever were.
    pub peak_bytes: u64,
}

impl Memory {
    /// Of the process with this number; `None` where there is none, or the system does not tell.
    pub fn of(process: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let bytes = |key: &str| {
            let kilobytes = status.lines().find_map(|line| line.strip_prefix(key))?.trim().strip_suffix("kB")?;
            Some(kilobytes.trim().parse::<u64>().ok()? * 1024)
        };
        Some(Self { resident_bytes: bytes("VmRSS:")?, peak_bytes: bytes("VmHWM:")? })
    }

    /// Of this process.
    pub fn own() -> Option<Self> {
        Self::of(std::process::id())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_takes_what_it_has_written_to() {
        let taken = std::hint::black_box(vec![1u8; 64 << 20]);
        let now = Memory::own().expect("this system tells");
        // The system counts pages in lots.
        assert!(now.resident_bytes > 60 << 20 && now.peak_bytes >= now.resident_bytes, "{now:?}");
        drop(taken);
        assert_eq!(Memory::of(0), None);
    }
}
