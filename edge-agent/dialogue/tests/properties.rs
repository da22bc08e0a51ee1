//! Whatever happens, in whatever order: each response ends exactly once, no audio follows its end, nothing grows without bound.

use nearfield_dialogue::{
    call::{BUFFER_MAX, Call, TRANSCRIBING_MAX, WORK_MAX},
    events::{Command, Event, Fault, Found, Input, Output, Wish},
    history::{ITEMS_MAX, Role},
    ids::{ItemId, ResponseId},
    settings::{EndOfTurn, Settings, TurnDetection},
};
use nearfield_shared::pii::Pii;
use proptest::prelude::*;
use std::{collections::BTreeMap, time::Duration};

/// One thing that happens. Numbers choose among what is possible at that moment.
#[derive(Debug, Clone)]
enum Step {
    Speech(u8),
    Silence(u8),
    AudioWithoutFrames(u16),
    DoWork(u8),
    FailWork(u8),
    RepeatWork(u8),
    NeverDoWork(u8),
    Wait(u32),
    Commit,
    Clear,
    Type,
    Create(bool),
    Cancel,
    CancelOther,
    Truncate(u8, u32),
    Delete(u8),
    ByHand(bool),
    Greet,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u8..30).prop_map(Step::Speech),
        6 => (1u8..40).prop_map(Step::Silence),
        1 => any::<u16>().prop_map(Step::AudioWithoutFrames),
        16 => any::<u8>().prop_map(Step::DoWork),
        2 => any::<u8>().prop_map(Step::FailWork),
        2 => any::<u8>().prop_map(Step::RepeatWork),
        1 => any::<u8>().prop_map(Step::NeverDoWork),
        2 => (0u32..40_000).prop_map(Step::Wait),
        2 => Just(Step::Commit),
        1 => Just(Step::Clear),
        1 => Just(Step::Type),
        3 => any::<bool>().prop_map(Step::Create),
        2 => Just(Step::Cancel),
        1 => Just(Step::CancelOther),
        1 => (any::<u8>(), 0u32..5_000).prop_map(|(n, ms)| Step::Truncate(n, ms)),
        1 => any::<u8>().prop_map(Step::Delete),
        1 => any::<bool>().prop_map(Step::ByHand),
        1 => Just(Step::Greet),
    ]
}

struct World {
    call: Call,
    now: Duration,
    work: Vec<Output>,
    done: Vec<Input>,
    /// Responses: whether each has ended.
    responses: BTreeMap<ResponseId, bool>,
    arrived: u64,
    released: u64,
}

impl World {
    fn new() -> Self {
        Self {
            call: Call::new(settings(false), "p"),
            now: Duration::ZERO,
            work: vec![],
            done: vec![],
            responses: BTreeMap::new(),
            arrived: 0,
            released: 0,
        }
    }

    fn take(&mut self, step: &Step) {
        self.now += Duration::from_millis(1);
        match step {
            Step::Speech(n) => self.frames(*n, 0.9),
            Step::Silence(n) => self.frames(*n, 0.1),
            Step::AudioWithoutFrames(n) => self.hear(u64::from(*n)),
            Step::DoWork(n) => self.work_on(*n, false),
            Step::FailWork(n) => self.work_on(*n, true),
            Step::RepeatWork(n) => {
                if let Some(input) = pick(&self.done, *n).cloned() {
                    self.call.handle(self.now, input);
                }
            }
            Step::NeverDoWork(n) => {
                if !self.work.is_empty() {
                    self.work.remove(usize::from(*n) % self.work.len());
                }
            }
            Step::Wait(ms) => {
                self.now += Duration::from_millis((*ms).into());
                self.call.handle(self.now, Input::Tick);
            }
            Step::Commit => self.ask(Command::Commit),
            Step::Clear => self.ask(Command::Clear),
            Step::Type => {
                let text = Pii::new("typed words".to_owned());
                self.ask(Command::CreateItem { id: None, place: None, role: Role::User, text });
            }
            Step::Create(out_of_band) => {
                self.ask(Command::CreateResponse(Box::new(Wish { out_of_band: *out_of_band, ..Wish::default() })));
            }
            Step::Cancel => self.ask(Command::CancelResponse(None)),
            Step::CancelOther => self.ask(Command::CancelResponse(Some(ResponseId::from_client("other")))),
            Step::Truncate(n, audio_end_ms) => {
                if let Some(item) = self.item(*n) {
                    self.ask(Command::TruncateItem { item, audio_end_ms: *audio_end_ms });
                }
            }
            Step::Delete(n) => {
                if let Some(item) = self.item(*n) {
                    self.ask(Command::DeleteItem(item));
                }
            }
            Step::ByHand(by_hand) => self.ask(Command::Update(Box::new(settings(*by_hand)))),
            Step::Greet => self.call.greet(self.now),
        }
        self.drain();
    }

    fn item(&self, n: u8) -> Option<ItemId> {
        pick(&self.call.history().items().collect::<Vec<_>>(), n).map(|item| item.id.clone())
    }

    fn ask(&mut self, command: Command) {
        let _refused_or_not = self.call.command(self.now, command);
    }

    fn hear(&mut self, samples: u64) {
        if self.call.hear(self.now, samples).is_ok() {
            self.arrived += samples;
        }
    }

    fn frames(&mut self, n: u8, probability: f32) {
        for _ in 0..n {
            self.now += Duration::from_millis(32);
            self.hear(512);
            self.call.handle(self.now, Input::Frames(vec![probability]));
            self.drain();
        }
    }

    fn work_on(&mut self, n: u8, fails: bool) {
        if self.work.is_empty() {
            return;
        }
        let work = self.work.remove(usize::from(n) % self.work.len());
        let fault = || Fault { code: "failed".into(), message: "failed".into() };
        let mut inputs = Vec::new();
        match work {
            Output::AskTurn { question, .. } => {
                inputs.push(Input::Turn { question, probability: (!fails).then_some(f32::from(n) / 255.0) });
            }
            Output::Transcribe { item, .. } => {
                let words = if n.is_multiple_of(4) { "" } else { "some words" };
                let words = if fails { Err(fault()) } else { Ok(Pii::new(words.to_owned())) };
                inputs.push(Input::Transcript { item, words });
            }
            Output::Match { response, .. } | Output::Generate { response, .. } | Output::Speak { response, .. }
                if fails =>
            {
                inputs.push(Input::Failed { response, fault: fault() });
            }
            Output::Match { response, .. } => {
                let found = match n % 3 {
                    0 => Found::Answer("A known answer. With two sentences.".into()),
                    1 => Found::HandOver("One moment.".into()),
                    _ => Found::Nothing { facts: vec!["a fact".into()] },
                };
                inputs.push(Input::Matched { response, found });
            }
            Output::Generate { response, .. } => {
                for piece in ["Well, ", "this is ", "an answer. ", "And more "].iter().take(usize::from(n) % 5) {
                    inputs.push(Input::Text { response: response.clone(), piece: Pii::new((*piece).to_owned()) });
                }
                if n.is_multiple_of(7) {
                    inputs.push(Input::Text { response: response.clone(), piece: Pii::new("endless ".repeat(2_000)) });
                }
                inputs.push(Input::TextDone { response, cut_off: n.is_multiple_of(2) });
            }
            Output::Speak { response, phrase, .. } => {
                inputs.push(Input::Rendered { response, phrase, samples: vec![0.0; usize::from(n) * 100] });
            }
            _ => {}
        }
        for input in inputs {
            self.done.push(input.clone());
            self.call.handle(self.now, input);
            self.drain();
        }
    }

    fn drain(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.call.poll_output() {
            outputs += 1;
            match &output {
                Output::Event(event) => self.event(event),
                Output::Audio { response, .. } => {
                    assert_eq!(
                        self.responses.get(response),
                        Some(&false),
                        "audio of a response that is not in progress"
                    );
                }
                Output::Transcribe { range, .. } | Output::AskTurn { range, .. } => {
                    assert!(range.start >= self.released, "{range:?} was released up to {}", self.released);
                    assert!(range.start < range.end && range.end <= self.arrived, "{range:?} of {}", self.arrived);
                }
                Output::Release { before } => {
                    assert!(*before > self.released, "release only goes forward");
                    self.released = *before;
                }
                Output::Cancel { response } => self.work.retain(|w| !belongs(w, response)),
                _ => {}
            }
            if let Output::Match { response, .. } | Output::Generate { response, .. } | Output::Speak { response, .. } =
                &output
            {
                assert_eq!(self.responses.get(response), Some(&false), "work for a response that is not in progress");
            }
            if matches!(
                output,
                Output::AskTurn { .. }
                    | Output::Transcribe { .. }
                    | Output::Match { .. }
                    | Output::Generate { .. }
                    | Output::Speak { .. }
            ) {
                self.work.push(output);
            }
        }
        assert!(outputs <= 64, "one input asked for {outputs} things");
        assert!(self.call.history().len() <= ITEMS_MAX);
        assert!(self.arrived - self.released.min(self.arrived) <= BUFFER_MAX);
        assert!(self.responses.values().filter(|ended| !**ended).count() <= 1, "one answer at a time");
        let transcripts = self.work.iter().filter(|w| matches!(w, Output::Transcribe { .. })).count();
        assert!(transcripts <= 64 * TRANSCRIBING_MAX, "work that is asked for is bounded");
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::ResponseCreated(about) => {
                assert!(self.responses.insert(about.response.clone(), false).is_none(), "created once");
            }
            Event::ResponseEnded(ended) => {
                let before = self.responses.insert(ended.about.response.clone(), true);
                assert_eq!(before, Some(false), "ended once, after it was created");
                let ledger = &ended.ledger;
                if let Some(first_audio) = ledger.commit_to_first_audio_ms {
                    let stages = [
                        ledger.transcribe_ms,
                        ledger.match_ms,
                        ledger.first_text_ms,
                        ledger.first_phrase_ms,
                        ledger.first_render_ms,
                    ];
                    assert_eq!(stages.iter().flatten().sum::<u32>(), first_audio, "{ledger:?}");
                    assert!(first_audio <= ledger.total_ms);
                }
            }
            Event::Said { about, .. } | Event::OutputStarted { about, .. } => {
                assert_eq!(self.responses.get(&about.response), Some(&false));
            }
            _ => {}
        }
    }
}

fn belongs(work: &Output, id: &ResponseId) -> bool {
    match work {
        Output::Match { response, .. } | Output::Generate { response, .. } | Output::Speak { response, .. } => {
            response == id
        }
        _ => false,
    }
}

fn pick<T>(from: &[T], n: u8) -> Option<&T> {
    from.get(usize::from(n).checked_rem(from.len())?)
}

fn settings(by_hand: bool) -> Settings {
    let by = EndOfTurn::Meaning { silence_ms_max: 900 };
    Settings {
        turn_detection: (!by_hand).then(|| TurnDetection { by, ..TurnDetection::default() }),
        greeting: Some("Hello there.".into()),
        ..Settings::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_response_ends_exactly_once(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        // However it was left, time alone ends what is in progress: nothing hangs.
        for _ in 0..64 {
            let Some(due) = world.call.deadline() else { break };
            world.now = world.now.max(due) + WORK_MAX;
            world.call.handle(world.now, Input::Tick);
            world.drain();
        }
        prop_assert_eq!(world.call.deadline(), None);
        prop_assert!(world.responses.values().all(|ended| *ended), "{:?}", world.responses);
    }
}
