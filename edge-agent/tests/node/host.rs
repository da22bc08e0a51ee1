//! A model host that does what the model file says: the first line of a file names its behaviour.

use edge_agent::{
    slots::{Candidate, HostError, ModelHost, Unsupported},
    speech::{BoxFuture, ChatMessage, Pieces, Speech, SpeechError, VadSlot},
};
use nearfield_shared::artefact::{Digest, Manifest, Stage};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Instant,
};
use tokio::sync::watch;

/// What a model file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// All is well.
    Good,
    /// Golden case 1 is not reproduced.
    GoldenDiffers,
    /// Loading panics.
    PanicsAtLoad,
    /// Reproducing the golden results panics.
    PanicsAtGolden,
    /// Reproducing takes until [`FakeHost::release`].
    Slow,
    /// The worker dies at the swap.
    DiesAtSwap,
    /// What it does in calls fails.
    FailsInCalls,
    /// What it does in calls takes a tenth of a second.
    SlowInCalls,
}

impl Behaviour {
    pub fn line(self) -> String {
        format!("{self:?}\n")
    }

    fn of(file: &[u8]) -> Self {
        use Behaviour::*;
        [Good, GoldenDiffers, PanicsAtLoad, PanicsAtGolden, Slow, DiesAtSwap, FailsInCalls, SlowInCalls]
            .into_iter()
            .find(|b| file.starts_with(b.line().as_bytes()))
            .expect("a test's model file begins with its behaviour")
    }
}

#[derive(Default)]
struct State {
    next: u64,
    candidates: BTreeMap<u64, (Stage, Digest, Behaviour)>,
    live: BTreeMap<Stage, Digest>,
    behaviours: BTreeMap<Stage, Behaviour>,
    loads: u32,
}

/// The architecture that the host takes.
pub const ARCHITECTURE: &str = "fake";

/// Golden cases in each file, by its account.
pub const GOLDEN_CASES: u32 = 2;

/// The host.
pub struct FakeHost {
    state: Arc<Mutex<State>>,
    released: watch::Sender<bool>,
}

impl FakeHost {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { state: Arc::default(), released: watch::channel(false).0 })
    }

    /// Lets slow files finish.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// Digests of the live models.
    pub fn live(&self) -> BTreeMap<Stage, Digest> {
        self.state.lock().unwrap().live.clone()
    }

    /// Models loaded and neither live nor discarded.
    pub fn candidates(&self) -> usize {
        self.state.lock().unwrap().candidates.len()
    }

    /// A candidate panics.
    pub fn kill(&self, stage: Stage) {
        self.state.lock().unwrap().candidates.retain(|_, (of, ..)| *of != stage);
    }

    /// Files loaded since the start.
    pub fn loads(&self) -> u32 {
        self.state.lock().unwrap().loads
    }
}

impl ModelHost for FakeHost {
    fn supports(&self, manifest: &Manifest) -> Result<(), Unsupported> {
        let stage = manifest.stage;
        if manifest.architecture != ARCHITECTURE {
            let architecture = manifest.architecture.clone();
            return Err(Unsupported::Architecture { stage, architecture, known: ARCHITECTURE.into() });
        }
        if manifest.interface != 1 {
            return Err(Unsupported::Interface { stage, found: manifest.interface, wanted: 1 });
        }
        Ok(())
    }

    fn load(&self, stage: Stage, file: PathBuf) -> BoxFuture<'_, Result<Candidate, HostError>> {
        Box::pin(async move {
            let bytes = std::fs::read(file).map_err(|e| HostError::Load(e.to_string()))?;
            let behaviour = Behaviour::of(&bytes);
            assert!(behaviour != Behaviour::PanicsAtLoad, "scripted panic");
            let mut state = self.state.lock().unwrap();
            state.next += 1;
            state.loads += 1;
            let id = state.next;
            state.candidates.insert(id, (stage, Digest::of(&bytes), behaviour));
            Ok(Candidate { id, stage, resident_bytes: bytes.len() as u64, load_ms: 1 })
        })
    }

    fn reproduce_golden<'a>(&'a self, candidate: &'a Candidate) -> BoxFuture<'a, Result<u32, HostError>> {
        Box::pin(async move {
            let behaviour = self.state.lock().unwrap().candidates[&candidate.id].2;
            match behaviour {
                Behaviour::GoldenDiffers => Err(HostError::Golden {
                    case: 1,
                    found: Some(0.5),
                    wanted: Some(0.999),
                    detail: "cosine 0.5".into(),
                }),
                Behaviour::PanicsAtGolden => panic!("scripted panic"),
                Behaviour::Slow => {
                    self.released.subscribe().wait_for(|released| *released).await.expect("the host lives");
                    Ok(GOLDEN_CASES)
                }
                _ => Ok(GOLDEN_CASES),
            }
        })
    }

    fn speech_on(&self, candidates: &[Candidate]) -> Arc<dyn Speech> {
        let on = candidates.iter().map(|candidate| (candidate.stage, candidate.id)).collect();
        Arc::new(FakeCalls { on, state: Arc::clone(&self.state), said: Arc::default() })
    }

    fn is_there(&self, candidate: &Candidate) -> bool {
        self.state.lock().unwrap().candidates.contains_key(&candidate.id)
    }

    fn activate(&self, candidates: Vec<Candidate>) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(async move {
            let mut state = self.state.lock().unwrap();
            for candidate in candidates {
                let (stage, digest, behaviour) = state.candidates.remove(&candidate.id).expect("a candidate");
                if behaviour == Behaviour::DiesAtSwap {
                    // A worker that dies takes everything with it that was not live yet.
                    state.candidates.clear();
                    return Err(HostError::Died);
                }
                state.live.insert(stage, digest);
                state.behaviours.insert(stage, behaviour);
            }
            Ok(())
        })
    }

    fn discard(&self, candidate: Candidate) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.state.lock().unwrap().candidates.remove(&candidate.id);
        })
    }

    fn load_share(&self) -> f32 {
        0.25
    }
}

/// The models of the host as calls use them: a sentence is a tone, and what was said last is what is heard.
#[derive(Clone)]
struct FakeCalls {
    on: BTreeMap<Stage, u64>,
    state: Arc<Mutex<State>>,
    said: Arc<Mutex<String>>,
}

impl FakeCalls {
    /// Does what the file of the stage's model says, the candidate's where there is one.
    async fn does<T>(self, stage: Stage, good: T) -> Result<T, SpeechError> {
        let behaviour = {
            let state = self.state.lock().unwrap();
            match self.on.get(&stage) {
                Some(id) => state.candidates.get(id).map(|(_, _, behaviour)| *behaviour),
                None => state.behaviours.get(&stage).copied(),
            }
        };
        match behaviour {
            None => Err(SpeechError::NoModel(stage)),
            Some(Behaviour::FailsInCalls) => Err(SpeechError::Model("a scripted failure".into())),
            Some(Behaviour::SlowInCalls) => {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                Ok(good)
            }
            Some(_) => Ok(good),
        }
    }
}

struct FakeVad(FakeCalls);

impl VadSlot for FakeVad {
    fn push<'a>(&'a mut self, samples: &'a [f32]) -> BoxFuture<'a, Result<Vec<f32>, SpeechError>> {
        let loud = |frame: &[f32; 512]| if frame.iter().any(|sample| sample.abs() > 0.05) { 0.9 } else { 0.1 };
        Box::pin(self.0.clone().does(Stage::Vad, samples.as_chunks::<512>().0.iter().map(loud).collect()))
    }
}

impl Speech for FakeCalls {
    fn due(self: Arc<Self>, _: Instant) -> Arc<dyn Speech> {
        self
    }

    fn open_vad(&self) -> Result<Box<dyn VadSlot>, SpeechError> {
        Ok(Box::new(FakeVad(self.clone())))
    }

    fn turn_probability(&self, _: Vec<f32>) -> BoxFuture<'_, Result<f32, SpeechError>> {
        Box::pin(self.clone().does(Stage::Turn, 0.9))
    }

    fn transcribe(&self, _: Vec<f32>) -> BoxFuture<'_, Result<String, SpeechError>> {
        let said = self.said.lock().unwrap().clone();
        Box::pin(self.clone().does(Stage::Asr, said))
    }

    fn generate(&self, _: Vec<ChatMessage>, _: usize) -> Result<Pieces, SpeechError> {
        let (send, receive) = tokio::sync::mpsc::channel::<Result<String, SpeechError>>(1);
        let answering = self.clone().does(Stage::Llm, "On Saturday.".to_owned());
        tokio::spawn(async move { send.send(answering.await).await });
        Ok(Pieces::new(receive, ()))
    }

    fn speak(&self, phrase: String, _: f32) -> BoxFuture<'_, Result<Vec<f32>, SpeechError>> {
        *self.said.lock().unwrap() = phrase;
        let tone = (0..24_000).map(|n| 0.3 * (n as f32 * 0.05).sin()).collect();
        Box::pin(self.clone().does(Stage::Tts, tone))
    }

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Vec<f32>>, SpeechError>> {
        Box::pin(self.clone().does(Stage::Embed, vec![vec![1.0]; texts.len()]))
    }
}

/// Speech is not what these tests are about.
pub struct NoSpeech;

impl Speech for NoSpeech {
    fn due(self: Arc<Self>, _: Instant) -> Arc<dyn Speech> {
        self
    }

    fn open_vad(&self) -> Result<Box<dyn VadSlot>, SpeechError> {
        Err(SpeechError::NoModel(Stage::Vad))
    }

    fn turn_probability(&self, _: Vec<f32>) -> BoxFuture<'_, Result<f32, SpeechError>> {
        Box::pin(async { Err(SpeechError::NoModel(Stage::Turn)) })
    }

    fn transcribe(&self, _: Vec<f32>) -> BoxFuture<'_, Result<String, SpeechError>> {
        Box::pin(async { Err(SpeechError::NoModel(Stage::Asr)) })
    }

    fn generate(&self, _: Vec<ChatMessage>, _: usize) -> Result<Pieces, SpeechError> {
        Err(SpeechError::NoModel(Stage::Llm))
    }

    fn speak(&self, _: String, _: f32) -> BoxFuture<'_, Result<Vec<f32>, SpeechError>> {
        Box::pin(async { Err(SpeechError::NoModel(Stage::Tts)) })
    }

    fn embed(&self, _: Vec<String>) -> BoxFuture<'_, Result<Vec<Vec<f32>>, SpeechError>> {
        Box::pin(async { Err(SpeechError::NoModel(Stage::Embed)) })
    }
}
