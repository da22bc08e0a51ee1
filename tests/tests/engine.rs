//! The engine with the real models: proven on this device, then several calls at once, and what each call gets is what it would
//! have got alone.

use control_plane::registry::{Cache, Catalogue, Fetcher, Quantise, ensure, ensure_as, speech::Utterance};
use edge_agent::{
    speech::Speech,
    trial::spoken_call::{self, judge},
};
use nearfield_inference::{
    device::{Want, select},
    engine::{Cancel, ChatMessage, Engine, EngineError, EngineHandle, Limits, ModelFile, Role, Transcript},
};
use nearfield_shared::artefact::Stage;
use nearfield_tests::MODELS;
use std::io::Write as _;
use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

fn file(name: &str) -> ModelFile {
    let path = ensure(&[name]).expect("the model").remove(0);
    ModelFile::open(path).expect("a GGUF file")
}

fn utterances(ids: &[&str]) -> Vec<Utterance> {
    let fetcher = Fetcher::new(Cache::of_user().expect("a cache"));
    let speech = Catalogue::builtin().and_then(|catalogue| catalogue.speech()).expect("the list of recordings");
    speech.get(&fetcher, ids).expect("the recordings")
}

fn start(want: &Want) -> Option<Engine> {
    match select(want) {
        Ok(selected) => {
            println!("on {}", selected.name);
            Some(Engine::start(selected, Limits::default()).expect("an engine"))
        }
        Err(error) => {
            // Past the test harness, which shows nothing of a test that passes.
            writeln!(std::io::stderr(), "SKIPPED: {error}").expect("stderr");
            None
        }
    }
}

/// Loads, proves and activates a model; what is printed is the record of the proof.
async fn go_live(handle: &EngineHandle, stage: Stage, name: &str) {
    let file = file(name);
    let stored = file.gguf().bytes().len();
    let candidate = handle.load(file, stage).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    let report = handle.reproduce_golden(&candidate).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    println!(
        "{stage:>5} {name}: {} bytes resident, {stored} in the file, loaded in {} ms; {}",
        candidate.resident_bytes,
        candidate.load_ms,
        report.summary()
    );
    for case in &report.cases {
        println!("      expected {}; found {}", case.expected, case.found);
    }
    assert!(report.passed(), "{name}: {}", report.summary());
    handle.activate(candidate).await.unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// One engine on the CPU with all six models live, for the tests that do not change its models.
async fn shared() -> EngineHandle {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    static READY: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let handle = ENGINE.get_or_init(|| start(&Want::Cpu).expect("the CPU is always there")).handle();
    READY
        .get_or_init(|| async {
            for (stage, name) in MODELS {
                go_live(&handle, stage, name).await;
            }
        })
        .await;
    handle
}

async fn answer(handle: &EngineHandle, prompt: &str, tokens: usize) -> Result<String, EngineError> {
    let messages = vec![
        ChatMessage::new("system", "You are a friendly assistant. Answer in one short sentence."),
        ChatMessage::new("user", prompt),
    ];
    let mut pieces = handle.generate(messages, tokens, &Cancel::new())?;
    let mut text = String::new();
    while let Some(piece) = pieces.recv().await {
        text += &piece?;
    }
    Ok(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_model_reproduces_its_golden_results_and_stays_quantised() {
    let handle = shared().await;
    let snapshot = handle.snapshot();
    for (stage, name) in MODELS {
        let live = snapshot.live(stage).unwrap_or_else(|| panic!("{stage} has no live model"));
        let floats: usize = file(name).gguf().tensors().map(|tensor| 4 * tensor.elems()).sum();
        println!("{stage:>5} {name}: {} bytes resident, {floats} as floats", live.resident_bytes);
        // The VAD is small enough to be kept in floats.
        if stage != Stage::Vad {
            assert!(live.resident_bytes * 2 < floats, "the weights of {name} do not stay quantised");
        }
    }
    println!("all: {} bytes resident on {}", snapshot.resident_bytes, snapshot.device);
}

/// The call with which a node tries candidates, with the models that serve and with a voice and a recogniser beside them.
#[tokio::test(flavor = "multi_thread")]
async fn a_spoken_call_goes_well_with_the_default_models_and_with_candidates_beside_them() {
    let handle = shared().await;
    let place = async |handle: EngineHandle, what: &str| {
        let speech: Arc<dyn Speech> = Arc::new(handle);
        let outcome = spoken_call::place(&speech, &Stage::ALL.into()).await.unwrap_or_else(|e| panic!("{what}: {e:?}"));
        println!("{what}: {outcome:?}");
        outcome
    };
    let live = place(handle.clone(), "live").await;
    assert!(live.finished.is_some(), "the turn model was asked");
    let mut candidates = Vec::new();
    for (stage, name) in MODELS.into_iter().filter(|(stage, _)| [Stage::Asr, Stage::Tts].contains(stage)) {
        candidates.push(handle.load(file(name), stage).await.expect("beside the live one"));
    }
    let tried = handle.on(candidates.iter().map(|candidate| (candidate.stage, candidate.id)));
    let tried = place(tried, "with candidates").await;
    judge::compare(&candidates.iter().map(|candidate| candidate.stage).collect(), &tried, &live)
        .expect("the same models");
    // Gone, the candidates fail, and the live models do not.
    let gone = handle.on(candidates.iter().map(|candidate| (candidate.stage, candidate.id)));
    drop(candidates);
    let gone: Arc<dyn Speech> = Arc::new(gone);
    let trouble = spoken_call::place(&gone, &Stage::ALL.into()).await.expect_err("nobody speaks");
    assert_eq!(trouble.stage, Stage::Tts, "{trouble:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_calls_at_once_get_what_each_gets_alone() {
    let handle = shared().await;
    let (one, two) =
        (utterances(&["goforward"]).remove(0).samples(), utterances(&["librivox_0880"]).remove(0).samples());
    let call = async |pcm: &[f32], prompt: &str| {
        let mut stream = handle.open_vad().expect("a slot");
        let mut speech = Vec::new();
        // As a call brings it: 20 ms at a time.
        for piece in pcm.chunks(320) {
            speech.extend(stream.push(piece).await.expect("probabilities"));
        }
        let turn = handle.turn_probability(pcm.to_vec()).await.expect("a probability");
        let heard = handle.transcribe(pcm.to_vec(), &Cancel::new()).await.expect("a transcript");
        let said = answer(&handle, prompt, 24).await.expect("an answer");
        let phrase = format!("You said: {heard}");
        let audio = handle.speak(phrase.clone(), 1.0, &Cancel::new()).await.expect("audio");
        let embedding = handle.embed(vec![phrase]).await.expect("an embedding").remove(0);
        (speech, turn, heard, said, audio, embedding)
    };
    let (prompt_one, prompt_two) = ("What is the capital of France?", "Why is the sky blue?");
    let alone = (call(&one, prompt_one).await, call(&two, prompt_two).await);
    let together = tokio::join!(call(&one, prompt_one), call(&two, prompt_two));
    for (alone, together) in [(&alone.0, &together.0), (&alone.1, &together.1)] {
        println!("heard {:?}, answered {:?}, spoke {} samples", alone.2, alone.3, alone.4.len());
        assert_eq!(alone.2, together.2, "transcript");
        assert_eq!(alone.3, together.3, "answer");
        assert_eq!(alone.4, together.4, "audio");
        assert_eq!(alone.5, together.5, "embedding");
        assert_eq!(alone.1, together.1, "turn");
        assert_eq!(alone.0.len(), together.0.len());
        for (a, b) in alone.0.iter().zip(&together.0) {
            assert!((a - b).abs() < 1e-4, "a frame in a batch: {a} and {b}");
        }
        assert!(alone.0.iter().any(|p| *p > 0.9), "speech was found");
        assert!(!alone.3.trim().is_empty() && alone.4.len() > 12_000);
    }
    assert!(alone.0.2.to_lowercase().contains("go forward"), "{}", alone.0.2);
}

#[tokio::test(flavor = "multi_thread")]
async fn words_have_their_times_while_other_transcripts_are_written() {
    let handle = shared().await;
    let calls = utterances(&["goforward", "librivox_0880", "cards_003"]);
    let cancel = Cancel::new();
    let timed = async |call: usize| {
        let pcm = calls[call].samples();
        let length_ms = (pcm.len() / 16) as u32;
        let heard = handle.transcribe_timed(pcm, &cancel).await.expect("a transcript");
        assert!(
            heard.text.split_whitespace().eq(heard.words.iter().map(|word| word.text.as_str())),
            "{}",
            calls[call].id
        );
        assert!(heard.words.windows(2).all(|pair| pair[0].end_ms <= pair[1].start_ms));
        assert!(heard.words.iter().all(|word| word.start_ms <= word.end_ms && word.end_ms <= length_ms + 24));
        heard.text
    };
    let plain = async |call: usize| handle.transcribe(calls[call].samples(), &cancel).await.expect("a transcript");
    let (first, second, third) = tokio::join!(timed(0), plain(1), timed(2));
    assert_eq!([first, second, third], [plain(0).await, plain(1).await, plain(2).await], "times change no word");
    assert_eq!(handle.transcribe_timed(vec![0.0; 4_000], &cancel).await.map(|heard| heard.words.len() < 4), Ok(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn drafted_transcripts_of_several_calls_are_what_each_hears_alone() {
    let handle = shared().await;
    let calls = utterances(&["goforward", "librivox_0880", "cards_003", "cards_005", "librivox_0870"]);
    let cancel = Cancel::new();
    let hear = async |pcm: Vec<f32>, draft: Transcript| handle.transcribe_after(pcm, draft, &cancel).await;
    let mut drafts = Vec::new();
    let mut alone = Vec::new();
    for call in &calls {
        let pcm = call.samples();
        drafts.push(hear(pcm[..pcm.len() / 2].to_vec(), Transcript::default()).await.expect("a draft"));
        alone.push(hear(pcm, Transcript::default()).await.expect("a transcript"));
    }
    let together = async |call: usize, draft: Transcript| {
        let heard = hear(calls[call].samples(), draft).await.expect("a transcript");
        assert_eq!((&heard.text, &heard.tokens), (&alone[call].text, &alone[call].tokens), "{}", calls[call].id);
    };
    // Each with its own draft; one with another's, and one with what it will say.
    tokio::join!(
        together(0, drafts[0].clone()),
        together(1, drafts[1].clone()),
        together(2, drafts[1].clone()),
        together(3, alone[3].clone()),
        together(4, Transcript::default()),
    );
    let plain = handle.transcribe(calls[0].samples(), &cancel).await.expect("a transcript");
    assert_eq!(plain, alone[0].text);
    let refused = hear(vec![0.0; 31 * 16_000], drafts[0].clone()).await;
    assert!(matches!(refused, Err(EngineError::BadInput(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sentences_of_several_calls_are_embedded_together_as_each_is_alone() {
    let handle = shared().await;
    let sentences =
        ["When do you open?", "Where is my parcel?", "Stop.", "How much does it cost to send a box abroad?"];
    let embed = |texts: &[&str]| handle.embed(texts.iter().map(|text| (*text).to_owned()).collect());
    let mut alone = Vec::new();
    for sentence in sentences {
        alone.extend(embed(&[sentence]).await.expect("a vector"));
    }
    let (one, two, three) = tokio::join!(embed(&sentences[..1]), embed(&sentences[1..3]), embed(&sentences[3..]));
    let together = [one, two, three].map(|found| found.expect("vectors")).concat();
    for ((alone, together), sentence) in alone.iter().zip(&together).zip(sentences) {
        let worst = alone.iter().zip(together).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst < 1e-5, "{sentence}: values differ by up to {worst}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn phrases_of_several_calls_share_steps_and_sound_as_each_does_alone() {
    // An engine of its own, whose steps are counted.
    let engine = start(&Want::Cpu).expect("the CPU is always there");
    let handle = engine.handle();
    go_live(&handle, Stage::Tts, "hibari").await;
    let steps = || handle.snapshot().stage(Stage::Tts).steps;
    let cancel = Cancel::new();
    let phrases = ["Yes.", "No, sorry.", "At nine.", "On Saturdays we are open from ten until the shop is empty."];
    let mut alone = Vec::new();
    let before = steps();
    for phrase in phrases {
        alone.push(handle.speak(phrase.to_owned(), 1.0, &cancel).await.expect("audio"));
    }
    let one_by_one = steps() - before;
    let long = "This is said first, and while it is rendered the others come in and wait for their turn. ".repeat(5);
    let before = steps();
    handle.speak(long.clone(), 1.0, &cancel).await.expect("audio");
    let of_the_long_one = steps() - before;
    let before = steps();
    let now = Instant::now();
    let (urgent, patient) = (handle.due(now), handle.due(now + Duration::from_secs(5)));
    let unwanted = Cancel::new();
    let cancelled = async {
        let spoken = patient.speak("Nobody waits for this any more.".to_owned(), 1.0, &unwanted);
        let stop = async { unwanted.cancel() };
        tokio::join!(spoken, stop).0
    };
    let say = |i: usize| patient.speak(phrases[i].to_owned(), 1.0, &cancel);
    let found = tokio::join!(urgent.speak(long, 1.0, &cancel), say(0), say(1), cancelled, say(2), say(3));
    let together = steps() - before - of_the_long_one;
    found.0.expect("audio");
    assert_eq!(found.3, Err(EngineError::Cancelled));
    for (i, spoken) in [found.1, found.2, found.4, found.5].into_iter().enumerate() {
        let (spoken, alone) = (spoken.expect("audio"), &alone[i]);
        assert_eq!(spoken.len(), alone.len(), "{}", phrases[i]);
        let worst = alone.iter().zip(&spoken).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst <= 1e-4, "{}: samples differ by up to {worst}", phrases[i]);
    }
    println!("{} phrases: {one_by_one} steps one by one, {together} at once", phrases.len());
    assert!(together < one_by_one, "{together} steps at once, {one_by_one} one by one");
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_of_several_calls_are_judged_as_each_is_alone() {
    let handle = shared().await;
    let turns: Vec<Vec<f32>> =
        utterances(&["goforward", "librivox_0880", "cards_003"]).iter().map(Utterance::samples).collect();
    let judge = |pcm: &Vec<f32>| handle.turn_probability(pcm.clone());
    let mut alone = Vec::new();
    for turn in &turns {
        alone.push(judge(turn).await.expect("a probability"));
    }
    let (one, two, three) = tokio::join!(judge(&turns[0]), judge(&turns[1]), judge(&turns[2]));
    for (alone, together) in alone.into_iter().zip([one, two, three]) {
        let together = together.expect("a probability");
        assert!((alone - together).abs() <= 1e-5, "{alone} alone, {together} at once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_answer_ends_with_what_was_said_and_the_next_is_whole() {
    let handle = shared().await;
    let whole = answer(&handle, "Name three colours.", 16).await.expect("an answer");
    let cancel = Cancel::new();
    let messages = vec![ChatMessage::new("user", "Tell me a very long story about the sea.")];
    let mut pieces = handle.generate(messages, 400, &cancel).expect("admitted");
    let first = pieces.recv().await.expect("a piece").expect("text");
    cancel.cancel();
    let mut count = 1;
    let last = loop {
        match pieces.recv().await.expect("it ends with an error, not in silence") {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(last, EngineError::Cancelled);
    assert!(pieces.recv().await.is_none(), "it ends once");
    println!("{first:?} and {} pieces more before the cancel was seen", count - 1);
    assert!(count < 50, "{count} pieces of 400 came after the cancel");
    assert_eq!(answer(&handle, "Name three colours.", 16).await.expect("an answer"), whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn speech_that_stops_being_wanted_is_not_finished() {
    let handle = shared().await;
    let cancel = Cancel::new();
    let text = "This sentence is spoken to nobody, because the caller has begun to speak again. ".repeat(5);
    let spoken = handle.speak(text, 1.0, &cancel);
    let stop = async {
        cancel.cancel();
    };
    let (spoken, ()) = tokio::join!(spoken, stop);
    assert_eq!(spoken, Err(EngineError::Cancelled));
    let refused = answer(&handle, &"word ".repeat(4_000), 16).await;
    assert!(matches!(refused, Err(EngineError::BadInput(_))), "{refused:?}");
    let role =
        handle.generate(vec![ChatMessage::new("wizard", "hi")], 4, &Cancel::new()).expect("admitted").recv().await;
    assert!(matches!(role, Some(Err(EngineError::BadInput(_)))), "{role:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_goes_live_while_the_old_one_writes() {
    let engine = start(&Want::Cpu).expect("the CPU is always there");
    let handle = engine.handle();
    assert_eq!(
        handle.transcribe(vec![0.0; 16_000], &Cancel::new()).await,
        Err(EngineError::NoModel(Stage::Asr)),
        "nothing is live yet"
    );
    go_live(&handle, Stage::Asr, "moonshine-tiny").await;
    let utterance = utterances(&["librivox_0870"]).remove(0);
    let alone = handle.transcribe(utterance.samples(), &Cancel::new()).await.expect("a transcript");
    let old = handle.snapshot().live(Stage::Asr).expect("live").clone();

    let path = ensure_as("moonshine-tiny", Quantise::Q4_1).expect("the model");
    let next = handle.load(ModelFile::open(path).expect("a file"), Stage::Asr).await.expect("a candidate");
    assert!(next.resident_bytes < old.resident_bytes);
    assert_eq!(handle.snapshot().models.len(), 2);
    // The transcript is wanted late, so that the activation, which is not a step, overtakes it.
    let lazily = handle.due(Instant::now() + Duration::from_secs(3_600));
    let cancel = Cancel::new();
    let (during, activated) = tokio::join!(lazily.transcribe(utterance.samples(), &cancel), handle.activate(next));
    activated.expect("activated");
    assert_eq!(during.expect("a transcript"), alone, "the old model finished its job");
    let after = handle.transcribe(utterance.samples(), &Cancel::new()).await.expect("a transcript");
    println!("before: {alone}\nafter:  {after}");
    let models = handle.snapshot().models;
    assert!(models.iter().all(|model| model.id != old.id), "its memory is free: {models:?}");
    assert_eq!(models.iter().filter(|model| model.role == Role::Live).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_for_another_stage_is_refused_and_the_live_model_serves_on() {
    let handle = shared().await;
    match handle.load(file("silero-vad"), Stage::Asr).await.err() {
        Some(EngineError::Model(what)) => assert!(what.contains("moonshine"), "{what}"),
        other => panic!("{other:?}"),
    }
    let utterance = utterances(&["cards_003"]).remove(0);
    let heard = handle.transcribe(utterance.samples(), &Cancel::new()).await.expect("a transcript");
    assert!(heard.to_lowercase().contains("seven"), "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_software_gpu_is_proven_with_the_smallest_model() {
    let Some(engine) = start(&Want::SoftwareGpu) else { return };
    go_live(&engine.handle(), Stage::Vad, "silero-vad").await;
}
