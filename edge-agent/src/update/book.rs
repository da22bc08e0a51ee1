//! Which program a node runs: what was asked for, tried, made current and given up. Pure state; the time is passed in, and whoever
//! changes it writes it down before it acts ([`super::BookFile`]).

use nearfield_shared::{artefact::Digest, desired::Generation, wire::VersionName};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

/// Starts of a release in a row that did not stay up, after which it is left: one may be bad luck, two a coincidence.
pub const STARTS_MAX: u32 = 3;

/// Failures that are remembered, the newest first.
const FAILURES_MAX: usize = 8;

/// Version of the record. 1 is the first.
const VERSION: u32 = 1;

/// A program that a node can run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// What is installed on the machine.
    #[default]
    Installed,
    /// A release that the control plane asked for.
    Release {
        /// BLAKE3 of its file.
        digest: Digest,
        /// Its version.
        version: VersionName,
    },
}

impl Program {
    /// The digest of a release's file.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Installed => None,
            Self::Release { digest, .. } => Some(*digest),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Installed => f.write_str("the installed program"),
            Self::Release { digest, version } => write!(f, "version {version} ({})", &digest.to_hex()[..12]),
        }
    }
}

/// How long a trial may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Seconds until it must be healthy.
    pub healthy_s: u64,
    /// Seconds that its calls get to end, should it be late.
    pub grace_s: u64,
}

/// A program that is to be tried, or is being tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The program.
    pub program: Program,
    /// The generation that asked for it.
    pub generation: Generation,
    /// How long it may take.
    pub terms: Terms,
    /// Whether it was healthy on this node before: then the state that was served last may be one that only its successor understands.
    pub proven: bool,
    /// Whether it was started. One that was started and never became healthy has failed, whatever happened in between.
    pub begun: bool,
}

/// Why a program was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It ended before it was healthy.
    Ended {
        /// Its exit code, or 128 and the signal that killed it.
        code: u8,
    },
    /// It was not healthy in time.
    Late {
        /// Seconds that it had.
        after_s: u64,
    },
    /// It was being tried when its supervisor or the machine's power went.
    Interrupted,
    /// It ended again and again soon after its start.
    Crashing {
        /// How often in a row.
        starts: u32,
    },
    /// Its file is not what it was.
    Damaged,
    /// The system does not start it.
    CannotStart {
        /// What the system says.
        words: String,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended { code } => write!(f, "it ended with code {code} before it was healthy; its log says why"),
            Self::Late { after_s } => {
                write!(
                    f,
                    "it was not healthy within {after_s} s: the last state serving, listeners bound, the control plane greeted"
                )
            }
            Self::Interrupted => f.write_str("the supervisor or the machine went down while it was tried"),
            Self::Crashing { starts } => write!(f, "it ended {starts} times in a row soon after its start"),
            Self::Damaged => f.write_str("its file on this node was damaged"),
            Self::CannotStart { words } => {
                write!(
                    f,
                    "the system does not start it: {words}; is the state folder on a disk that is mounted noexec?"
                )
            }
        }
    }
}

/// A program that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The program.
    pub program: Program,
    /// The generation that asked for it.
    pub generation: Generation,
    /// Why.
    pub why: Why,
    /// When, seconds since 1970.
    pub unix_s: i64,
}

/// What is to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The program.
    pub program: Program,
    /// Its trial, where it is one.
    pub trial: Option<Trial>,
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    version: u32,
    current: Program,
    /// The generation that asked for it.
    current_since: Generation,
    /// What ran before, and is gone back to.
    previous: Program,
    trial: Option<Trial>,
    failures: Vec<Failure>,
    /// Starts of the current program since it last stayed up or was stopped on purpose.
    starts: u32,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            version: VERSION,
            current: Program::Installed,
            current_since: Generation(0),
            previous: Program::Installed,
            trial: None,
            failures: Vec::new(),
            starts: 0,
        }
    }
}

impl Book {
    /// Whether this version of the agent understands the record.
    pub fn is_readable(&self) -> bool {
        self.version == VERSION
    }

    /// The program that runs while nothing is tried.
    pub fn current(&self) -> &Program {
        &self.current
    }

    /// The program before it.
    pub fn previous(&self) -> &Program {
        &self.previous
    }

    /// What is asked for or being tried.
    pub fn trial(&self) -> Option<&Trial> {
        self.trial.as_ref()
    }

    /// What was given up, the newest first.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// Digests of the programs whose files are needed.
    pub fn needed(&self) -> BTreeSet<Digest> {
        let trial = self.trial.as_ref().map(|trial| &trial.program);
        [&self.current, &self.previous].into_iter().chain(trial).filter_map(Program::digest).collect()
    }

    /// Why a program is not tried for a state: it was given up for a state of this generation or a later one. A newer state tries it again.
    pub fn given_up(&self, program: &Program, generation: Generation) -> Option<&Failure> {
        self.failures.iter().find(|failure| failure.program == *program && failure.generation >= generation)
    }

    /// A state asks for a program; the next start tries it. Asking for the current one takes back what was asked before.
    pub fn ask(&mut self, program: Program, generation: Generation, terms: Terms) {
        let proven = program == Program::Installed || program == self.previous;
        self.trial = (program != self.current).then_some(Trial { program, generation, terms, proven, begun: false });
    }

    /// Takes back what was asked for.
    pub fn take_back(&mut self) {
        self.trial = None;
    }

    /// What to start now. The caller writes the record down first: that a trial has begun must be known whatever comes next.
    pub fn start(&mut self, unix_s: i64) -> Start {
        match self.trial.as_mut() {
            Some(trial) if !trial.begun => {
                trial.begun = true;
                return Start { program: trial.program.clone(), trial: Some(trial.clone()) };
            }
            Some(_) => self.give_up(Why::Interrupted, unix_s),
            None => {}
        }
        while self.current != Program::Installed && self.starts >= STARTS_MAX {
            self.give_up(Why::Crashing { starts: self.starts }, unix_s);
        }
        if self.current != Program::Installed {
            self.starts += 1;
        }
        Start { program: self.current.clone(), trial: None }
    }

    /// The trial is healthy: it is current now, and what was current is the one before. False where nothing is being tried.
    pub fn healthy(&mut self) -> bool {
        match self.trial.take() {
            Some(trial) if trial.begun => {
                self.previous = std::mem::replace(&mut self.current, trial.program);
                self.current_since = trial.generation;
                self.failures.retain(|failure| failure.program != self.current);
                self.starts = 1;
                true
            }
            other => {
                self.trial = other;
                false
            }
        }
    }

    /// The current program has stayed up, or was stopped on purpose.
    pub fn stayed_up(&mut self) {
        self.starts = 0;
    }

    /// The node was stopped on purpose during a trial: it begins anew with the next start.
    pub fn postpone(&mut self) {
        if let Some(trial) = &mut self.trial {
            trial.begun = false;
        }
    }

    /// The trial is over, or where nothing is tried, the current program is left for the one before it.
    pub fn give_up(&mut self, why: Why, unix_s: i64) {
        let (program, generation) = match self.trial.take() {
            Some(trial) => (trial.program, trial.generation),
            None => {
                let before = std::mem::take(&mut self.previous);
                let left = std::mem::replace(&mut self.current, before);
                self.starts = 0;
                (left, self.current_since)
            }
        };
        self.failures.retain(|failure| failure.program != program);
        self.failures.insert(0, Failure { program, generation, why, unix_s });
        self.failures.truncate(FAILURES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms = Terms { healthy_s: 300, grace_s: 20 };

    fn release(n: u8) -> Program {
        Program::Release { digest: Digest([n; 32]), version: format!("0.0.{n}").parse().expect("version") }
    }

    fn trial_of(book: &mut Book, n: u8, generation: u64) {
        book.ask(release(n), Generation(generation), TERMS);
        let start = book.start(0);
        assert!(start.program == release(n) && start.trial.is_some_and(|trial| trial.begun));
    }

    #[test]
    fn a_healthy_trial_becomes_current_and_one_that_fails_brings_back_what_was() {
        let mut book = Book::default();
        trial_of(&mut book, 1, 5);
        assert!(book.healthy() && !book.healthy());
        assert_eq!((book.current(), book.previous()), (&release(1), &Program::Installed));
        trial_of(&mut book, 2, 6);
        book.give_up(Why::Ended { code: 3 }, 9);
        assert_eq!(book.start(0), Start { program: release(1), trial: None });
        assert_eq!(book.given_up(&release(2), Generation(6)).map(|failure| failure.unix_s), Some(9));
        assert!(book.given_up(&release(2), Generation(7)).is_none(), "a newer state tries it again");
        assert!(book.given_up(&release(3), Generation(6)).is_none());
    }

    #[test]
    fn a_trial_whose_power_was_cut_is_over_and_one_that_was_stopped_begins_anew() {
        let mut book = Book::default();
        trial_of(&mut book, 1, 5);
        let mut stopped = book.clone();
        assert_eq!(book.start(0).program, Program::Installed);
        assert_eq!(book.failures()[0].why, Why::Interrupted);
        stopped.postpone();
        assert_eq!(stopped.start(0).program, release(1));
    }

    #[test]
    fn a_program_that_does_not_stay_up_is_left_for_the_one_before_and_that_for_the_installed_one() {
        let mut book = Book::default();
        for n in [1, 2] {
            trial_of(&mut book, n, n.into());
            assert!(book.healthy());
        }
        let started: Vec<Program> = (0..7).map(|_| book.start(0).program).collect();
        // The trial's own start was the first of the current program's three.
        let expected = [2, 2, 1, 1, 1].map(release).into_iter().chain([Program::Installed, Program::Installed]);
        assert_eq!(started, expected.collect::<Vec<_>>());
        assert_eq!(book.needed(), BTreeSet::new(), "nothing of them is kept");
    }

    #[test]
    fn going_back_to_what_ran_before_asks_less_of_it() {
        let mut book = Book::default();
        for n in [1, 2] {
            trial_of(&mut book, n, n.into());
            assert!(!book.trial().expect("tried").proven && book.healthy());
        }
        for (program, proven) in [(release(1), true), (Program::Installed, true), (release(3), false)] {
            book.ask(program, Generation(9), TERMS);
            assert_eq!(book.trial().map(|trial| trial.proven), Some(proven));
        }
        book.ask(release(2), Generation(10), TERMS);
        assert_eq!(book.trial(), None, "it is current");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ask(u8),
        Healthy,
        EndsWell,
        Crashes,
        PowerCut,
        Stopped,
        StaysUp,
        Damaged,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1_u8..5).prop_map(Step::Ask),
            Just(Step::Healthy),
            Just(Step::EndsWell),
            Just(Step::Crashes),
            Just(Step::PowerCut),
            Just(Step::Stopped),
            Just(Step::StaysUp),
            Just(Step::Damaged),
        ]
    }

    proptest! {
        /// Whatever happens: something is always started; only what was asked for and not given up for that state is tried, once; what is not healthy
        /// never becomes current; and no release is started more often in a row than it may.
        #[test]
        fn the_node_always_comes_back(steps in prop::collection::vec(step(), 1..60)) {
            let (mut book, mut generation, mut healthy) = (Book::default(), 0, BTreeSet::from([None]));
            let mut running = book.start(0);
            let mut in_a_row = (None, 0_u32);
            for step in steps {
                let before = book.current().clone();
                let is_trial = book.trial().is_some_and(|trial| trial.begun);
                match step {
                    // The daemon's own rule, before it asks: see `daemon_side`.
                    Step::Ask(n) if !is_trial => {
                        generation += 1;
                        prop_assert!(book.given_up(&release(n), Generation(generation)).is_none());
                        book.ask(release(n), Generation(generation), TERMS);
                    }
                    Step::Healthy if is_trial => {
                        prop_assert!(book.healthy());
                        healthy.insert(running.program.digest());
                        in_a_row = (running.program.digest(), 1);
                        running.trial = None;
                        continue;
                    }
                    Step::StaysUp if !is_trial => {
                        book.stayed_up();
                        in_a_row.1 = 0;
                        continue;
                    }
                    Step::EndsWell if !is_trial => {
                        book.stayed_up();
                        in_a_row.1 = 0;
                    }
                    Step::Crashes | Step::Damaged | Step::EndsWell if is_trial => {
                        let failed = running.program.clone();
                        book.give_up(Why::Damaged, 0);
                        prop_assert_eq!(book.current(), &before, "a failed trial changes nothing that ran");
                        prop_assert!(book.given_up(&failed, Generation(generation)).is_some());
                    }
                    Step::Stopped if is_trial => book.postpone(),
                    Step::Damaged if running.program != Program::Installed => {
                        book.give_up(Why::Damaged, 0);
                        in_a_row.1 = 0;
                    }
                    Step::Crashes | Step::PowerCut => {}
                    _ => continue,
                }
                let text = serde_json::to_string(&book).expect("writes");
                book = serde_json::from_str(&text).expect("reads");
                running = book.start(0);
                let digest = running.program.digest();
                prop_assert!(running.trial.is_some() || healthy.contains(&digest), "only healthy programs are current");
                if running.trial.is_none() && digest.is_some() {
                    in_a_row = if in_a_row.0 == digest { (digest, in_a_row.1 + 1) } else { (digest, 1) };
                    prop_assert!(in_a_row.1 <= STARTS_MAX, "{:?}", in_a_row);
                }
                prop_assert!(book.needed().len() <= 3);
                prop_assert!(digest.is_none_or(|digest| book.needed().contains(&digest)));
            }
        }
    }
}
