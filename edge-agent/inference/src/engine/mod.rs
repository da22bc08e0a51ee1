//! The engine: one thread that owns the device and everything on it.
//!
//! Others hold an [`EngineHandle`] and ask: load a model, prove it, let it go live, listen, transcribe, think, speak.
//! The thread does one bounded step at a time (a batch of VAD frames, an encoder pass, one token of a transcript, a chunk
//! of a prompt, one token of every running answer, a phrase) and then looks again at what is most urgent, so a caller
//! who is about to run out of audio never waits for another's long answer. Invariant 8: a step that panics costs the
//! jobs of its model, never the daemon.
//!
//! ```text
//! handle ──submit──▶ door (bounded queues, sheds) ──intake──▶ worker (slots, deadlines) ──step──▶ stepper (a model)
//!    ◀───────────────────────────── reply: exactly once ─────────────┘
//! ```
//!
//! The worker knows steppers only through traits and reads the clock through a function: it is tested with scripted
//! fakes that fail, hang back and panic, without a model and without a device.
//!
//! Downside of one thread: a model that is being loaded holds up every call on the device for as long as it takes
//! (a fraction of a second for the models of today). It yields to urgent work first, then takes its turn.

mod cancel;
mod door;
mod error;
mod golden;
mod job;
mod limits;
mod load;
mod memory;
mod model_file;
mod models;
mod per_stage;
mod snapshot;
mod stepper;
mod transcript;
mod vad_stream;
mod wish;
mod worker;

#[cfg(test)]
mod tests;

pub use crate::asr::SpokenWord;
pub use cancel::Cancel;
pub use door::ModelId;
pub use error::EngineError;
pub use golden::{CaseOutcome, GoldenReport, edit_distance};
pub use limits::{
    ASR_SECONDS_MAX, EMBED_CHARS_MAX, EMBED_SENTENCES_MAX, Limits, PROMPT_BYTES_MAX, SAMPLE_RATE_HZ, TTS_CHARS_MAX,
    TURN_SECONDS_MAX, VAD_FRAME_SAMPLES,
};
pub use model_file::ModelFile;
pub use snapshot::{EngineSnapshot, LoadedModel, Role, StageSnapshot};
pub use stepper::ChatMessage;
pub use transcript::Transcript;
pub use vad_stream::VadStream;
pub use wish::Wish;

use crate::device::Selected;
use door::{Command, Door};
use job::{Job, Reply};
use nearfield_shared::artefact::Stage;
use per_stage::PerStage;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;
use stepper::{Loader, Output, Work};
use tokio::sync::{mpsc, oneshot};
use worker::{Turn, Worker};

/// The engine. Dropping it stops the thread after the step that is running, and tells whoever still waits.
pub struct Engine {
    door: Arc<Door>,
    thread: Option<JoinHandle<()>>,
}

/// A way to ask the engine. Cheap to clone; outliving the engine is fine, it then answers `WorkerDied`.
#[derive(Clone)]
pub struct EngineHandle {
    door: Arc<Door>,
    due: Option<Instant>,
    /// The candidates that do its jobs, where it is not the live models.
    on: PerStage<Option<ModelId>>,
}

/// A call that was let in. Dropping it is the end of the call.
pub struct Admission {
    door: Arc<Door>,
    since: Instant,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Admission(for {:?})", self.since.elapsed())
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.door.leave(Instant::now(), self.since);
    }
}

/// Work that was let in beside the calls. Dropping it is its end.
pub struct Visit {
    door: Arc<Door>,
}

impl std::fmt::Debug for Visit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Visit")
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.door.visit_ended();
    }
}

/// A model that is loaded but does not serve: to be proven, then activated or discarded. Dropping it discards it.
pub struct Candidate {
    /// Its name within this engine.
    pub id: ModelId,
    /// The stage it was loaded for.
    pub stage: Stage,
    /// Bytes of its weights as they stand in memory.
    pub resident_bytes: usize,
    /// How long loading took, in milliseconds.
    pub load_ms: u64,
    door: Arc<Door>,
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Candidate({}, model {}, {} bytes)", self.stage, self.id.0, self.resident_bytes)
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        // After an activation the model is live, and the worker ignores this.
        self.door.discard(self.id);
    }
}

impl Engine {
    /// Starts the engine on a device. It has no models yet: they are loaded, proven and activated through a handle.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(selected: Selected, limits: Limits) -> Result<Self, EngineError> {
        memory::bound();
        let loader = models::DeviceLoader::new(selected.device, &limits);
        Self::start_with(Box::new(loader), selected.name, limits)
    }

    /// Starts the thread with a loader of one's own. `device` is what [`EngineHandle::snapshot`] calls the device.
    pub(crate) fn start_with(loader: Box<dyn Loader>, device: String, limits: Limits) -> Result<Self, EngineError> {
        let door = Arc::new(Door::new(limits, device));
        let inside = door.clone();
        let thread = std::thread::Builder::new()
            .name("inference".into())
            .spawn(move || run(&inside, loader))
            .map_err(|error| EngineError::Model(format!("the inference thread cannot be started: {error}")))?;
        Ok(Self { door, thread: Some(thread) })
    }

    /// A handle to ask through.
    pub fn handle(&self) -> EngineHandle {
        EngineHandle { door: self.door.clone(), due: None, on: PerStage::default() }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.door.close();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was logged where it was caught; there is nothing left to do about it.
            drop(thread.join());
        }
    }
}

/// The thread: turns until the door closes. A panic that is not a step's own is caught here; one that comes back at
/// once from the recovery itself closes the engine, because then nothing here can be relied upon.
fn run(door: &Arc<Door>, loader: Box<dyn Loader>) {
    let mut worker = Worker::new(door.clone(), loader, Box::new(Instant::now));
    loop {
        match catch_unwind(AssertUnwindSafe(|| worker.turn())) {
            Ok(Turn::Worked) => {}
            Ok(Turn::Idle(longest)) => door.wait(longest),
            Ok(Turn::Closed) => break,
            Err(_) => {
                tracing::error!("the inference worker panicked between steps; it starts again with its live models");
                if catch_unwind(AssertUnwindSafe(|| worker.recover())).is_err() {
                    tracing::error!("the inference worker could not be restarted; restart the agent");
                    door.close();
                    break;
                }
            }
        }
    }
    // Jobs that were running are told as their replies are dropped with the worker.
    if catch_unwind(AssertUnwindSafe(|| drop(worker))).is_err() {
        tracing::warn!("a model panicked while the engine stopped");
    }
}

impl EngineHandle {
    /// A handle whose jobs are wanted by `deadline`. It orders jobs: whoever runs out of audio first is served first.
    /// Without it a job is wanted a fixed short time after it comes, depending on its stage. A late job is still done.
    pub fn due(&self, deadline: Instant) -> Self {
        Self { door: self.door.clone(), due: Some(deadline), on: self.on.clone() }
    }

    /// A handle whose jobs go to these candidates, and to the live models where none is named for a stage. What goes to a candidate that is gone is
    /// refused with `BadInput`; one that went live meanwhile goes on.
    pub fn on(&self, candidates: impl IntoIterator<Item = (Stage, ModelId)>) -> Self {
        let mut on = PerStage::default();
        candidates.into_iter().for_each(|(stage, id)| on[stage] = Some(id));
        Self { door: self.door.clone(), due: self.due, on }
    }

    /// Loads a model beside the live one. It does not serve until [`EngineHandle::activate`]. A [`ModelFile::open`] from a disk
    /// must stay there unchanged as long as the model serves: it is read again if the model dies.
    pub async fn load(&self, file: impl Into<ModelFile>, stage: Stage) -> Result<Candidate, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.door.command(Command::Load { stage, file: file.into(), reply })?;
        let loaded = answer.await.map_err(|_| EngineError::WorkerDied)??;
        let LoadedModel { id, stage, resident_bytes, load_ms, .. } = loaded;
        Ok(Candidate { id, stage, resident_bytes, load_ms, door: self.door.clone() })
    }

    /// Runs the golden cases inside the model's file on this device, between the steps of live work.
    pub async fn reproduce_golden(&self, candidate: &Candidate) -> Result<GoldenReport, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.door.command(Command::Prove { id: candidate.id, reply })?;
        answer.await.map_err(|_| EngineError::WorkerDied)?
    }

    /// Lets a candidate serve every new job. Jobs and VAD streams that have begun stay on the model they began with,
    /// whose memory is freed with the last of them.
    pub async fn activate(&self, candidate: Candidate) -> Result<(), EngineError> {
        let (reply, answer) = oneshot::channel();
        self.door.command(Command::Activate { id: candidate.id, reply })?;
        answer.await.map_err(|_| EngineError::WorkerDied)?
    }

    /// Lets a candidate go, once the jobs that it has begun are done; it gets no others. Dropping it does the same.
    pub async fn discard(&self, candidate: Candidate) {
        drop(candidate);
    }

    /// Lets a call in, or refuses it before the calls in progress suffer: by the share of the device that calls are measured
    /// to take. `Overloaded` says when one of them is likely to have ended.
    pub fn admit(&self) -> Result<Admission, EngineError> {
        let since = Instant::now();
        self.door.admit(since)?;
        Ok(Admission { door: self.door.clone(), since })
    }

    /// Lets work in that is no call and must not stand in the way of one: refused where a call would be, and itself no reason to
    /// refuse one. While it is inside, what it said may be kept to be used again.
    pub fn visit(&self) -> Result<Visit, EngineError> {
        self.door.visit(Instant::now())?;
        Ok(Visit { door: self.door.clone() })
    }

    /// Takes one of the VAD slots for a call.
    pub fn open_vad(&self) -> Result<VadStream, EngineError> {
        VadStream::open(self.door.clone(), self.on[Stage::Vad])
    }

    /// The probability that the caller has finished. 16 kHz; the last [`TURN_SECONDS_MAX`] seconds count.
    pub async fn turn_probability(&self, mut pcm16k: Vec<f32>) -> Result<f32, EngineError> {
        check_audio(&pcm16k)?;
        let surplus = pcm16k.len().saturating_sub(TURN_SECONDS_MAX * SAMPLE_RATE_HZ);
        pcm16k.drain(..surplus);
        match self.ask(Work::Turn(pcm16k), &Cancel::new()).await? {
            Output::Probabilities(found) if found.len() == 1 => Ok(found[0]),
            _ => Err(mismatch(Stage::Turn)),
        }
    }

    /// The transcript of at most [`ASR_SECONDS_MAX`] seconds at 16 kHz.
    pub async fn transcribe(&self, pcm16k: Vec<f32>, cancel: &Cancel) -> Result<String, EngineError> {
        Ok(self.transcribe_after(pcm16k, Transcript::default(), cancel).await?.text)
    }

    /// As [`EngineHandle::transcribe`], and sooner where `draft`, an earlier transcript of the beginning of the same audio,
    /// holds: its tokens are checked several at a time instead of written one by one. What is found is the same with any
    /// draft, an empty or a wrong one included.
    pub async fn transcribe_after(
        &self,
        pcm16k: Vec<f32>,
        draft: Transcript,
        cancel: &Cancel,
    ) -> Result<Transcript, EngineError> {
        self.transcribe_with(pcm16k, draft, Arc::default(), cancel).await
    }

    /// As [`EngineHandle::transcribe_after`], and these words and phrases are likelier to be heard: names and terms that the model
    /// would write as something else. At most [`WORDS_MAX`](nearfield_shared::assistant::WORDS_MAX) of them count.
    pub async fn transcribe_with(
        &self,
        pcm16k: Vec<f32>,
        draft: Transcript,
        words: Arc<[String]>,
        cancel: &Cancel,
    ) -> Result<Transcript, EngineError> {
        self.transcript(Work::Asr { pcm: pcm16k, draft: draft.tokens, words, times: false }, cancel).await
    }

    /// As [`EngineHandle::transcribe`], with the time of each word. It takes a step more for each layer of the decoder.
    pub async fn transcribe_timed(&self, pcm16k: Vec<f32>, cancel: &Cancel) -> Result<Transcript, EngineError> {
        let (draft, words) = (Vec::new(), Arc::default());
        self.transcript(Work::Asr { pcm: pcm16k, draft, words, times: true }, cancel).await
    }

    async fn transcript(&self, work: Work, cancel: &Cancel) -> Result<Transcript, EngineError> {
        let Work::Asr { pcm: pcm16k, .. } = &work else { return Err(mismatch(Stage::Asr)) };
        check_audio(pcm16k)?;
        let seconds = pcm16k.len() as f32 / SAMPLE_RATE_HZ as f32;
        if pcm16k.len() > ASR_SECONDS_MAX * SAMPLE_RATE_HZ {
            return Err(EngineError::BadInput(format!(
                "{seconds:.1} s of audio are more than one transcription takes ({ASR_SECONDS_MAX} s); cut it at a pause"
            )));
        }
        match self.ask(work, cancel).await? {
            Output::Transcript(heard) => Ok(heard),
            _ => Err(mismatch(Stage::Asr)),
        }
    }

    /// An answer, piece by piece. The channel ends after the last piece; an error is its last item. Dropping the
    /// receiver cancels the job.
    pub fn generate(
        &self,
        messages: Vec<ChatMessage>,
        max_tokens: usize,
        cancel: &Cancel,
    ) -> Result<mpsc::Receiver<Result<String, EngineError>>, EngineError> {
        self.generate_as(messages, max_tokens, Wish::default(), cancel)
    }

    /// As [`EngineHandle::generate`], with wishes about how the answer is chosen and how it begins.
    pub fn generate_as(
        &self,
        messages: Vec<ChatMessage>,
        max_tokens: usize,
        wish: Wish,
        cancel: &Cancel,
    ) -> Result<mpsc::Receiver<Result<String, EngineError>>, EngineError> {
        wish.check().map_err(EngineError::BadInput)?;
        let most = self.door.limits().llm_tokens_max;
        if !(1..=most).contains(&max_tokens) {
            return Err(EngineError::BadInput(format!("{max_tokens} tokens were asked for; ask for 1 to {most}")));
        }
        let said = messages.iter().map(|message| message.role.len() + message.content.len()).sum::<usize>();
        let bytes = said + wish.begins.len();
        if messages.is_empty() || bytes > PROMPT_BYTES_MAX {
            return Err(EngineError::BadInput(format!(
                "a prompt of {} messages with {bytes} bytes cannot be answered; send at least one message and at most \
                 {PROMPT_BYTES_MAX} bytes",
                messages.len()
            )));
        }
        let (reply, pieces) = Reply::pieces(max_tokens);
        self.submit(Work::Llm { messages, max_tokens, wish }, cancel, reply)?;
        Ok(pieces)
    }

    /// A phrase as audio, 24 kHz. `speed` 1.0 is the voice's own; 0.5 to 2.0 are accepted.
    pub async fn speak(&self, text: String, speed: f32, cancel: &Cancel) -> Result<Vec<f32>, EngineError> {
        if !(0.5..=2.0).contains(&speed) {
            return Err(EngineError::BadInput(format!("a speed of {speed} is not between 0.5 and 2.0")));
        }
        let chars = text.chars().count();
        if text.trim().is_empty() || chars > TTS_CHARS_MAX {
            return Err(EngineError::BadInput(format!(
                "a phrase of {chars} characters cannot be spoken in one piece; send 1 to {TTS_CHARS_MAX} characters"
            )));
        }
        match self.ask(Work::Tts { text, speed }, cancel).await? {
            Output::Audio(samples) => Ok(samples),
            _ => Err(mismatch(Stage::Tts)),
        }
    }

    /// Unit-length embeddings of sentences, one each.
    pub async fn embed(&self, sentences: Vec<String>) -> Result<Vec<Vec<f32>>, EngineError> {
        if sentences.is_empty() {
            return Ok(Vec::new());
        }
        let longest = sentences.iter().map(|sentence| sentence.chars().count()).max().unwrap_or(0);
        if sentences.len() > EMBED_SENTENCES_MAX || longest > EMBED_CHARS_MAX {
            return Err(EngineError::BadInput(format!(
                "{} sentences, the longest of {longest} characters, are too much for one embedding job; send at most \
                 {EMBED_SENTENCES_MAX} of at most {EMBED_CHARS_MAX} characters",
                sentences.len()
            )));
        }
        match self.ask(Work::Embed(sentences), &Cancel::new()).await? {
            Output::Vectors(vectors) => Ok(vectors),
            _ => Err(mismatch(Stage::Embed)),
        }
    }

    /// What the engine is doing, for `status`, `doctor` and metrics.
    pub fn snapshot(&self) -> EngineSnapshot {
        self.door.snapshot(Instant::now())
    }

    async fn ask(&self, work: Work, cancel: &Cancel) -> Result<Output, EngineError> {
        let (reply, answer) = Reply::whole();
        self.submit(work, cancel, reply)?;
        answer.await.unwrap_or(Err(EngineError::WorkerDied))
    }

    fn submit(&self, work: Work, cancel: &Cancel, reply: Reply) -> Result<(), EngineError> {
        let now = Instant::now();
        let deadline = self.due.unwrap_or_else(|| now + limits::patience_of(work.stage()));
        let is_background = deadline >= now + limits::BACKGROUND;
        let on = self.on[work.stage()];
        self.door.submit(Job { work, deadline, is_background, cancel: cancel.clone(), reply, on, stream: None })
    }
}

/// Audio that a network can take: some, and finite.
fn check_audio(pcm: &[f32]) -> Result<(), EngineError> {
    if pcm.is_empty() {
        return Err(EngineError::BadInput("there is no audio; send at least one sample at 16 kHz".into()));
    }
    match pcm.iter().position(|sample| !sample.is_finite()) {
        Some(at) => Err(EngineError::BadInput(format!(
            "sample {at} of the audio is not a finite number; decode the audio to samples between -1 and 1"
        ))),
        None => Ok(()),
    }
}

fn mismatch(stage: Stage) -> EngineError {
    EngineError::Model(format!("the {stage} model answered with something else than its stage produces"))
}
