//! Whatever happens, in whatever order: each response ends exactly once, no audio follows its end, nothing grows without bound.

use nearfield_dialogue::{
    call::{BUFFER_MAX, Call, DEAF_MAX, TRANSCRIBING_MAX, WORK_MAX},
    events::{Command, Event, Fault, Found, Given, HandOverEnd, Input, Output, Status, Wish},
    history::{ITEMS_MAX, Message, Role},
    ids::{ItemId, ResponseId},
    keys::Key,
    ledger::AnsweredBy,
    listen::FRAME,
    settings::{EndOfTurn, HandingOver, Settings, Transfers, TurnDetection},
    tools::{DoneBy, Tool, ToolChoice, Tools},
};
use nearfield_shared::pii::Pii;
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// One thing that happens. Numbers choose among what is possible at that moment.
#[derive(Debug, Clone)]
enum Step {
    Speech(u8),
    Silence(u8),
    AudioWithoutFrames(u16),
    LoseFrames(u8),
    Backlog(u16),
    RepeatFrames(u8, bool),
    DoWork(u8),
    FailWork(u8),
    RepeatWork(u8),
    NeverDoWork(u8),
    Wait(u32),
    Commit,
    Clear,
    Type,
    GiveAudio,
    Create(u8),
    EndHandOver(bool),
    Resume,
    PutThrough(bool),
    Cancel,
    CancelOther,
    StopPlayback,
    Truncate(u8, u32),
    Delete(u8),
    ByHand(bool),
    Greet,
    Press(char),
    Return(u8),
    Tools(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u8..30).prop_map(Step::Speech),
        6 => (1u8..40).prop_map(Step::Silence),
        1 => any::<u16>().prop_map(Step::AudioWithoutFrames),
        1 => (1u8..30).prop_map(Step::LoseFrames),
        1 => (0u16..800).prop_map(Step::Backlog),
        1 => (1u8..30, any::<bool>()).prop_map(|(n, speech)| Step::RepeatFrames(n, speech)),
        16 => any::<u8>().prop_map(Step::DoWork),
        2 => any::<u8>().prop_map(Step::FailWork),
        2 => any::<u8>().prop_map(Step::RepeatWork),
        1 => any::<u8>().prop_map(Step::NeverDoWork),
        2 => (0u32..40_000).prop_map(Step::Wait),
        2 => Just(Step::Commit),
        1 => Just(Step::Clear),
        1 => Just(Step::Type),
        1 => Just(Step::GiveAudio),
        4 => any::<u8>().prop_map(Step::Create),
        2 => any::<bool>().prop_map(Step::EndHandOver),
        1 => Just(Step::Resume),
        1 => any::<bool>().prop_map(Step::PutThrough),
        2 => Just(Step::Cancel),
        1 => Just(Step::CancelOther),
        1 => Just(Step::StopPlayback),
        1 => (any::<u8>(), 0u32..5_000).prop_map(|(n, ms)| Step::Truncate(n, ms)),
        1 => any::<u8>().prop_map(Step::Delete),
        1 => any::<bool>().prop_map(Step::ByHand),
        1 => Just(Step::Greet),
        2 => prop::sample::select(vec!['0', '5', '*', '#', 'A']).prop_map(Step::Press),
        1 => any::<u8>().prop_map(Step::Return),
        1 => any::<u8>().prop_map(Step::Tools),
    ]
}

/// What holds for all of a call.
#[derive(Debug, Clone, Copy)]
struct Kind {
    notice: bool,
    one_track: bool,
    hears_with_person: bool,
    transfers: Transfers,
}

struct World {
    call: Call,
    kind: Kind,
    asked_to_put_through: bool,
    /// Responses in progress outside of the conversation, and whether each is spoken.
    beside: BTreeMap<ResponseId, bool>,
    /// Whether the notice, where there is one, was said to its end; and whether it cannot be said.
    told: bool,
    failed: bool,
    now: Duration,
    work: Vec<Output>,
    done: Vec<Input>,
    /// Responses: whether each has ended.
    responses: BTreeMap<ResponseId, bool>,
    arrived: u64,
    released: u64,
    /// Turns that the detector ended and whose words are not known yet.
    ended: Vec<ItemId>,
    /// Turns with words, or whose words could not be found, that no answer was begun for.
    unanswered: Vec<ItemId>,
    /// The item of an answer that the caller cut short, while no other answer began after it.
    cut: Option<Option<ItemId>>,
    /// Whether the answer in progress still waits for words: all that come go into it.
    waiting: bool,
    /// Answers that were thought ahead and thrown away.
    thrown_away: BTreeSet<ResponseId>,
    tools: Tools,
    /// Names of calls that were made.
    calls: Vec<String>,
}

impl World {
    fn new(kind: Kind) -> Self {
        Self {
            call: Call::new(settings(false, Tools::default(), kind), "p"),
            kind,
            asked_to_put_through: false,
            beside: BTreeMap::new(),
            told: !kind.notice,
            failed: false,
            now: Duration::ZERO,
            work: vec![],
            done: vec![],
            responses: BTreeMap::new(),
            arrived: 0,
            released: 0,
            ended: vec![],
            unanswered: vec![],
            cut: None,
            waiting: false,
            thrown_away: BTreeSet::new(),
            tools: Tools::default(),
            calls: vec![],
        }
    }

    fn take(&mut self, step: &Step) {
        self.now += Duration::from_millis(1);
        match step {
            Step::Speech(n) => self.frames(*n, 0.9),
            Step::Silence(n) => self.frames(*n, 0.1),
            Step::AudioWithoutFrames(n) => self.hear(u64::from(*n)),
            Step::Backlog(ms) => self.call.note_backlog(Duration::from_millis((*ms).into())),
            Step::LoseFrames(n) => {
                self.hear(u64::from(*n) * FRAME);
                self.detector_tells(u64::from(*n) * FRAME, vec![]);
                self.detector_tells(u64::from(*n) * FRAME, vec![0.1]);
            }
            Step::RepeatFrames(n, speech) => {
                let back = u64::from(*n) * FRAME;
                let from = self.call.listens_from().unwrap_or_default().saturating_sub(back);
                let probabilities = vec![if *speech { 0.9 } else { 0.1 }; usize::from(*n)];
                self.call.handle(self.now, Input::Frames { from, probabilities });
            }
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
            Step::Commit => {
                // From here on the client decides about answers.
                self.cut = None;
                self.ask(Command::Commit);
            }
            Step::Clear => self.ask(Command::Clear),
            Step::Type => {
                let message = Message { role: Role::User, text: Pii::new("typed words".to_owned()) };
                self.ask(Command::CreateItem { id: None, place: None, given: Given::Message(message) });
            }
            Step::GiveAudio => {
                let given = Given::Audio(Pii::new(vec![0.0; 8_000]));
                self.ask(Command::CreateItem { id: None, place: None, given });
            }
            Step::Press(sign) => self.ask(Command::Press(Key::new(*sign).expect("a key"))),
            Step::Return(n) => {
                let call_id = pick(&self.calls, *n).cloned().unwrap_or_else(|| "nobody's".into());
                let given = Given::Result { call_id, output: Pii::new("it is done".to_owned()) };
                self.ask(Command::CreateItem { id: None, place: None, given });
            }
            Step::Tools(choice) => {
                self.tools = tools(*choice);
                self.ask(Command::Update(Box::new(self.settings(self.call.settings().turn_detection.is_none()))));
            }
            Step::Create(kind) => {
                let (out_of_band, spoken) =
                    (!kind.is_multiple_of(3), (kind % 3 == 2).then_some(kind.is_multiple_of(2)));
                self.ask(Command::CreateResponse(Box::new(Wish { out_of_band, spoken, ..Wish::default() })));
            }
            Step::EndHandOver(accepted) => {
                let end = if *accepted { HandOverEnd::Accepted } else { HandOverEnd::Closed };
                self.ask(Command::EndHandOver(end));
            }
            Step::Resume => self.ask(Command::Resume),
            Step::PutThrough(done) => {
                if self.asked_to_put_through {
                    self.call.handle(self.now, Input::PutThrough { done: *done });
                }
            }
            Step::Cancel => self.ask(Command::CancelResponse(None)),
            Step::StopPlayback => {
                self.cut = None;
                self.ask(Command::StopPlayback);
            }
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
            Step::ByHand(by_hand) => {
                self.cut = None;
                self.ask(Command::Update(Box::new(self.settings(*by_hand))));
            }
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
            self.detector_tells(0, vec![probability]);
        }
    }

    /// The detector goes on, this many samples behind where it was.
    fn detector_tells(&mut self, gap: u64, probabilities: Vec<f32>) {
        if let Some(from) = self.call.listens_from() {
            self.call.handle(self.now, Input::Frames { from: from + gap, probabilities });
        }
        self.drain();
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
            Output::Transcribe { item, attempt, .. } | Output::TranscribeGiven { item, attempt, .. } => {
                let words = if n.is_multiple_of(4) { "" } else { "some words" };
                let words = if fails { Err(fault()) } else { Ok(Pii::new(words.to_owned())) };
                inputs.push(Input::Transcript { item, attempt, words });
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
                    2 if n > 200 => Found::Forbidden { say: "I may not say.".into(), hand_over: true },
                    _ => Found::Nothing { facts: vec!["a fact".into()] },
                };
                inputs.push(Input::Matched { response, found });
            }
            Output::Generate { response, .. } => {
                for piece in ["Well, ", "this is ", "an answer. ", "And more "].iter().take(usize::from(n) % 5) {
                    inputs.push(Input::Text { response: response.clone(), piece: Pii::new((*piece).to_owned()) });
                }
                let calls = ["<tool_call>[{\"name\": \"f\", ", "\"arguments\": {}}]</tool", "_call> more"];
                if n.is_multiple_of(3) {
                    let call =
                        |piece: &&str| Input::Text { response: response.clone(), piece: Pii::new((*piece).into()) };
                    inputs.extend(calls.iter().take(1 + usize::from(n) % 4).map(call));
                }
                if n.is_multiple_of(7) {
                    inputs.push(Input::Text { response: response.clone(), piece: Pii::new("endless ".repeat(2_000)) });
                }
                inputs.push(Input::TextDone { response, cut_off: n.is_multiple_of(2) });
            }
            Output::CallFunction(call) => {
                let output = if fails { Err("it failed".to_owned()) } else { Ok(Pii::new("five".to_owned())) };
                inputs.push(Input::Returned { call_id: call.call_id, output });
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
                Output::Cancel { response } => {
                    self.work.retain(|w| !belongs(w, response));
                    if !self.responses.contains_key(response) {
                        self.thrown_away.insert(response.clone());
                    }
                }
                Output::Hush { response } => {
                    self.work.retain(|w| !(belongs(w, response) && matches!(w, Output::Speak { .. })));
                }
                Output::GiveUpWords { item } => self.forget_words(item),
                Output::PutThrough => self.asked_to_put_through = true,
                _ => {}
            }
            if let Output::Match { response, .. } | Output::Generate { response, .. } | Output::Speak { response, .. } =
                &output
            {
                assert!(!self.thrown_away.contains(response), "work for an answer that was thrown away");
                // What is not created yet is thought ahead.
                assert_ne!(self.responses.get(response), Some(&true), "work for a response that has ended");
                self.waiting &= !self.responses.contains_key(response) || self.beside.contains_key(response);
            }
            if let Output::Transcribe { item, .. } = &output {
                self.forget_words(item);
            }
            if matches!(
                output,
                Output::AskTurn { .. }
                    | Output::Transcribe { .. }
                    | Output::TranscribeGiven { .. }
                    | Output::Match { .. }
                    | Output::Generate { .. }
                    | Output::Speak { .. }
                    | Output::CallFunction(_)
            ) {
                self.work.push(output);
            }
        }
        assert!(outputs <= 64, "one input asked for {outputs} things");
        assert!(self.call.history().len() <= ITEMS_MAX);
        assert!(self.arrived - self.released.min(self.arrived) <= BUFFER_MAX);
        let in_progress = self.responses.values().filter(|ended| !**ended).count();
        // Words of our own outside of the conversation are heard like an answer.
        let beside = self.beside.iter().filter(|(response, _)| self.call.answering() != Some(*response));
        let (beside, spoken) = (beside.clone().count(), beside.filter(|(_, spoken)| **spoken).count());
        assert!(in_progress - beside <= 1, "one answer that is heard at a time");
        assert!(beside <= 4, "four answers beside the conversation at most");
        assert!(spoken == 0 || !self.kind.one_track, "one that is spoken is heard on the one track");
        let transcripts = self.work.iter().filter(|w| matches!(w, Output::Transcribe { .. })).count();
        assert!(transcripts <= 64 * TRANSCRIBING_MAX, "work that is asked for is bounded");
    }

    fn event(&mut self, event: &Event) {
        match event {
            // What is said to a person is answered by them.
            Event::SpeechStopped { item, .. } if !self.call.person_has_call() => self.ended.push(item.clone()),
            Event::Transcribed { item, words, .. } => {
                self.words_of(item, words.reveal().contains(char::is_alphanumeric))
            }
            Event::TranscriptionFailed { item, .. } => self.words_of(item, true),
            Event::ResponseCreated(about) => {
                if about.in_conversation {
                    self.unanswered.clear();
                    self.waiting = true;
                    self.cut = None;
                } else {
                    self.beside.insert(about.response.clone(), about.spoken);
                }
                assert!(self.responses.insert(about.response.clone(), false).is_none(), "created once");
                assert!(!self.thrown_away.contains(&about.response), "an answer that was thrown away begins");
            }
            Event::ResponseEnded(ended) => {
                let before = self.responses.insert(ended.about.response.clone(), true);
                assert_eq!(before, Some(false), "ended once, after it was created");
                for called in &ended.calls {
                    assert_eq!(ended.status, Status::Completed, "only what was completed calls anything");
                    assert!(!self.calls.contains(&called.call.call_id), "each call has a name of its own");
                    self.calls.push(called.call.call_id.clone());
                }
                let notice = ended.ledger.answered_by == Some(AnsweredBy::Notice);
                assert!(self.told || notice, "something else goes before the notice");
                assert!(!notice || !matches!(ended.status, Status::Interrupted | Status::Cancelled), "it was skipped");
                self.told |= notice && ended.status == Status::Completed;
                self.waiting &= !ended.about.in_conversation;
                self.beside.remove(&ended.about.response);
                let own = matches!(ended.ledger.answered_by, Some(AnsweredBy::Greeting | AnsweredBy::Filler));
                if ended.status == Status::Interrupted && !own && !self.call.person_has_call() {
                    self.cut = Some(ended.output.as_ref().map(|said| said.item.clone()));
                }
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
            Event::NoticeFailed => self.failed = true,
            Event::Said { about, .. } | Event::OutputStarted { about, .. } => {
                assert_eq!(self.responses.get(&about.response), Some(&false));
            }
            _ => {}
        }
    }
}

impl World {
    fn settings(&self, by_hand: bool) -> Settings {
        settings(by_hand, self.tools.clone(), self.kind)
    }

    fn forget_words(&mut self, item: &ItemId) {
        self.work.retain(|work| !matches!(work, Output::Transcribe { item: of, .. } if of == item));
    }

    fn words_of(&mut self, item: &ItemId, needs_answer: bool) {
        let before = self.ended.len();
        self.ended.retain(|ended| ended != item);
        if self.ended.len() < before && needs_answer && !self.waiting {
            self.unanswered.push(item.clone());
        }
    }

    /// Nothing more comes from the caller, the client and the workers: time alone passes. Returns how much.
    fn rest(&mut self) -> Duration {
        let from = self.now;
        for _ in 0..64 {
            let Some(due) = self.call.deadline() else { break };
            self.now = self.now.max(due);
            self.call.handle(self.now, Input::Tick);
            self.drain();
        }
        self.now - from
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

fn tools(choice: u8) -> Tools {
    let by = if choice > 127 { DoneBy::Node } else { DoneBy::Client };
    let tool = Tool { by, name: "f".into(), description: String::new(), parameters: serde_json::Map::new() };
    let choice = [ToolChoice::Auto, ToolChoice::None, ToolChoice::Required][usize::from(choice) % 3].clone();
    Tools::new(vec![tool], choice).expect("fine")
}

fn settings(by_hand: bool, tools: Tools, kind: Kind) -> Settings {
    let by = EndOfTurn::Meaning { silence_ms_max: 900 };
    Settings {
        turn_detection: (!by_hand).then(|| TurnDetection { by, ..TurnDetection::default() }),
        one_track: kind.one_track,
        hears_with_person: kind.hears_with_person,
        notice: kind.notice.then(|| "This is a computer. It is recorded.".into()),
        not_spoken: by_hand.then(|| "I only speak English.".into()),
        greeting: Some("Hello there.".into()),
        hand_over: Some(HandingOver {
            words: "I fetch somebody.".into(),
            misunderstandings: 2,
            sentiment: Some(-0.1),
            transfers: kind.transfers,
            waiting: "Please wait.".into(),
            told_every: Duration::from_secs(1),
            wait: Duration::from_secs(3),
            accepted: "Here they are.".into(),
            closed: "Nobody is free.".into(),
        }),
        tools,
        ..Settings::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_response_ends_exactly_once(
        steps in prop::collection::vec(step(), 1..120),
        (notice, one_track, hears_with_person) in any::<(bool, bool, bool)>(),
        transfers in prop::sample::select(vec![Transfers::No, Transfers::ByEnding, Transfers::ByAsking]),
    ) {
        let mut world = World::new(Kind { notice, one_track, hears_with_person, transfers });
        for step in &steps {
            world.take(step);
        }
        // However it was left, time alone ends what is in progress: nothing hangs.
        let took = world.rest();
        prop_assert_eq!(world.call.deadline(), None);
        prop_assert!(world.responses.values().all(|ended| *ended), "{:?}", world.responses);
        // A turn that goes on, its words, two answers, each of which waits in vain at each stage, words to a caller who waits for a
        // person, and four answers beside the conversation.
        prop_assert!(took <= DEAF_MAX + (12 + 4 * 3) * WORK_MAX, "{took:?}");
        prop_assert!(world.ended.is_empty(), "words that are still waited for: {:?}", world.ended);
        prop_assert!(world.failed || world.unanswered.is_empty(), "turns without an answer: {:?}", world.unanswered);
        if let Some(item) = &world.cut {
            let heard = item.as_ref().map(|item| world.call.history().get(item).and_then(|item| item.words()));
            let unheard = heard.is_none() || heard.is_some_and(|words| words.is_some_and(|words| words.is_empty()));
            prop_assert!(!unheard, "an answer of which nothing was heard was cut short for nothing");
        }
    }
}
