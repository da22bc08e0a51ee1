//! The worker and the door under scripted fakes: no model, no device, a clock that the fakes move.

mod admission;
mod cancelling;
mod deaths;
mod inputs;
mod order;
mod overload;
mod proofs;
mod swapping;
mod thread;
mod trying;

use super::door::Door;
use super::golden;
use super::job::{Job, Reply};
use super::stepper::*;
use super::worker::{Turn, Worker};
use super::*;
use nearfield_shared::gguf::{Gguf, GgufWriter};
use nearfield_shared::golden::{GOLDEN_KEY, GoldenCase};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// What the fakes have done, and how they are to misbehave.
#[derive(Clone)]
pub struct Script(Arc<ScriptState>);

struct ScriptState {
    base: Instant,
    now_ms: AtomicU64,
    /// What a step costs, in milliseconds.
    step_ms: AtomicU64,
    events: Mutex<Vec<String>>,
    /// Loads that fail or panic, by model name: each entry is used once.
    bad_loads: Mutex<Vec<(String, BadLoad)>>,
}

#[derive(Clone, Copy)]
pub enum BadLoad {
    Fails,
    Panics,
}

impl Script {
    fn new() -> Self {
        Self(Arc::new(ScriptState {
            base: Instant::now(),
            now_ms: AtomicU64::new(0),
            step_ms: AtomicU64::new(10),
            events: Mutex::default(),
            bad_loads: Mutex::default(),
        }))
    }

    pub fn at(&self, ms: u64) -> Instant {
        self.0.base + Duration::from_millis(ms)
    }

    pub fn now(&self) -> Instant {
        self.at(self.0.now_ms.load(Ordering::SeqCst))
    }

    pub fn pass(&self, ms: u64) {
        self.0.now_ms.fetch_add(ms, Ordering::SeqCst);
    }

    pub fn log(&self, event: impl Into<String>) {
        self.0.events.lock().unwrap().push(event.into());
    }

    /// The events since the last look, in one line.
    pub fn events(&self) -> String {
        std::mem::take(&mut *self.0.events.lock().unwrap()).join(" ")
    }

    pub fn next_load_of(&self, name: &str, bad: BadLoad) {
        self.0.bad_loads.lock().unwrap().push((name.to_owned(), bad));
    }
}

impl Loader for Script {
    fn load(&mut self, stage: Stage, gguf: &Gguf, slots: usize) -> Result<Box<dyn Stepper>, StepError> {
        let name = gguf.str("general.name").unwrap().to_owned();
        let bad = {
            let mut bad = self.0.bad_loads.lock().unwrap();
            bad.iter().position(|(of, _)| *of == name).map(|at| bad.remove(at).1)
        };
        match bad {
            Some(BadLoad::Fails) => return Err(StepError::Model(format!("{name} lacks a tensor"))),
            Some(BadLoad::Panics) => panic!("{name} is broken"),
            None => {}
        }
        self.log(format!("load:{name}"));
        self.pass(self.0.step_ms.load(Ordering::SeqCst));
        let slots = (0..slots).map(|_| None).collect();
        Ok(Box::new(Fake { stage, name, slots, frames_seen: Default::default(), script: self.clone() }))
    }
}

/// A model that does what its input says. A text is worked off one character per step: `P` panics, `E` fails, `S` hangs
/// back (it reports no move), anything else is a step. Audio spells such a text; a VAD frame that begins below zero panics.
struct Fake {
    stage: Stage,
    name: String,
    slots: Vec<Option<Run>>,
    frames_seen: std::collections::BTreeMap<usize, f32>,
    script: Script,
}

struct Run {
    script: VecDeque<char>,
    whole: String,
    frames: VecDeque<[f32; VAD_FRAME_SAMPLES]>,
    found: Vec<f32>,
    left: usize,
}

impl Fake {
    fn one(&mut self, slot: usize) -> Option<Result<Progress, StepError>> {
        let stage = self.stage;
        let run = self.slots[slot].as_mut().expect("a due slot is occupied");
        if stage == Stage::Vad {
            let frame = run.frames.pop_front().expect("a frame");
            assert!(frame[0] >= 0.0, "a scripted panic");
            // The "probability" counts the frames of this stream: it shows whether the state was kept.
            let count = self.frames_seen.entry(slot).or_default();
            *count += 1.0;
            run.found.push(*count);
            let done = run.frames.is_empty();
            return Some(Ok(if done {
                Progress::Done(Output::Probabilities(run.found.clone()))
            } else {
                Progress::Moved
            }));
        }
        let next = run.script.pop_front();
        match next {
            Some('P') => panic!("a scripted panic"),
            Some('E') => return Some(Err(StepError::Model("a scripted failure".into()))),
            Some('S') => return None,
            _ => {}
        }
        run.left = run.left.saturating_sub(1);
        let done = run.script.is_empty() || run.left == 0;
        Some(Ok(match (done, stage) {
            (false, Stage::Llm) => Progress::Piece(next.map(String::from).unwrap_or_default()),
            (false, _) => Progress::Moved,
            (true, Stage::Llm) => Progress::Done(Output::End(next.map(String::from).unwrap_or_default())),
            (true, Stage::Asr) => Progress::Done(Output::Transcript(heard(format!("{}:{}", self.name, run.whole)))),
            (true, Stage::Turn) => Progress::Done(Output::Probabilities(vec![0.5])),
            (true, Stage::Tts) => Progress::Done(Output::Audio(vec![0.0; run.whole.len()])),
            (true, Stage::Embed) => Progress::Done(Output::Vectors(vec![vec![1.0]])),
            (true, Stage::Vad) => unreachable!("answered above"),
        }))
    }
}

/// Audio of the fakes spells its script: each sample is a character code.
pub fn spell(script: &str) -> Vec<f32> {
    script.chars().map(|c| c as u32 as f32).collect()
}

/// The work of transcribing such audio.
pub fn audio(script: &str) -> Work {
    Work::Asr { pcm: spell(script), draft: Vec::new(), words: Default::default(), times: false }
}

/// A transcript of this text.
pub fn heard(text: String) -> Transcript {
    Transcript { text, ..Transcript::default() }
}

impl Stepper for Fake {
    fn resident_bytes(&self) -> usize {
        1_000
    }

    fn begin(&mut self, slot: usize, work: Work) -> Result<(), StepError> {
        assert!(self.slots[slot].is_none(), "slot {slot} of {} is given twice", self.name);
        let mut run = Run {
            script: VecDeque::new(),
            whole: String::new(),
            frames: VecDeque::new(),
            found: vec![],
            left: usize::MAX,
        };
        match work {
            Work::Frames(frames) => run.frames = frames,
            Work::Turn(pcm) | Work::Asr { pcm, .. } => {
                run.whole = pcm.iter().filter_map(|s| char::from_u32(*s as u32)).collect()
            }
            Work::Llm { messages, max_tokens, .. } => {
                run.whole = messages[0].content.clone();
                run.left = max_tokens;
            }
            Work::Tts { text, .. } => run.whole = text,
            Work::Embed(sentences) => run.whole = sentences.concat(),
        }
        if run.whole == "refuse" {
            return Err(StepError::BadInput("a scripted refusal".into()));
        }
        assert_ne!(run.whole, "panic at begin");
        run.script = run.whole.chars().collect();
        self.slots[slot] = Some(run);
        Ok(())
    }

    fn step(&mut self, due: &[usize]) -> Moves {
        let batch: Vec<usize> =
            if matches!(self.stage, Stage::Vad | Stage::Llm) { due.to_vec() } else { due[..1].to_vec() };
        let names: Vec<String> = batch.iter().map(|slot| self.slots[*slot].as_ref().unwrap().whole.clone()).collect();
        self.script.log(format!(
            "{}[{}]",
            self.name,
            if self.stage == Stage::Vad {
                batch.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
            } else {
                names.join(",")
            }
        ));
        self.script.pass(self.script.0.step_ms.load(Ordering::SeqCst));
        batch.into_iter().filter_map(|slot| Some((slot, self.one(slot)?))).collect()
    }

    fn end(&mut self, slot: usize) {
        assert!(self.slots[slot].take().is_some(), "slot {slot} of {} ends twice", self.name);
    }

    fn reset(&mut self, slot: usize) {
        self.frames_seen.remove(&slot);
    }

    fn forget_callers(&mut self) {
        if self.stage == Stage::Llm {
            self.script.log("forget");
        }
    }

    fn prove(&mut self, case: &GoldenCase) -> Result<Box<dyn Proof>, StepError> {
        let GoldenCase::Embed { text, .. } = case else { return Err(StepError::Model("another stage's case".into())) };
        Ok(Box::new(FakeProof { script: text.chars().collect(), log: self.script.clone() }))
    }
}

struct FakeProof {
    script: VecDeque<char>,
    log: Script,
}

impl Proof for FakeProof {
    fn step(&mut self) -> Result<Option<CaseOutcome>, StepError> {
        self.log.log("prove");
        self.log.pass(10);
        match self.script.pop_front() {
            Some('P') => panic!("a scripted panic"),
            Some('E') => Err(StepError::Model("a scripted failure".into())),
            Some('X') => Ok(Some(golden::same_direction(&[1.0, 0.0], &[0.0, 1.0], 0.999))),
            Some(_) => Ok(None),
            None => Ok(Some(golden::same_direction(&[1.0], &[1.0], 0.999))),
        }
    }
}

/// A model file of the fakes.
pub fn file(name: &str, golden: &[&str]) -> Gguf {
    let mut writer = GgufWriter::new("fake");
    writer.meta("general.name", name);
    if !golden.is_empty() {
        let cases: Vec<GoldenCase> = golden
            .iter()
            .map(|text| GoldenCase::Embed { text: (*text).to_owned(), embedding: vec![1.0], cosine_min: 0.9 })
            .collect();
        writer.meta(GOLDEN_KEY, serde_json::to_string(&cases).unwrap());
    }
    Gguf::parse(writer.to_bytes()).unwrap()
}

/// A worker driven by hand.
pub struct Bench {
    pub script: Script,
    pub door: Arc<Door>,
    pub worker: Worker,
    pub handle: EngineHandle,
}

impl Bench {
    pub fn new(limits: Limits) -> Self {
        let script = Script::new();
        let door = Arc::new(Door::new(limits, "a fake".into()));
        let clock = script.clone();
        let worker = Worker::new(door.clone(), Box::new(script.clone()), Box::new(move || clock.now()));
        let handle = EngineHandle { door: door.clone(), due: None, on: PerStage::default() };
        Self { script, door, worker, handle }
    }

    /// A bench with a live model per stage, named after its stage.
    pub fn ready(limits: Limits) -> Self {
        let mut bench = Self::new(limits);
        for stage in Stage::ALL {
            bench.go_live(stage, stage.as_str());
        }
        bench.script.events();
        bench
    }

    pub fn load(&mut self, stage: Stage, name: &str) -> Result<Candidate, EngineError> {
        let handle = self.handle.clone();
        self.drive(handle.load(file(name, &[]), stage))
    }

    pub fn go_live(&mut self, stage: Stage, name: &str) {
        let candidate = self.load(stage, name).unwrap();
        let handle = self.handle.clone();
        self.drive(handle.activate(candidate)).unwrap();
    }

    /// Turns the worker until the future is ready. It fails when the worker idles and the future still waits.
    pub fn drive<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        let mut idle = 0;
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            idle = if self.worker.turn() == Turn::Worked { 0 } else { idle + 1 };
            assert!(idle < 3, "the worker idles, and the caller still waits");
        }
    }

    /// Turns until there is nothing to do.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.worker.turn() != Turn::Worked {
                return;
            }
        }
        panic!("the worker never comes to rest");
    }

    /// Submits work that is wanted at `deadline_ms` of the fake clock.
    pub fn submit(&self, work: Work, deadline_ms: u64) -> Result<Waiting, EngineError> {
        let (reply, answer) = Reply::whole();
        let cancel = Cancel::new();
        let deadline = self.script.at(deadline_ms);
        let is_background = deadline >= self.script.now() + limits::BACKGROUND;
        self.door.submit(Job {
            work,
            deadline,
            is_background,
            cancel: cancel.clone(),
            reply,
            on: None,
            stream: None,
        })?;
        Ok(Waiting { cancel, answer })
    }

    pub fn transcribe(&self, script: &str, deadline_ms: u64) -> Waiting {
        self.submit(audio(script), deadline_ms).unwrap()
    }

    pub fn generate(&self, script: &str, deadline_ms: u64) -> (mpsc::Receiver<Result<String, EngineError>>, Cancel) {
        let cancel = Cancel::new();
        let messages = vec![ChatMessage::new("user", script)];
        (self.handle.due(self.script.at(deadline_ms)).generate(messages, 100, &cancel).unwrap(), cancel)
    }
}

/// A job under way.
pub struct Waiting {
    pub cancel: Cancel,
    pub answer: oneshot::Receiver<Result<Output, EngineError>>,
}

impl Waiting {
    pub fn answer(&mut self) -> Option<Result<Output, EngineError>> {
        self.answer.try_recv().ok()
    }

    pub fn text(&mut self) -> String {
        match self.answer().expect("answered") {
            Ok(Output::Transcript(heard)) => heard.text,
            other => panic!("no text: {other:?}"),
        }
    }
}

/// All pieces that have come, and whether the answer has ended.
pub fn pieces(from: &mut mpsc::Receiver<Result<String, EngineError>>) -> (String, Option<EngineError>, bool) {
    let mut text = String::new();
    let mut error = None;
    loop {
        match from.try_recv() {
            Ok(Ok(piece)) => text += &piece,
            Ok(Err(e)) => error = Some(e),
            Err(mpsc::error::TryRecvError::Empty) => return (text, error, false),
            Err(mpsc::error::TryRecvError::Disconnected) => return (text, error, true),
        }
    }
}
