//! A scripted node in one object: what is spoken is a tone, what is heard is what was spoken last, and each stage misbehaves on request.

use super::*;
use crate::speech::{BoxFuture, Pieces, VadSlot};
use std::sync::Mutex;

#[derive(Default)]
struct Scripted {
    /// The stage that misbehaves, and how.
    bad: Option<(Stage, How)>,
    said: Mutex<String>,
    /// How often the model of the bad stage says that it is busy before it does anything.
    busy: Mutex<u32>,
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    Fails,
    /// Its result makes no sense.
    Nonsense,
    /// It hears, or says, something else.
    Wrong,
}

impl Scripted {
    fn does<T>(&self, stage: Stage, good: T, nonsense: T, wrong: T) -> Result<T, SpeechError> {
        let mut busy = self.busy.lock().unwrap();
        if *busy > 0 {
            *busy -= 1;
            return Err(SpeechError::Overloaded { retry_after_ms: 1 });
        }
        match self.bad.filter(|(bad, _)| *bad == stage) {
            None => Ok(good),
            Some((_, How::Fails)) => Err(SpeechError::Model("a scripted failure".into())),
            Some((_, How::Nonsense)) => Ok(nonsense),
            Some((_, How::Wrong)) => Ok(wrong),
        }
    }
}

fn soon<'a, T: Send + 'a>(done: Result<T, SpeechError>) -> BoxFuture<'a, Result<T, SpeechError>> {
    Box::pin(async { done })
}

struct Loudness(Option<(Stage, How)>);

impl VadSlot for Loudness {
    fn push<'a>(&'a mut self, samples: &'a [f32]) -> BoxFuture<'a, Result<Vec<f32>, SpeechError>> {
        let speech = |frame: &[f32]| frame.iter().any(|sample| sample.abs() > 0.05);
        let probability = |frame: &[f32]| match self.0 {
            Some((Stage::Vad, How::Nonsense)) => f32::NAN,
            Some((Stage::Vad, How::Wrong)) => 0.1,
            _ if speech(frame) => 0.9,
            _ => 0.1,
        };
        soon(Ok(samples.as_chunks::<512>().0.iter().map(|frame| probability(frame)).collect()))
    }
}

impl Speech for Scripted {
    fn due(self: Arc<Self>, _: Instant) -> Arc<dyn Speech> {
        self
    }

    fn open_vad(&self) -> Result<Box<dyn VadSlot>, SpeechError> {
        self.does(Stage::Vad, (), (), ())?;
        Ok(Box::new(Loudness(self.bad)))
    }

    fn turn_probability(&self, _: Vec<f32>) -> BoxFuture<'_, Result<f32, SpeechError>> {
        soon(self.does(Stage::Turn, 0.9, f32::NAN, 0.1))
    }

    fn transcribe(&self, audio: Vec<f32>) -> BoxFuture<'_, Result<String, SpeechError>> {
        assert!(audio.iter().any(|sample| sample.abs() > 0.05), "only speech is transcribed");
        let said = self.said.lock().unwrap().clone();
        soon(self.does(Stage::Asr, said, String::new(), "the weather is fine".into()))
    }

    fn generate(&self, messages: Vec<ChatMessage>, tokens_max: usize) -> Result<Pieces, SpeechError> {
        assert_eq!((messages.len(), tokens_max), (2, ANSWER_TOKENS));
        let (send, receive) = tokio::sync::mpsc::channel::<Result<String, SpeechError>>(2);
        let piece = self.does(Stage::Llm, "On Saturday.".to_owned(), " ".into(), "?!".into());
        send.try_send(piece).unwrap();
        Ok(Pieces::new(receive, ()))
    }

    fn speak(&self, phrase: String, _: f32) -> BoxFuture<'_, Result<Vec<f32>, SpeechError>> {
        let tone: Vec<f32> = (0..24_000).map(|n| 0.3 * (n as f32 * 0.05).sin()).collect();
        *self.said.lock().unwrap() = phrase;
        soon(self.does(Stage::Tts, tone, vec![f32::NAN; 24_000], vec![0.0; 24_000]))
    }

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Vec<f32>>, SpeechError>> {
        soon(self.does(Stage::Embed, vec![vec![1.0]; texts.len()], vec![vec![f32::NAN]], vec![]))
    }
}

async fn call(speech: Scripted, stages: &[Stage]) -> Result<Outcome, Trouble> {
    let speech: Arc<dyn Speech> = Arc::new(speech);
    place(&speech, &stages.iter().copied().collect()).await
}

#[tokio::test]
async fn a_trouble_names_the_stage_at_which_it_shows() {
    let well = call(Scripted::default(), &Stage::ALL).await.expect("all is well");
    assert_eq!(well.finished, Some(true));
    for stage in Stage::ALL {
        for how in [How::Fails, How::Nonsense, How::Wrong] {
            let ended = call(Scripted { bad: Some((stage, how)), ..Scripted::default() }, &Stage::ALL).await;
            if (stage, how) == (Stage::Turn, How::Wrong) {
                // Silence ends the turn then; it is held against the live model's own verdict.
                assert_eq!(ended.expect("the turn ended").finished, Some(false));
                continue;
            }
            let trouble = ended.expect_err("a trouble");
            assert_eq!(trouble.stage, stage, "{trouble:?}");
            let misheard = matches!(trouble.kind, TroubleKind::Misheard { wrong } if wrong > 0.9);
            assert_eq!(misheard, stage == Stage::Asr && how != How::Fails, "{trouble:?}");
        }
    }
}

#[tokio::test]
async fn a_call_is_made_of_the_stages_that_are_there() {
    use Stage::{Asr, Embed, Llm, Tts, Turn, Vad};
    for stages in [vec![], vec![Llm], vec![Asr, Tts], vec![Turn, Tts], vec![Vad, Asr], vec![Tts, Llm], vec![Embed]] {
        call(Scripted::default(), &stages).await.unwrap_or_else(|trouble| panic!("{stages:?}: {trouble:?}"));
    }
}

#[tokio::test]
async fn a_model_that_is_busy_is_asked_again_and_one_that_stays_so_is_not_blamed() {
    let busy = |times: u32| Scripted { busy: Mutex::new(times), ..Scripted::default() };
    call(busy(2), &Stage::ALL).await.expect("it had time at last");
    let trouble = call(busy(100), &Stage::ALL).await.expect_err("it never has time");
    assert_eq!(trouble.kind, TroubleKind::Busy);
}
