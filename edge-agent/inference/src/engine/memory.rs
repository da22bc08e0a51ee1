//! How the allocator keeps freed memory. Only glibc's needs to be told; others give back by themselves.

/// Requests from this size on have pages of their own, which go back to the system when they are freed.
///
/// Left alone, glibc raises this to the largest buffer that was ever freed, up to 32 MB, and from then on keeps twice as much free
/// at the end of each heap: after one model file was read, memory only grows. Smaller than this, the buffers of ordinary steps
/// would each cost a system call and fresh pages: at 1 MB there are three times as many page faults, at 4 MB no more than without.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_PAGES_FROM: libc::c_int = 4 << 20;

/// What may stay free at the end of a heap: as much as a few answers give back when they end.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const FREE_AT_END: libc::c_int = 16 << 20;

/// Bounds what this process's allocator keeps of freed memory. An engine calls it when it starts, before there is much to keep.
pub(super) fn bound() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes two numbers and sets parameters under the allocator's own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES_FROM);
        libc::mallopt(libc::M_TRIM_THRESHOLD, FREE_AT_END);
    }
}

/// Gives back what is free in the middle of heaps, too. It takes some milliseconds, so it is called where models come and go or
/// the last call has ended, never between the steps of a call.
pub(super) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes a number and only touches memory that the allocator holds as free, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
