//! While candidates are tried, each turn of a call is on one side, and no trial costs a call anything.

use crate::support::{Client, Did, FakeSpeech, Node, until};
use edge_agent::{
    speech::{BoxFuture, ChatMessage, Pieces, Speech, SpeechError, Transcript, VadSlot},
    trial::{Begin, Ended, UnderWay},
};
use nearfield_shared::{
    artefact::{Digest, Stage},
    trial::TrialSettings,
};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc, time::Instant};

/// Begins to try these stages of another set of scripted models on half of the turns. A turn's side follows from the seed and the call's random name, so
/// what comes to which side differs from run to run, and how much does hardly.
fn begin(node: &Node, candidate: &FakeSpeech, stages: &[Stage]) -> UnderWay {
    let candidates: BTreeMap<Stage, Digest> =
        stages.iter().map(|stage| (*stage, Digest::of(format!("new {stage}").as_bytes()))).collect();
    node.services.trials.begin(Begin {
        speech: Arc::new(Split { candidate: candidate.clone(), live: Arc::clone(&node.speech), stages: stages.into() }),
        candidates,
        settings: TrialSettings { share_percent: 50.0, turns_min: 5, time_s_max: 3_600, ..TrialSettings::default() },
        seed: 1,
    })
}

/// As a host makes it: the stages of the candidates are theirs, the others the live models'.
struct Split {
    candidate: FakeSpeech,
    live: Arc<FakeSpeech>,
    stages: Vec<Stage>,
}

impl Split {
    fn of(&self, stage: Stage) -> &FakeSpeech {
        if self.stages.contains(&stage) { &self.candidate } else { &self.live }
    }
}

impl Speech for Split {
    fn due(self: Arc<Self>, _: Instant) -> Arc<dyn Speech> {
        self
    }

    fn open_vad(&self) -> Result<Box<dyn VadSlot>, SpeechError> {
        self.of(Stage::Vad).open_vad()
    }

    fn turn_probability(&self, audio: Vec<f32>) -> BoxFuture<'_, Result<f32, SpeechError>> {
        self.of(Stage::Turn).turn_probability(audio)
    }

    fn transcribe(&self, audio: Vec<f32>) -> BoxFuture<'_, Result<String, SpeechError>> {
        self.of(Stage::Asr).transcribe(audio)
    }

    fn transcribe_with(
        &self,
        audio: Vec<f32>,
        draft: Transcript,
        words: Arc<[String]>,
    ) -> BoxFuture<'_, Result<Transcript, SpeechError>> {
        self.of(Stage::Asr).transcribe_with(audio, draft, words)
    }

    fn generate(&self, messages: Vec<ChatMessage>, tokens_max: usize) -> Result<Pieces, SpeechError> {
        self.of(Stage::Llm).generate(messages, tokens_max)
    }

    fn speak(&self, phrase: String, speed: f32) -> BoxFuture<'_, Result<Vec<f32>, SpeechError>> {
        self.of(Stage::Tts).speak(phrase, speed)
    }

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Vec<f32>>, SpeechError>> {
        self.of(Stage::Embed).embed(texts)
    }
}

/// One turn by voice, to the end of its answer.
async fn turn(client: &mut Client) -> Value {
    client.speak(400).await;
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["status"], "completed", "{done}");
    // What is played is not waited for: the next turn interrupts nothing that matters here.
    done
}

fn answer(done: &Value) -> String {
    done["response"]["output"][0]["content"][0]["transcript"].as_str().unwrap_or_default().to_owned()
}

/// Models whose answers name them, for so many turns.
fn named(speech: &FakeSpeech, name: &'static str, words: &str, turns: usize) {
    let mut script = speech.script.lock().unwrap();
    for _ in 0..turns {
        script.words.push_back(Did::Well(words.into()));
        script.answers.push_back(vec![Did::Well(name)]);
    }
}

async fn call(node: &Node) -> Client {
    let mut client = node.call().await;
    client.server_vad().await;
    client
}

#[tokio::test]
async fn each_turn_is_on_one_side_with_all_its_stages_and_both_sides_are_counted() {
    let node = Node::start().await;
    node.warm().await;
    let candidate = FakeSpeech::default();
    let under_way = begin(&node, &candidate, &[Stage::Asr, Stage::Llm, Stage::Tts]);
    named(&node.speech, "I am the old one.", "who are you, old one", 40);
    named(&candidate, "I am the new one.", "who are you, new one", 40);
    let mut sides = [0u32; 2];
    let mut calls = [call(&node).await, call(&node).await];
    for n in 0..40 {
        if under_way_turns(&node) == (sides[0], sides[1]) && sides[0].min(sides[1]) >= 5 {
            break;
        }
        let client = &mut calls[n % 2];
        client.seen.clear();
        let done = turn(client).await;
        let heard =
            client.seen.iter().rev().find(|e| e["type"] == "conversation.item.input_audio_transcription.completed");
        let heard = heard.expect("words")["transcript"].as_str().unwrap().to_owned();
        let is_new = answer(&done).contains("new");
        assert_eq!(heard.contains("new"), is_new, "one turn, one side: {heard}: {}", answer(&done));
        let voice = if is_new { &candidate } else { &*node.speech };
        assert_eq!(voice.script.lock().unwrap().spoken.last(), Some(&answer(&done)), "its voice, too");
        sides[usize::from(is_new)] += 1;
        let counted = sides;
        until(|| under_way_turns(&node) == (counted[0], counted[1])).await;
    }
    assert!(sides.iter().all(|turns| *turns >= 5), "{sides:?}");
    assert!(matches!(under_way.verdict(|| true).await, Ended::Holds { judged: true, .. }));
    drop(under_way);
    // Between turns the candidates have gone; the calls go on with what serves.
    for client in &mut calls {
        assert_eq!(answer(&turn(client).await), "I am the old one.");
    }
}

fn under_way_turns(node: &Node) -> (u32, u32) {
    let trying = node.services.trials.progress().expect("a trial");
    (trying.live_turns, trying.turns)
}

#[tokio::test]
async fn what_a_candidate_fails_to_do_the_live_model_does_and_it_counts_against_the_candidate() {
    for (stage, error) in [
        (Stage::Asr, SpeechError::Model("broken".into())),
        (Stage::Llm, SpeechError::BadInput("gone".into())),
        (Stage::Tts, SpeechError::WorkerDied),
    ] {
        let node = Node::start().await;
        node.warm().await;
        let candidate = FakeSpeech::default();
        {
            let mut script = candidate.script.lock().unwrap();
            for _ in 0..100 {
                script.words.push_back(Did::Fails(error.clone()));
                script.answers.push_back(vec![Did::Fails(error.clone())]);
                script.speaking.push_back(Did::Fails(error.clone()));
            }
        }
        let under_way = begin(&node, &candidate, &[stage]);
        let mut client = call(&node).await;
        let verdict = under_way.verdict(|| true);
        let mut verdict = std::pin::pin!(verdict);
        let ended = loop {
            // Every turn is answered, whichever side it is on.
            let ended = tokio::select! {
                ended = &mut verdict => Some(ended),
                done = turn(&mut client) => {
                    assert!(answer(&done).starts_with("This is the first sentence."), "{stage}: {done}");
                    None
                }
            };
            if let Some(ended) = ended {
                break ended;
            }
        };
        assert!(matches!(ended, Ended::Breached(_)), "{stage}: {ended:?}");
    }
}

#[tokio::test]
async fn an_answer_of_which_something_was_heard_is_not_begun_again() {
    let node = Node::start().await;
    node.warm().await;
    let candidate = FakeSpeech::default();
    {
        let mut script = candidate.script.lock().unwrap();
        for _ in 0..100 {
            let broken = Did::Fails(SpeechError::Model("broken".into()));
            script.answers.push_back(vec![Did::Well("Half of it is said. "), broken]);
        }
    }
    let _under_way = begin(&node, &candidate, &[Stage::Llm]);
    let mut client = call(&node).await;
    loop {
        client.speak(400).await;
        let done = client.expect("response.done").await;
        if done["response"]["status"] == "completed" {
            continue;
        }
        assert_eq!(done["response"]["status"], "failed", "{done}");
        break;
    }
    let prompts = candidate.script.lock().unwrap().prompts.len();
    assert!(prompts >= 1);
    drop(client);
    node.quiet().await;
}

#[tokio::test]
async fn the_kept_phrases_of_one_voice_are_never_said_by_the_other() {
    let node = Node::start().await;
    node.warm().await;
    let candidate = FakeSpeech::default();
    let _under_way = begin(&node, &candidate, &[Stage::Tts]);
    let before = node.speech.script.lock().unwrap().spoken.len();
    node.script(|script| script.words.extend((0..60).map(|_| Did::Well("when are you open".into()))));
    let mut client = call(&node).await;
    for _ in 0..60 {
        turn(&mut client).await;
        if candidate.script.lock().unwrap().spoken.len() >= 2
            && under_way_turns(&node).0 >= 2
            && under_way_turns(&node).1 >= 2
        {
            break;
        }
    }
    // The live voice had said it before the trial, the candidate says it once for itself.
    assert_eq!(node.speech.script.lock().unwrap().spoken.len(), before, "the live voice's is kept and used");
    assert_eq!(candidate.script.lock().unwrap().spoken, ["We are open from nine to six.", "Come by."]);
    assert!(candidate.script.lock().unwrap().transcribed_ms.is_empty(), "the other stages are the live models'");
}
