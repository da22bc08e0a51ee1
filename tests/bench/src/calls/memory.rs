//! Memory of a process, as the system counts it.

use std::fs;

/// Memory of one process.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    process: u32,
}

impl Memory {
    /// Of the process with this number.
    pub fn of(process: u32) -> Self {
        Self { process }
    }

    /// Bytes in memory now; 0 where the system does not tell.
    pub fn resident_bytes(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most it ever was, or was since [`Memory::forget_peak`].
    pub fn peak_bytes(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// Begins a new peak. Where the system refuses, the peak includes the start of the process.
    pub fn forget_peak(&self) {
        let _ = fs::write(format!("/proc/{}/clear_refs", self.process), "5");
    }

    fn status(&self, key: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process)).unwrap_or_default();
        let kilobytes =
            text.lines().find_map(|l| l.strip_prefix(key)?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kilobytes.unwrap_or(0) * 1024
    }
}
