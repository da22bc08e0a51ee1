//! `edge-agent doctor --bench`: how many calls this node can hold, measured on its own models and device.
//!
//! Simulated callers speak in real time with the node's own voice, which is loaded anyway, so nothing has to be recorded or
//! sent along. Each call feeds its voice detector all the time, has partial transcripts made while it speaks, asks the turn
//! model at the pause, and then waits for an answer: every other one comes from the cache, every other one is thought and
//! spoken phrase by phrase. The number of calls rises until first audio comes late or an answer is interrupted by silence.
//!
//! What is measured is the engine under the work of calls. The network, the WebSocket protocol and the vault are not in it;
//! they take a small part of a processor, and nothing of a GPU.

use super::Line;
use crate::{
    artefacts::ArtefactStore,
    cli,
    config::Config,
    identity::Identity,
    inference::{self, Inference},
    media::resample::Resampler,
    slots::LastKnownGood,
    speech::{ChatMessage, HEARD_HZ, SPOKEN_HZ, Speech, SpeechError, Transcript, VadSlot},
    state_dir::StateDir,
};
use anyhow::{Context as _, bail};
use nearfield_dialogue::phrases::Phraser;
use serde::Serialize;
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

/// How late the first audio of an answer may come, for 95 of 100 answers.
const FIRST_AUDIO_MAX: Duration = Duration::from_millis(800);

/// How long each number of calls is held: some three turns of every call.
const LEVEL: Duration = Duration::from_secs(36);

/// How long one call is held before anything counts: kernels are compiled and caches filled by then.
const WARM_UP: Duration = Duration::from_secs(15);

/// Numbers of calls that are tried, until one is too many. Then the gap below it is halved [`HALVINGS`] times.
const CALLS: [usize; 11] = [1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96];
const HALVINGS: usize = 2;

/// Samples of a frame of the voice detector, and how long they last.
const FRAME_SAMPLES: usize = 512;
const FRAME: Duration = Duration::from_millis(32);

/// Frames between two partial transcripts of a caller who is speaking.
const FRAMES_PER_PARTIAL: usize = 10;

/// How long a partial transcript may take: until the next one.
const PARTIAL_PATIENCE: Duration = Duration::from_millis(320);

/// The pause after which the turn model is asked.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a cached answer plays.
const CACHED_ANSWER: Duration = Duration::from_secs(3);

/// Tokens of an answer that is thought.
const TOKENS: usize = 48;

/// What callers say: short and long, with and without names and numbers.
const SAYINGS: [&str; 6] = [
    "Hello, when do you open tomorrow morning?",
    "I would like to change my appointment from Tuesday to Thursday, if that is possible.",
    "How much is the delivery to the city centre?",
    "Could you tell me whether the parcel that I sent on Monday has arrived in London?",
    "Where can I leave my car while I am with you?",
    "My name is Anna, and I am calling about the invoice of last month, number forty seven.",
];

/// What the assistant is told: about as long as an assistant's instructions are.
const INSTRUCTIONS: &str = "You answer the telephone of a small company. Be friendly, and answer in one or two short \
    sentences. You are open from nine to five on weekdays. Delivery within the city is free, elsewhere it costs seven. If you \
    do not know something, offer to take a message.";

/// What a number of calls came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Level {
    /// Calls at once.
    pub calls: usize,
    /// Answers that were given.
    pub answers: usize,
    /// From the end of a caller's turn to the first audio of the answer, in milliseconds: median and 95th percentile.
    pub first_audio_p50_ms: u64,
    /// See there.
    pub first_audio_p95_ms: u64,
    /// From a frame's last sample to its probability, 95th percentile: what a caller who interrupts has to wait for.
    pub detector_p95_ms: u64,
    /// Times that an answer was interrupted because its next phrase was not ready.
    pub gaps: usize,
    /// Jobs that the engine refused or that failed.
    pub failures: usize,
    /// Calls that the node's own door would have sent away.
    pub turned_away: usize,
    /// Share of the device's time in use at the end.
    pub busy_percent: u32,
}

impl Level {
    /// Whether callers would not complain.
    pub fn holds(&self) -> bool {
        self.answers > 0
            && self.gaps == 0
            && self.failures == 0
            && u128::from(self.first_audio_p95_ms) <= FIRST_AUDIO_MAX.as_millis()
    }
}

/// What this node can hold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Capacity {
    /// The device it was measured on.
    pub device: String,
    /// Every number of calls that was tried, in the order of trial.
    pub levels: Vec<Level>,
    /// The greatest number of calls that held, none above it having been tried with success before a smaller one failed.
    pub calls: usize,
}

/// Measures and prints.
pub async fn command(dir: &StateDir, config: &Config, json: bool) -> anyhow::Result<()> {
    let inference = live(dir, config).await?;
    let sayings = sayings(&*inference.speech).await.context("the callers' voices cannot be made")?;
    level(&inference.speech, &sayings, 1, WARM_UP).await;
    let mut levels = Vec::new();
    let mut tried = async |calls: usize| {
        let mut level = level(&inference.speech, &sayings, calls, LEVEL).await;
        level.busy_percent = (100.0 * inference.host.load_share()).round() as u32;
        if !json {
            eprintln!("{calls} calls: first audio {} ms (p95), {} gaps", level.first_audio_p95_ms, level.gaps);
        }
        let holds = level.holds();
        levels.push(level);
        holds
    };
    let calls = most(&mut tried).await;
    let capacity = Capacity { device: inference.device.name.to_string(), levels, calls };
    if json {
        return cli::print_line(&serde_json::to_string_pretty(&capacity)?);
    }
    cli::print_line(&table(&capacity))
}

/// The greatest number of calls that holds.
async fn most(holds: &mut impl AsyncFnMut(usize) -> bool) -> usize {
    let (mut good, mut bad) = (0, None);
    for calls in CALLS {
        if !holds(calls).await {
            bad = Some(calls);
            break;
        }
        good = calls;
    }
    let Some(mut bad) = bad else { return good };
    for _ in 0..HALVINGS {
        let middle = good.midpoint(bad);
        if middle == good {
            break;
        }
        if holds(middle).await {
            good = middle;
        } else {
            bad = middle;
        }
    }
    good
}

fn table(capacity: &Capacity) -> String {
    let mut table = cli::table();
    table.set_header([
        "calls",
        "answers",
        "first audio p50",
        "first audio p95",
        "detector p95",
        "gaps",
        "failures",
        "door refuses",
        "device busy",
        "",
    ]);
    for level in &capacity.levels {
        table.add_row([
            level.calls.to_string(),
            level.answers.to_string(),
            format!("{} ms", level.first_audio_p50_ms),
            format!("{} ms", level.first_audio_p95_ms),
            format!("{} ms", level.detector_p95_ms),
            level.gaps.to_string(),
            level.failures.to_string(),
            level.turned_away.to_string(),
            format!("{} %", level.busy_percent),
            if level.holds() { "holds" } else { "too many" }.to_owned(),
        ]);
    }
    let Capacity { device, calls, .. } = capacity;
    let bound = FIRST_AUDIO_MAX.as_millis();
    format!(
        "{table}\n{device} holds {calls} calls at once: 95 of 100 answers begin within {bound} ms and none is interrupted; half of them cached, half thought"
    )
}

/// An engine with the models that this node serves, proven and live.
async fn live(dir: &StateDir, config: &Config) -> anyhow::Result<Inference> {
    let most = CALLS.into_iter().max().unwrap_or(1);
    let choice = config.device.clone();
    let inference = tokio::task::spawn_blocking(move || inference::start(&choice, most)).await??;
    let identity = Identity::load(dir).context("this node has no identity yet; enrol it first")?;
    let Some(state) = LastKnownGood::at(&dir.last_known_good()).load()? else {
        bail!("no models were served here yet; start the node once while its control plane runs")
    };
    let store = ArtefactStore::at(&dir.artefacts());
    let mut candidates = Vec::new();
    for (stage, signed) in &state.models {
        let manifest = signed.verify(&identity.signing_key).with_context(|| format!("the {stage} model"))?;
        let (digest, hashing) = (manifest.digest, store.clone());
        let file = tokio::task::spawn_blocking(move || hashing.verified(digest)).await??;
        inference.host.supports(&manifest)?;
        let candidate = inference.host.load(manifest.stage, file).await?;
        inference.host.reproduce_golden(&candidate).await?;
        candidates.push(candidate);
    }
    inference.host.activate(candidates).await?;
    Ok(inference)
}

/// What the callers say, at 16 kHz.
async fn sayings(speech: &dyn Speech) -> anyhow::Result<Arc<Vec<Vec<f32>>>> {
    let mut all = Vec::new();
    for saying in SAYINGS {
        let spoken = speech.speak(saying.to_owned(), 1.0).await?;
        let mut resampler = Resampler::new(SPOKEN_HZ, HEARD_HZ)?;
        let mut audio = resampler.push(&spoken);
        audio.extend(resampler.flush());
        all.push(audio);
    }
    Ok(Arc::new(all))
}

/// What a call tells while it goes on.
enum Told {
    FirstAudio(Duration),
    Detected(Duration),
    Gap,
    Failed,
    TurnedAway,
}

/// Holds a number of calls for a while. `sayings` are what the callers say, 16 kHz in [-1, 1].
pub async fn level(speech: &Arc<dyn Speech>, sayings: &Arc<Vec<Vec<f32>>>, calls: usize, during: Duration) -> Level {
    let (tell, mut told) = mpsc::channel(1_024);
    let mut tasks = JoinSet::new();
    for number in 0..calls {
        // Callers do not begin at the same moment; the first turns are spread over the length of one.
        let after = during.mul_f64(0.25 * number as f64 / calls as f64);
        let caller = Caller { speech: Arc::clone(speech), sayings: Arc::clone(sayings), number, tell: tell.clone() };
        tasks.spawn(async move {
            tokio::time::sleep(after).await;
            caller.call().await;
        });
    }
    drop(tell);
    let (mut first, mut detected, mut gaps, mut failures, mut turned_away) = (Vec::new(), Vec::new(), 0, 0, 0);
    let end = tokio::time::sleep(during);
    tokio::pin!(end);
    loop {
        let told = tokio::select! {
            () = &mut end => break,
            told = told.recv() => told,
        };
        match told {
            Some(Told::FirstAudio(took)) => first.push(took),
            Some(Told::Detected(took)) => detected.push(took),
            Some(Told::Gap) => gaps += 1,
            Some(Told::Failed) => failures += 1,
            Some(Told::TurnedAway) => turned_away += 1,
            None => break,
        }
    }
    tasks.shutdown().await;
    Level {
        calls,
        answers: first.len(),
        first_audio_p50_ms: percentile(&mut first, 50),
        first_audio_p95_ms: percentile(&mut first, 95),
        detector_p95_ms: percentile(&mut detected, 95),
        gaps,
        failures,
        turned_away,
        busy_percent: 0,
    }
}

fn percentile(took: &mut [Duration], of_100: usize) -> u64 {
    took.sort_unstable();
    let at = (took.len() * of_100).div_ceil(100).saturating_sub(1);
    took.get(at).map_or(0, |took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
}

/// One simulated caller.
struct Caller {
    speech: Arc<dyn Speech>,
    sayings: Arc<Vec<Vec<f32>>>,
    number: usize,
    tell: mpsc::Sender<Told>,
}

impl Caller {
    async fn tell(&self, what: Told) {
        // Nobody listens any more when the level is over.
        let _over = self.tell.send(what).await;
    }

    async fn call(self) {
        // What the door says is noted and the call held all the same: this is to find what happens beyond.
        let place = self.speech.admit();
        if place.is_err() {
            self.tell(Told::TurnedAway).await;
        }
        match self.speech.open_vad() {
            Ok(slot) => {
                tokio::join!(self.listen(slot), self.talk());
            }
            Err(_) => self.tell(Told::Failed).await,
        }
    }

    /// The voice detector hears all of the call, whoever is speaking.
    async fn listen(&self, mut slot: Box<dyn VadSlot>) {
        let begun = Instant::now();
        let audio = &self.sayings[self.number % self.sayings.len()];
        for (n, frame) in audio.chunks_exact(FRAME_SAMPLES).cycle().enumerate() {
            let due = begun + FRAME * (n as u32 + 1);
            tokio::time::sleep_until(due).await;
            match slot.push(frame).await {
                Ok(_) => self.tell(Told::Detected(due.elapsed())).await,
                Err(_) => self.tell(Told::Failed).await,
            }
        }
    }

    async fn talk(&self) {
        let mut said = Vec::new();
        for turn in self.number.. {
            if self.turn(turn, &mut said).await.is_err() {
                self.tell(Told::Failed).await;
            }
        }
    }

    async fn turn(&self, turn: usize, said: &mut Vec<ChatMessage>) -> Result<(), SpeechError> {
        let audio = &self.sayings[turn % self.sayings.len()];
        let draft = self.speak(audio).await;
        tokio::time::sleep(PAUSE).await;
        self.speech.turn_probability(audio.clone()).await?;
        let committed = Instant::now();
        // Wanted at once, as a call wants what a caller waits for.
        let words = self.due(committed).transcribe_after(audio.clone(), draft).await?.text;
        match self.due(committed).embed(vec![words.clone()]).await {
            // Without this model the language model answers everything.
            Ok(_) | Err(SpeechError::NoModel(_)) => {}
            Err(error) => return Err(error),
        }
        if turn.is_multiple_of(2) {
            self.tell(Told::FirstAudio(committed.elapsed())).await;
            tokio::time::sleep(CACHED_ANSWER).await;
            return Ok(());
        }
        // The latest three turns, as a conversation grows and is cut.
        said.push(ChatMessage { role: "user", content: words, is_shared: false });
        let from = said.len().saturating_sub(5);
        let system = ChatMessage { role: "system", content: INSTRUCTIONS.to_owned(), is_shared: true };
        let messages = std::iter::once(system).chain(said[from..].iter().cloned()).collect();
        let answer = self.answer(messages, committed).await?;
        said.push(ChatMessage { role: "assistant", content: answer, is_shared: false });
        Ok(())
    }

    fn due(&self, by: Instant) -> Arc<dyn Speech> {
        Arc::clone(&self.speech).due(by.into_std())
    }

    /// Speaks in real time, while partial transcripts are made, and gives the last one.
    async fn speak(&self, audio: &[f32]) -> Transcript {
        let begun = Instant::now();
        let (mut partials, mut draft) = (JoinSet::new(), Transcript::default());
        let mut newest = |partials: &mut JoinSet<Result<Transcript, SpeechError>>| {
            if let Some(Ok(Ok(heard))) = partials.try_join_next() {
                draft = heard;
            }
            draft.clone()
        };
        for samples in (FRAMES_PER_PARTIAL * FRAME_SAMPLES..audio.len()).step_by(FRAMES_PER_PARTIAL * FRAME_SAMPLES) {
            tokio::time::sleep_until(begun + duration(samples, HEARD_HZ)).await;
            let draft = newest(&mut partials);
            // One at a time: while the engine is behind, the next partial transcript covers more.
            if partials.is_empty() {
                let (speech, heard) = (self.due(Instant::now() + PARTIAL_PATIENCE), audio[..samples].to_vec());
                partials.spawn(async move { speech.transcribe_after(heard, draft).await });
            }
        }
        tokio::time::sleep_until(begun + duration(audio.len(), HEARD_HZ)).await;
        newest(&mut partials)
    }

    /// Thinks and speaks phrase by phrase, and plays what is spoken.
    async fn answer(&self, messages: Vec<ChatMessage>, committed: Instant) -> Result<String, SpeechError> {
        let mut pieces = self.due(committed).generate(messages, TOKENS)?;
        let (mut phraser, mut answer, mut playing_until) = (Phraser::new(), String::new(), None);
        loop {
            let piece = pieces.next().await.transpose()?;
            let phrases = match &piece {
                Some(piece) => phraser.push(piece),
                None => phraser.finish(),
            };
            for phrase in phrases {
                let spoken = self.due(playing_until.unwrap_or(committed)).speak(phrase, 1.0).await?;
                let now = Instant::now();
                let from = match playing_until {
                    None => {
                        self.tell(Told::FirstAudio(committed.elapsed())).await;
                        now
                    }
                    Some(until) if until < now => {
                        self.tell(Told::Gap).await;
                        now
                    }
                    Some(until) => until,
                };
                playing_until = Some(from + duration(spoken.len(), SPOKEN_HZ));
            }
            match piece {
                Some(piece) => answer.push_str(&piece),
                None => break,
            }
        }
        if let Some(until) = playing_until {
            tokio::time::sleep_until(until).await;
        }
        Ok(answer)
    }
}

fn duration(samples: usize, rate_hz: u32) -> Duration {
    Duration::from_secs_f64(samples as f64 / f64::from(rate_hz))
}

/// The line of the report that says where to find this.
pub(super) fn hint() -> Line {
    Line::ok("capacity", "not measured; `edge-agent doctor --bench` does it in some minutes, with the daemon stopped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_greatest_number_that_holds_is_found_between_the_steps() {
        for (truth, found) in [(0, 0), (1, 1), (3, 3), (5, 5), (7, 7), (9, 9), (11, 11), (13, 13), (20, 20), (500, 96)]
        {
            let mut trials = 0;
            let calls = most(&mut async |calls: usize| {
                trials += 1;
                calls <= truth
            })
            .await;
            // Two halvings leave a gap of a quarter of a step.
            assert!(calls <= truth && calls + calls / 8 + 1 >= found.min(96), "{calls} of {truth}");
            assert!(trials <= CALLS.len() + HALVINGS);
        }
    }

    #[test]
    fn a_level_holds_only_where_nobody_would_complain() {
        let good = Level {
            calls: 4,
            answers: 20,
            first_audio_p50_ms: 300,
            first_audio_p95_ms: 800,
            detector_p95_ms: 20,
            gaps: 0,
            failures: 0,
            turned_away: 0,
            busy_percent: 60,
        };
        assert!(good.holds());
        for bad in [
            Level { first_audio_p95_ms: 801, ..good.clone() },
            Level { gaps: 1, ..good.clone() },
            Level { failures: 1, ..good.clone() },
            Level { answers: 0, ..good.clone() },
        ] {
            assert!(!bad.holds(), "{bad:?}");
        }
        let capacity = Capacity { device: "a card".into(), levels: vec![good], calls: 4 };
        assert!(table(&capacity).contains("a card holds 4 calls at once"), "{}", table(&capacity));
    }

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let mut took: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!((percentile(&mut took, 50), percentile(&mut took, 95)), (50, 95));
        assert_eq!((percentile(&mut took[..1], 95), percentile(&mut [], 95)), (1, 0));
    }
}
