//! Division of one operation among threads that stay awake between operations.
//!
//! A step of a network is hundreds of operations of some microseconds each. A general pool puts its threads to sleep after each
//! of them and wakes them for the next, which takes longer than the work. Here the calling thread works itself, and the others
//! look for the next operation for [`SPIN`] rounds before they sleep. The downside: after a step a helper keeps its core busy for
//! that long, some tens of microseconds, in vain.
//!
//! Parts are taken from a counter, so a thread that is interrupted does less. A caller never waits for a helper that has not
//! begun: when no part is left it closes the job, and waits only for helpers that are inside.

use std::{
    any::Any,
    cell::UnsafeCell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Mutex, OnceLock, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::Thread,
};

/// Rounds that a helper looks for work before it sleeps: about 50 µs, several times what lies between two operations of a step.
const SPIN: usize = 2_000;
/// Rounds that a caller waits for a helper before it lets other threads run: the helper has lost its core.
const WAIT: usize = 20_000;
/// Operations that a caller then does alone. On a machine with more to do than it has cores, a helper that is put aside in the
/// middle of a part holds up everybody for a slice of the scheduler's time, a hundred times what the part takes.
const ALONE: usize = 100;

/// Bit of [`Team::state`] that says that a job may be joined.
const OPEN: usize = 1;
/// One helper inside, in the bits above.
const INSIDE: usize = 2;
const INSIDE_MASK: usize = 0xffff - OPEN;
/// One more job, in the bits above those.
const NUMBER: usize = 0x1_0000;

/// What is being done. Written by the caller while nobody is inside, read by helpers that are.
#[derive(Clone, Copy)]
struct Job {
    part: *const (dyn Fn(usize) + Sync),
    parts: usize,
}

/// Where the parts of one operation write their results: each its own places, which whoever divides the work must see to.
#[derive(Clone, Copy)]
pub(super) struct Out(pub(super) *mut f32);
// SAFETY: writing through it is unsafe where it is done, and parts do not overlap.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    /// The place of the value `i`.
    pub(super) fn at(self, i: usize) -> *mut f32 {
        self.0.wrapping_add(i)
    }
}

struct Helper {
    thread: Thread,
    asleep: &'static AtomicBool,
}

struct Team {
    /// Number of the job, helpers inside, whether it is open.
    state: AtomicUsize,
    /// The next part to be taken.
    next: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    helpers: OnceLock<Vec<Helper>>,
    /// Operations that are still to be done without helpers.
    alone: AtomicUsize,
    /// Held by the caller whose job it is.
    caller: Mutex<()>,
}

// SAFETY: `job` is written only by the holder of `caller` while the job is closed and nobody is inside, and read only by those
// who entered an open job.
unsafe impl Sync for Team {}

static TEAM: Team = Team {
    state: AtomicUsize::new(0),
    next: AtomicUsize::new(0),
    job: UnsafeCell::new(None),
    panic: Mutex::new(None),
    helpers: OnceLock::new(),
    alone: AtomicUsize::new(0),
    caller: Mutex::new(()),
};

/// Threads that work on an operation, the calling one included: as many as rayon would use, so one setting rules both.
pub(crate) fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(rayon::current_num_threads)
}

/// Does all parts `0..parts`, each once, by this thread and its helpers. Within a part, or while another thread's operation is
/// under way, the parts are done here one after the other; so they are for a while after a helper lost its core.
///
/// # Panics
/// If a part does.
pub(crate) fn run(parts: usize, part: impl Fn(usize) + Sync) {
    if parts < 2 || threads() < 2 {
        return (0..parts).for_each(part);
    }
    let _caller = match TEAM.caller.try_lock() {
        Ok(guard) => guard,
        // A part that panicked left nothing half done: the lock guards a job that is closed by now.
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return (0..parts).for_each(part),
    };
    TEAM.run(parts, &part);
}

/// What each part gives, in their order. Parts are few and large: each result has a lock of its own.
///
/// # Panics
/// If a part does.
pub(crate) fn map<T: Send>(parts: usize, part: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let found: Vec<Mutex<Option<T>>> = (0..parts).map(|_| Mutex::new(None)).collect();
    run(parts, |i| *found[i].lock().unwrap_or_else(PoisonError::into_inner) = Some(part(i)));
    let found = found.into_iter().map(|one| one.into_inner().unwrap_or_else(PoisonError::into_inner));
    found.map(|one| one.expect("every part was done")).collect()
}

impl Team {
    fn run(&'static self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        let alone = self.alone.load(Ordering::Relaxed);
        if alone > 0 {
            self.alone.store(alone - 1, Ordering::Relaxed);
            return (0..parts).for_each(part);
        }
        let helpers = self.helpers.get_or_init(|| (1..threads()).filter_map(|_| self.hire()).collect());
        // SAFETY: only the lifetime changes; nobody is inside any more when this function ends.
        let part: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(part) };
        // SAFETY: the job is closed and nobody is inside, so nobody reads it.
        unsafe { *self.job.get() = Some(Job { part, parts }) };
        self.next.store(0, Ordering::Relaxed);
        // A helper on its way to sleep sees the open job or is seen as asleep: both sides write first and then read.
        self.state.store((self.state.load(Ordering::Relaxed) & !0xffff).wrapping_add(NUMBER) | OPEN, Ordering::SeqCst);
        for helper in helpers.iter().take(parts - 1) {
            if helper.asleep.load(Ordering::SeqCst) {
                helper.thread.unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| self.take_parts(part, parts)));
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut rounds = 0;
        while self.state.load(Ordering::Acquire) & INSIDE_MASK != 0 {
            rounds += 1;
            if rounds < WAIT {
                std::hint::spin_loop();
            } else {
                self.alone.store(ALONE, Ordering::Relaxed);
                std::thread::yield_now();
            }
        }
        let theirs = self.panic.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }

    fn take_parts(&self, part: &(dyn Fn(usize) + Sync), parts: usize) {
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= parts {
                return;
            }
            part(i);
        }
    }

    /// Starts a helper; `None` where the system gives no thread, and then there is one less.
    fn hire(&'static self) -> Option<Helper> {
        let asleep: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let work = move || self.help(asleep);
        let handle = std::thread::Builder::new().name("kernels".to_owned()).spawn(work);
        match handle {
            Ok(handle) => Some(Helper { thread: handle.thread().clone(), asleep }),
            Err(error) => {
                tracing::warn!(%error, "a thread for the kernels could not be started; they run with fewer");
                None
            }
        }
    }

    fn help(&self, asleep: &AtomicBool) {
        let mut done = 0;
        let open = |state: usize, done: usize| state & OPEN != 0 && state / NUMBER != done;
        loop {
            let mut state = self.state.load(Ordering::SeqCst);
            let mut rounds = 0;
            while !open(state, done) {
                rounds += 1;
                if rounds < SPIN {
                    std::hint::spin_loop();
                } else {
                    asleep.store(true, Ordering::SeqCst);
                    if !open(self.state.load(Ordering::SeqCst), done) {
                        std::thread::park();
                    }
                    asleep.store(false, Ordering::SeqCst);
                    rounds = 0;
                }
                state = self.state.load(Ordering::SeqCst);
            }
            // Entering succeeds only while the job is still the one that was seen, and open.
            if self.state.compare_exchange(state, state + INSIDE, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            done = state / NUMBER;
            // SAFETY: this thread is inside, so the caller waits, and the job stays as it was written before it was opened.
            let job = unsafe { *self.job.get() };
            if let Some(Job { part, parts }) = job {
                // SAFETY: as above; the function lives as long as its caller waits.
                let part = unsafe { &*part };
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_parts(part, parts))) {
                    *self.panic.lock().unwrap_or_else(|e| e.into_inner()) = Some(panic);
                }
            }
            self.state.fetch_sub(INSIDE, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once() {
        for parts in [0, 1, 2, 3, 17, 1000] {
            for _ in 0..200 {
                let done: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                run(parts, |i| {
                    done[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(done.iter().all(|d| d.load(Ordering::Relaxed) == 1), "{parts} parts");
            }
        }
    }

    #[test]
    fn results_come_in_the_order_of_their_parts() {
        assert_eq!(map(100, |i| i * i), (0..100).map(|i| i * i).collect::<Vec<_>>());
        assert!(map(0, |i| i).is_empty());
    }

    #[test]
    fn callers_on_several_threads_and_within_parts_get_their_work_done() {
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        run(5, |_| {
                            run(3, |_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 500 * 5 * 3);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_next_operation_works() {
        for _ in 0..50 {
            let caught = catch_unwind(|| run(8, |i| assert!(i != 5, "part five")));
            assert!(caught.is_err());
            let done = AtomicUsize::new(0);
            run(8, |_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.into_inner(), 8);
        }
    }
}
