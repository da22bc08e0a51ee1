//! Answers beside the conversation: they run while another is in progress, and change nothing of the conversation.

mod desk;

use desk::{Desk, FRAME_MS, NOTHING, by_hand, frames, settings};
use nearfield_dialogue::{
    call::Call,
    events::{Command, Event, Fault, Found, Given, Input, Output, Status, Wish},
    history::{Message, Role},
    ids::ResponseId,
    keys::Key,
    settings::Settings,
};
use nearfield_shared::pii::Pii;
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

fn wish(spoken: bool) -> Wish {
    Wish { out_of_band: true, spoken: Some(spoken), instructions: Some("Sum up.".into()), ..Wish::default() }
}

/// Asks for an answer beside the conversation.
fn asks(desk: &mut Desk, spoken: bool) -> Result<(), &'static str> {
    desk.ask(Command::CreateResponse(Box::new(wish(spoken))))
}

/// The first thought that is wanted for an answer beside the conversation, and when.
fn beside(desk: &mut Desk) -> (ResponseId, Duration) {
    desk.take(|work| match work {
        Output::Generate { response, due, beside: true, .. } => Some((response.clone(), *due)),
        _ => None,
    })
}

fn think(desk: &mut Desk, response: &ResponseId, text: &str) {
    desk.tell(Input::Text { response: response.clone(), piece: Pii::new(text.to_owned()) });
    desk.tell(Input::TextDone { response: response.clone(), cut_off: false });
}

/// When the next phrase of the conversation, or of an answer beside it, is wanted.
fn due(desk: &Desk, of_beside: bool) -> Duration {
    let due = |work: &Output| match work {
        Output::Speak { due, beside, .. } if *beside == of_beside => Some(*due),
        _ => None,
    };
    desk.work.iter().find_map(due).expect("a phrase is wanted")
}

#[test]
fn it_begins_at_once_and_ends_while_another_goes_on() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("one").found(NOTHING).happened();
    assert_eq!(asks(&mut desk, false), Ok(()));
    let (response, _) = beside(&mut desk);
    assert_ne!(desk.call.answering(), Some(&response));
    think(&mut desk, &response, "All is well.");
    assert_eq!(desk.happened(), "created, output, said `All is well.`, completed");
    desk.thinks("First.").speaks();
    assert_eq!(desk.happened(), "output, said `First.`, audio 300, completed");
    assert_eq!(desk.heard_by_caller(), ["First."], "what stands in the conversation");
    // And the other way round: whoever speaks does not wait for it.
    assert_eq!(asks(&mut desk, true), Ok(()));
    let (response, _) = beside(&mut desk);
    desk.wait(400).hears("####..........").transcript("two").found(NOTHING).thinks("Second.").speaks();
    assert!(desk.happened().ends_with("said `Second.`, audio 350, completed"));
    think(&mut desk, &response, "Two turns.");
    desk.speaks();
    assert_eq!(desk.happened(), "output, said `Two turns.`, audio 500, completed");
}

#[test]
fn its_audio_is_no_playback_and_its_work_is_wanted_later() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("one").found(NOTHING).thinks("Hello there, my friend. How are you?");
    assert_eq!(asks(&mut desk, true), Ok(()));
    let (response, wanted) = beside(&mut desk);
    assert!(wanted > due(&desk, false));
    think(&mut desk, &response, "A long summary of everything that was said.");
    assert!(due(&desk, true) > due(&desk, false));
    let now = desk.now;
    assert_eq!(due(&desk, false), now, "the caller hears nothing yet");
    let spoken = desk.take(|work| match work {
        Output::Speak { response, phrase, beside: true, .. } => Some((response.clone(), *phrase)),
        _ => None,
    });
    desk.tell(Input::Rendered { response: spoken.0, phrase: spoken.1, samples: vec![0.1; 24 * 2_000] });
    assert!(desk.happened().ends_with("audio 2000, completed"));
    // The twelve letters of the first phrase are played when the second is wanted, and nothing else.
    desk.speaks();
    assert_eq!(due(&desk, false), now + Duration::from_millis(12 * 50));
}

#[test]
fn four_are_in_progress_at_most_and_each_can_be_cancelled_by_name() {
    let mut desk = Desk::new(by_hand());
    for _ in 0..4 {
        assert_eq!(asks(&mut desk, false), Ok(()));
    }
    assert_eq!(asks(&mut desk, false), Err("rate_limit_exceeded"));
    assert_eq!(
        desk.ask(Command::CancelResponse(None)),
        Err("response_cancel_not_active"),
        "that is for the conversation"
    );
    let (first, _) = beside(&mut desk);
    desk.happened();
    assert_eq!(desk.ask(Command::CancelResponse(Some(first.clone()))), Ok(()));
    assert_eq!(desk.happened(), "ended: cancelled");
    think(&mut desk, &first, "Too late.");
    assert_eq!(desk.ask(Command::CancelResponse(Some(first))), Err("response_cancel_not_active"));
    assert_eq!((asks(&mut desk, true), desk.happened().as_str()), (Ok(()), "created"));
    // The conversation has its own.
    assert_eq!(desk.ask(Command::CreateResponse(Box::default())), Ok(()));
    assert_eq!(desk.ask(Command::CreateResponse(Box::default())), Err("conversation_already_has_active_response"));
    assert_eq!(desk.ask(Command::CancelResponse(None)), Ok(()));
    assert_eq!(desk.happened(), "created, ended: cancelled");
}

#[test]
fn on_one_track_what_is_spoken_waits_in_line_and_lets_the_caller_go_first() {
    let mut desk = Desk::new(Settings { one_track: true, ..settings() });
    desk.hears("####..........").transcript("one").found(NOTHING).thinks("First.");
    for _ in 0..4 {
        assert_eq!(desk.ask(Command::CreateResponse(Box::new(Wish { out_of_band: true, ..Wish::default() }))), Ok(()));
    }
    assert_eq!(asks(&mut desk, true), Err("rate_limit_exceeded"), "no more than four wait");
    desk.happened();
    desk.speaks();
    assert!(desk.happened().ends_with("said `First.`, audio 300, completed, created"));
    // The caller is answered before the others.
    desk.wait(400).hears("####..........").transcript("two");
    desk.thinks("Beside one.").speaks();
    desk.found(NOTHING).thinks("Second.").speaks();
    for said in ["two", "three", "four"] {
        desk.thinks(&format!("Beside {said}.")).speaks();
    }
    let happened = desk.happened();
    let order: Vec<&str> = happened.split('`').skip(1).step_by(2).filter(|words| words.ends_with('.')).collect();
    assert_eq!(order, ["Beside one.", "Second.", "Beside two.", "Beside three.", "Beside four."], "{happened}");
    assert_eq!(desk.heard_by_caller(), ["First.", "Second."], "what stands in the conversation");
    // What is written needs no ear.
    desk.wait(400).hears("####..........").transcript("three").found(NOTHING);
    desk.happened();
    assert_eq!(asks(&mut desk, false), Ok(()));
    let (response, _) = beside(&mut desk);
    think(&mut desk, &response, "Written.");
    assert_eq!(desk.happened(), "created, output, said `Written.`, completed");
}

#[test]
fn all_of_them_wait_for_the_notice() {
    let mut desk = Desk::new(Settings { notice: Some("This is recorded.".into()), ..settings() });
    assert_eq!((asks(&mut desk, false), asks(&mut desk, true)), (Ok(()), Ok(())));
    assert_eq!(desk.happened(), "created", "the notice");
    desk.speaks();
    assert_eq!(desk.happened(), "output, said `This is recorded.`, audio 850, completed, created, created");
    assert!(desk.work.iter().all(|work| matches!(work, Output::Generate { beside: true, .. })), "{:?}", desk.work);
}

#[test]
fn they_hand_nobody_over_and_fail_alone() {
    let mut desk = Desk::new(by_hand());
    let message = Message { role: Role::User, text: Pii::new("a person please".into()) };
    assert_eq!(desk.ask(Command::CreateItem { id: None, place: None, given: Given::Message(message) }), Ok(()));
    let undirected = Wish { out_of_band: true, spoken: Some(false), ..Wish::default() };
    assert_eq!(desk.ask(Command::CreateResponse(Box::new(undirected))), Ok(()));
    desk.happened();
    desk.found(Found::HandOver("One moment.".into()));
    assert_eq!(desk.happened(), "output, said `One moment.`, completed");
    assert_eq!((asks(&mut desk, false), asks(&mut desk, false)), (Ok(()), Ok(())));
    let (response, _) = beside(&mut desk);
    desk.happened();
    desk.tell(Input::Failed { response, fault: Fault { code: "broke".into(), message: "it broke".into() } });
    assert_eq!(desk.happened(), "ended: broke");
    // One that is never thought is given up.
    let deadline = desk.call.deadline().expect("a deadline");
    desk.now = deadline;
    desk.tell(Input::Tick);
    assert_eq!((desk.happened().as_str(), desk.call.deadline()), ("ended: timeout", None));
}

/// One thing that happens. Numbers choose among what is possible at that moment.
#[derive(Debug, Clone)]
enum Step {
    Frames(u8, bool),
    Work(u8, bool),
    Wait(u16),
    Create,
    Cancel,
    Commit,
    Type,
    Press(char),
    AskBeside(bool, bool),
    WorkBeside(u8, bool),
    CancelBeside(u8),
}

impl Step {
    fn is_beside(&self) -> bool {
        matches!(self, Self::AskBeside(..) | Self::WorkBeside(..) | Self::CancelBeside(_))
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u8..30, any::<bool>()).prop_map(|(n, speech)| Step::Frames(n, speech)),
        8 => (any::<u8>(), prop::bool::weighted(0.1)).prop_map(|(n, fails)| Step::Work(n, fails)),
        2 => (0u16..20_000).prop_map(Step::Wait),
        2 => Just(Step::Create),
        1 => Just(Step::Cancel),
        1 => Just(Step::Commit),
        1 => Just(Step::Type),
        1 => prop::sample::select(vec!['1', '#']).prop_map(Step::Press),
        4 => any::<(bool, bool)>().prop_map(|(spoken, directed)| Step::AskBeside(spoken, directed)),
        8 => (any::<u8>(), prop::bool::weighted(0.1)).prop_map(|(n, fails)| Step::WorkBeside(n, fails)),
        1 => any::<u8>().prop_map(Step::CancelBeside),
    ]
}

/// A call, and what it tells and asks for besides what is beside the conversation.
struct Twin {
    call: Call,
    now: Duration,
    work: Vec<Output>,
    work_beside: Vec<Output>,
    beside: BTreeSet<ResponseId>,
    /// Names in the order in which they came up, so that two calls which made different numbers of them can be compared.
    names: BTreeMap<String, usize>,
    log: Vec<String>,
}

impl Twin {
    fn new() -> Self {
        Self {
            call: Call::new(Settings { greeting: Some("Hello there.".into()), ..settings() }, "b"),
            now: Duration::ZERO,
            work: vec![],
            work_beside: vec![],
            beside: BTreeSet::new(),
            names: BTreeMap::new(),
            log: vec![],
        }
    }

    fn take(&mut self, step: &Step) {
        self.now += Duration::from_millis(1);
        match step {
            Step::Frames(n, speech) => {
                for _ in 0..*n {
                    self.now += Duration::from_millis(FRAME_MS);
                    self.call.hear(self.now, 512).expect("room");
                    if self.call.listens_from().is_some() {
                        self.call.handle(self.now, frames(&self.call, if *speech { 0.9 } else { 0.05 }));
                    }
                    self.drain();
                }
            }
            Step::Work(n, fails) => self.work_on(*n, *fails, false),
            Step::WorkBeside(n, fails) => self.work_on(*n, *fails, true),
            Step::Wait(ms) => {
                self.now += Duration::from_millis((*ms).into());
                self.call.handle(self.now, Input::Tick);
            }
            Step::Create => self.ask(Command::CreateResponse(Box::default())),
            Step::Cancel => self.ask(Command::CancelResponse(None)),
            Step::Commit => self.ask(Command::Commit),
            Step::Type => {
                let message = Message { role: Role::User, text: Pii::new("typed words".to_owned()) };
                self.ask(Command::CreateItem { id: None, place: None, given: Given::Message(message) });
            }
            Step::Press(sign) => self.ask(Command::Press(Key::new(*sign).expect("a key"))),
            Step::AskBeside(spoken, directed) => {
                let instructions = wish(*spoken).instructions.filter(|_| *directed);
                self.ask(Command::CreateResponse(Box::new(Wish { instructions, ..wish(*spoken) })));
            }
            Step::CancelBeside(n) => {
                let at = usize::from(*n).checked_rem(self.beside.len());
                if let Some(response) = at.and_then(|at| self.beside.iter().nth(at)).cloned() {
                    self.ask(Command::CancelResponse(Some(response)));
                }
            }
        }
        if step.is_beside() {
            // Time passes in both calls.
            self.call.handle(self.now, Input::Tick);
        }
        self.drain();
    }

    fn ask(&mut self, command: Command) {
        let _refused_or_not = self.call.command(self.now, command);
    }

    fn work_on(&mut self, n: u8, fails: bool, beside: bool) {
        let work = if beside { &mut self.work_beside } else { &mut self.work };
        let Some(at) = usize::from(n).checked_rem(work.len()) else { return };
        let fault = Fault { code: "failed".into(), message: "failed".into() };
        let inputs = match work.remove(at) {
            Output::AskTurn { question, .. } => vec![Input::Turn { question, probability: Some(0.5) }],
            Output::Transcribe { item, attempt, .. } => {
                let words = if n.is_multiple_of(5) { "" } else { "some words" };
                vec![Input::Transcript {
                    item,
                    attempt,
                    words: if fails { Err(fault) } else { Ok(Pii::new(words.into())) },
                }]
            }
            Output::Match { response, .. } | Output::Generate { response, .. } | Output::Speak { response, .. }
                if fails =>
            {
                vec![Input::Failed { response, fault }]
            }
            Output::Match { response, .. } => {
                let found = [Found::Answer("A known answer.".into()), NOTHING, NOTHING][usize::from(n) % 3].clone();
                vec![Input::Matched { response, found }]
            }
            Output::Generate { response, .. } => {
                let piece = Pii::new("Well, this is an answer. And more of it.".to_owned());
                let done = Input::TextDone { response: response.clone(), cut_off: n.is_multiple_of(2) };
                vec![Input::Text { response, piece }, done]
            }
            Output::Speak { response, phrase, .. } => {
                vec![Input::Rendered { response, phrase, samples: vec![0.0; usize::from(n) * 100] }]
            }
            other => panic!("{other:?}"),
        };
        for input in inputs {
            self.call.handle(self.now, input);
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.call.poll_output() {
            if let Output::Event(Event::ResponseCreated(about)) = &output
                && !about.in_conversation
            {
                assert!(self.beside.insert(about.response.clone()), "created once");
                assert!(self.beside.len() <= 4, "more than four at once");
                continue;
            }
            let of = match &output {
                Output::Match { response, .. }
                | Output::Generate { response, .. }
                | Output::Speak { response, .. }
                | Output::StopGenerating { response }
                | Output::Audio { response, .. }
                | Output::Cancel { response }
                | Output::Hush { response } => Some(response),
                Output::Event(Event::OutputStarted { about, .. } | Event::Said { about, .. }) => Some(&about.response),
                Output::Event(Event::ResponseEnded(ended)) => Some(&ended.about.response),
                _ => None,
            };
            let beside = of.is_some_and(|response| self.beside.contains(response));
            if !beside {
                let text = self.with_names(&format!("{:?} {output:?}", self.now));
                self.log.push(text);
            }
            match &output {
                Output::Event(Event::ResponseEnded(ended)) if beside => {
                    assert_ne!(ended.status, Status::Interrupted, "nobody speaks over it");
                    assert!(self.beside.remove(&ended.about.response));
                }
                Output::Cancel { response } => self.drop_work(|of, _| of == response),
                Output::Hush { response } => {
                    self.drop_work(|of, work| of == response && matches!(work, Output::Speak { .. }))
                }
                Output::GiveUpWords { item } | Output::Transcribe { item, .. } => {
                    self.work.retain(|work| !matches!(work, Output::Transcribe { item: of, .. } if of == item));
                }
                _ => {}
            }
            if matches!(
                output,
                Output::AskTurn { .. }
                    | Output::Transcribe { .. }
                    | Output::Match { .. }
                    | Output::Generate { .. }
                    | Output::Speak { .. }
            ) {
                if beside {
                    let wanted = |work: &Output| match work {
                        Output::Match { due, .. } | Output::Generate { due, .. } | Output::Speak { due, .. } => {
                            Some(*due)
                        }
                        _ => None,
                    };
                    let last = self.work.iter().filter_map(wanted).max();
                    assert!(wanted(&output) > last, "{output:?} is wanted before {last:?}");
                    self.work_beside.push(output);
                } else {
                    self.work.push(output);
                }
            }
        }
    }

    fn drop_work(&mut self, is: impl Fn(&ResponseId, &Output) -> bool) {
        for list in [&mut self.work, &mut self.work_beside] {
            list.retain(|work| match work {
                Output::Match { response, .. } | Output::Generate { response, .. } | Output::Speak { response, .. } => {
                    !is(response, work)
                }
                _ => true,
            });
        }
    }

    fn with_names(&mut self, text: &str) -> String {
        let mut told = String::new();
        let mut rest = text;
        while let Some(at) = ["resp_b", "item_b", "call_b"].iter().filter_map(|name| rest.find(name)).min() {
            let (before, from) = rest.split_at(at);
            let (name, after) = from.split_at("resp_b00000".len());
            let next = self.names.len();
            let number = *self.names.entry(name.to_owned()).or_insert(next);
            told.push_str(&format!("{before}{}{number}", &name[..5]));
            rest = after;
        }
        told + rest
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_conversation_is_the_same_without_them(steps in prop::collection::vec(step(), 1..120)) {
        let (mut with, mut without) = (Twin::new(), Twin::new());
        for step in &steps {
            with.take(step);
            if step.is_beside() {
                without.now += Duration::from_millis(1);
                without.call.handle(without.now, Input::Tick);
                without.drain();
            } else {
                without.take(step);
            }
            prop_assert_eq!(with.now, without.now);
            prop_assert_eq!(&with.log, &without.log);
            with.log.clear();
            without.log.clear();
        }
        // Time alone ends them.
        for _ in 0..64 {
            let Some(due) = with.call.deadline() else { break };
            with.now = with.now.max(due);
            with.call.handle(with.now, Input::Tick);
            with.drain();
        }
        prop_assert!(with.beside.is_empty(), "{:?}", with.beside);
    }
}
