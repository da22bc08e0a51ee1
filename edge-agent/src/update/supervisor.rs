//! The supervisor: starts the program that the book names, watches a trial, and goes back when it does not come up.
//!
//! It knows nothing of settings, models or calls, and prints only what concerns updates. Signals are passed on, exit codes too: for an ending that
//! is no trial's, whoever started the supervisor decides, as without one. A daemon dies with its supervisor, whatever that one dies of.

use super::{
    Book, Program, Shelf, Start, Why,
    cord::{self, Ear, FromSupervisor, Handed, ToSupervisor, VARIABLE},
};
use crate::control::unix_now_s;
use std::{
    ffi::OsString,
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::ExitStatus,
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt as _, BufReader},
    net::{UnixStream, unix::OwnedReadHalf},
    process::{Child, Command},
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};

/// The exit code with which a supervised daemon makes way for the program that it asked for.
pub const EXIT_HAND_OVER: u8 = 86;

/// How long a program runs until it counts as one that stays up.
pub const STABLE_AFTER: Duration = Duration::from_secs(600);

/// What a late trial gets on top of its calls' grace before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(5);

/// How a program is started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Its file.
    pub file: PathBuf,
    /// Its arguments, without its name.
    pub args: Vec<OsString>,
}

impl Launch {
    /// This very process, started again.
    ///
    /// # Errors
    /// Where the system does not tell which file that is.
    pub fn own() -> io::Result<Self> {
        Ok(Self { file: std::env::current_exe()?, args: std::env::args_os().skip(1).collect() })
    }
}

/// How supervising ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The installed program is to run, and nothing is tried: that is this process's own work.
    RunInstalled,
    /// The daemon has ended for good, with this code.
    Exit(u8),
}

/// The supervisor of one node.
#[derive(Debug)]
pub struct Supervisor {
    /// Its programs.
    pub shelf: Shelf,
    /// How the installed program is started.
    pub installed: Launch,
    /// The arguments of a release's program.
    pub args: Vec<OsString>,
    /// How long a program runs until it counts as one that stays up; [`STABLE_AFTER`].
    pub stable_after: Duration,
}

/// How one run of a program ended.
struct Run {
    code: u8,
    /// It was tried, and became healthy.
    healthy: bool,
    /// It was tried, and too late.
    late: bool,
    /// Somebody wants the node to stop.
    stopping: bool,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl Supervisor {
    /// Whether there is anything to supervise: most nodes were never asked for another program.
    pub fn is_needed(&self) -> bool {
        let book = if self.shelf.is_used() { self.shelf.book().load() } else { Book::default() };
        *book.current() != Program::Installed || book.trial().is_some()
    }

    /// Runs programs until one ends for good, or the installed one is to run in this process.
    ///
    /// # Errors
    /// Where signals or sockets cannot be had.
    pub async fn run(&self) -> io::Result<Ended> {
        let mut signals =
            Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
        let mut book = self.shelf.book().load();
        loop {
            let start = self.begin(&mut book);
            let launch = match &start.program {
                Program::Installed if start.trial.is_none() => return Ok(Ended::RunInstalled),
                Program::Installed => Ok(self.installed.clone()),
                Program::Release { digest, .. } => {
                    self.shelf.verified(*digest).map(|file| Launch { file, args: self.args.clone() })
                }
            };
            let spawned = launch
                .and_then(|launch| self.spawn(&launch, &start).map_err(|e| Why::CannotStart { words: e.to_string() }));
            let (child, socket) = match spawned {
                Ok(spawned) => spawned,
                Err(why) => {
                    self.give_up(&mut book, &start.program, why);
                    continue;
                }
            };
            let run = self.watch(&mut book, &start, child, socket, &mut signals).await?;
            let unhealthy = start.trial.as_ref().filter(|_| !run.healthy);
            match unhealthy {
                // It had no chance, so nothing is known of it.
                Some(_) if run.stopping && !run.late => book.postpone(),
                Some(trial) => {
                    let why = match run.late {
                        true => Why::Late { after_s: trial.terms.healthy_s },
                        false => Why::Ended { code: run.code },
                    };
                    self.give_up(&mut book, &start.program, why);
                }
                None if run.code == 0 => book.stayed_up(),
                None if run.code == EXIT_HAND_OVER && book.trial().is_some() && !run.stopping => continue,
                None => {}
            }
            if unhealthy.is_none() || run.stopping {
                self.save(&book);
                // What it was to make way for begins with the next start.
                let code = if run.stopping && run.code == EXIT_HAND_OVER { 0 } else { run.code };
                return Ok(Ended::Exit(code));
            }
        }
    }

    /// What to start, written down. Where the disk takes nothing, nothing is tried: the node runs what it ran.
    fn begin(&self, book: &mut Book) -> Start {
        let before = book.clone();
        let start = book.start(unix_now_s());
        if *book == before || self.save(book) || start.trial.is_none() {
            return start;
        }
        *book = before;
        book.take_back();
        Start { program: book.current().clone(), trial: None }
    }

    fn give_up(&self, book: &mut Book, program: &Program, why: Why) {
        eprintln!("edge-agent: {program} is given up: {why}");
        book.give_up(why, unix_now_s());
        eprintln!("edge-agent: going back to {}", book.current());
        if self.save(book) {
            self.collect(book);
        }
    }

    fn collect(&self, book: &Book) {
        if let Err(error) = self.shelf.collect(&book.needed()) {
            eprintln!("edge-agent: programs that are not needed any more could not be removed: {error}");
        }
    }

    fn save(&self, book: &Book) -> bool {
        let saved = self.shelf.book().save(book);
        if let Err(error) = &saved {
            eprintln!("edge-agent: which program runs cannot be written down: {error}; check the disk");
        }
        saved.is_ok()
    }

    fn spawn(&self, launch: &Launch, start: &Start) -> io::Result<(Child, UnixStream)> {
        let (ours, theirs) = cord::pair()?;
        let fd = cord::number(&theirs);
        let proven = start.trial.as_ref().is_none_or(|trial| trial.proven);
        let handed = Handed { fd, program: start.program.clone(), trial: start.trial.is_some(), proven };
        let mut command = std::process::Command::new(&launch.file);
        command.args(&launch.args).env(VARIABLE, serde_json::to_string(&handed)?);
        let supervisor = std::process::id();
        // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 || libc::fcntl(fd, libc::F_SETFD, 0) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // One that died before it was asked to tell tells nothing.
                if libc::getppid().cast_unsigned() != supervisor {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                Ok(())
            });
        }
        if start.trial.is_some() {
            eprintln!("edge-agent: trying {}", start.program);
        }
        let child = Command::from(command).spawn()?;
        Ok((child, ours))
    }

    /// Watches one run to its end.
    async fn watch(
        &self,
        book: &mut Book,
        start: &Start,
        mut child: Child,
        socket: UnixStream,
        signals: &mut Signals,
    ) -> io::Result<Run> {
        let began = Instant::now();
        let trial = start.trial.as_ref();
        let (read, mut write) = socket.into_split();
        let mut ear = Some(Ear::new(BufReader::new(read)));
        let mut deadline = trial.map(|trial| began + Duration::from_secs(trial.terms.healthy_s));
        let mut stable = Some(began + self.stable_after);
        let (mut healthy, mut late, mut stops) = (false, false, 0_u32);
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                said = hear(&mut ear) => {
                    let Some(said) = said else {
                        ear = None;
                        continue;
                    };
                    let Some(answer) = self.answer(book, said, trial.is_some() && !healthy && !late, &mut healthy) else { continue };
                    if healthy && deadline.take().is_some() {
                        stable = Some(Instant::now() + self.stable_after);
                        eprintln!("edge-agent: {} is healthy and stays", start.program);
                    }
                    // A daemon that does not listen any more ends soon.
                    let _ = write.write_all(&cord::line(&answer)?).await;
                }
                () = signals.next() => {
                    stops += 1;
                    match stops {
                        1 => kill(&child, libc::SIGTERM),
                        _ => {
                            let _ = write.write_all(&cord::line(&FromSupervisor::StopAtOnce)?).await;
                        }
                    }
                }
                () = at(deadline) => {
                    let grace = trial.map_or(0, |trial| trial.terms.grace_s);
                    deadline = (!late).then(|| Instant::now() + Duration::from_secs(grace) + KILL_AFTER);
                    kill(&child, if late { libc::SIGKILL } else { libc::SIGTERM });
                    late = true;
                }
                () = at(stable) => {
                    stable = None;
                    if trial.is_none() || healthy {
                        book.stayed_up();
                        self.save(book);
                    }
                }
            }
        };
        Ok(Run { code: code(status), healthy, late, stopping: stops > 0 })
    }

    /// Takes what a daemon says; the answer goes out when it is on the disk.
    fn answer(&self, book: &mut Book, said: ToSupervisor, tried: bool, healthy: &mut bool) -> Option<FromSupervisor> {
        let before = book.clone();
        match said {
            ToSupervisor::Healthy if tried => {
                book.healthy();
            }
            // It was said before, or too late.
            ToSupervisor::Healthy => {
                return Some(match *healthy {
                    true => FromSupervisor::Taken,
                    false => FromSupervisor::Failed { words: "nothing is being tried any more".into() },
                });
            }
            ToSupervisor::Try { .. } if tried => {
                return Some(FromSupervisor::Failed { words: "what is being tried is not healthy yet".into() });
            }
            ToSupervisor::Try { program, generation, terms } => book.ask(program, generation, terms),
            ToSupervisor::Unknown => return None,
        }
        if let Err(error) = self.shelf.book().save(book) {
            *book = before;
            return Some(FromSupervisor::Failed { words: error.to_string() });
        }
        if tried {
            *healthy = true;
            self.collect(book);
        }
        Some(FromSupervisor::Taken)
    }
}

async fn hear(ear: &mut Option<Ear<BufReader<OwnedReadHalf>>>) -> Option<ToSupervisor> {
    match ear {
        Some(ear) => ear.hear().await,
        None => std::future::pending().await,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn kill(child: &Child, signal: i32) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // SAFETY: kill only sends a signal; the child has not been waited for, so the number is still its own.
        unsafe { libc::kill(pid, signal) };
    }
}

/// As a shell tells it.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// Becomes this program anew, with everything of the old process gone: how a daemon without a supervisor becomes one. Returns only
/// where that fails.
///
/// # Errors
/// What the system says.
pub fn exec_again() -> io::Error {
    // A driver's descriptors must not outlive the driver: a card's memory hangs on them.
    for entry in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        if let Some(number) = number.filter(|number| *number > 2) {
            // SAFETY: F_SETFD changes a flag of a descriptor, or fails where there is none of this number.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    let launch = match Launch::own() {
        Ok(launch) => launch,
        Err(error) => return error,
    };
    let mut command = std::process::Command::new(launch.file);
    if let Some(name) = std::env::args_os().next() {
        command.arg0(name);
    }
    command.args(launch.args).exec()
}
