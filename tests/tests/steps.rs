//! How long the device is held at once: every job is cut into steps, and voice activity never waits for more than one.
//!
//! What is asserted counts steps; the times are printed for a person (`--nocapture`), since they belong to the machine.

use control_plane::registry::{Cache, Catalogue, Fetcher, ensure};
use nearfield_inference::{
    Device,
    asr::Moonshine,
    embed::MiniLm,
    engine::{Cancel, ChatMessage, EngineHandle, Transcript, VAD_FRAME_SAMPLES},
    llm::{Llama, Sampling},
    tts::{Hibari, Rendering, g2p::Phonemizer},
    turn::SmartTurn,
};
use nearfield_shared::{artefact::Stage, gguf::Gguf};
use nearfield_tests::engine_with_all_models;
use std::time::Instant;

/// Eight seconds of speech: several recordings after one another.
fn speech() -> Vec<f32> {
    let fetcher = Fetcher::new(Cache::of_user().expect("a cache"));
    let speech = Catalogue::builtin().and_then(|catalogue| catalogue.speech()).expect("the list of recordings");
    let all = speech.get(&fetcher, &["goforward", "librivox_0880", "librivox_0870"]).expect("the recordings");
    let mut audio: Vec<f32> = all.iter().flat_map(|utterance| utterance.samples()).collect();
    audio.truncate(8 * 16_000);
    assert_eq!(audio.len(), 8 * 16_000);
    audio
}

async fn answer(handle: &EngineHandle, messages: Vec<ChatMessage>, tokens: usize) -> String {
    let mut pieces = handle.generate(messages, tokens, &Cancel::new()).expect("admitted");
    let mut text = String::new();
    while let Some(piece) = pieces.recv().await {
        text += &piece.expect("a piece");
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stage_gives_the_device_back_between_its_steps() {
    let engine = engine_with_all_models().await;
    let handle = engine.handle();
    let steps = |stage: Stage| handle.snapshot().stage(stage).steps;
    let at_least = |stage: Stage, least: u64, before: u64| {
        let taken = steps(stage) - before;
        println!("{stage:>5}: {taken} steps");
        assert!(taken >= least, "{stage} takes {taken} steps, {least} expected");
        taken
    };
    let cancel = Cancel::new();

    let audio = speech();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (mut stream, audio) = (handle.open_vad().expect("a slot"), audio[..30 * VAD_FRAME_SAMPLES].to_vec());
        calls.spawn(async move { stream.push(&audio).await.expect("probabilities").len() });
    }
    assert!(calls.join_all().await.into_iter().all(|found| found == 30));

    // The spectrum, the convolutions, four layers, the classifier.
    let before = steps(Stage::Turn);
    handle.turn_probability(audio.clone()).await.expect("a probability");
    at_least(Stage::Turn, 7, before);

    // The convolutions, six layers, the last norm, keys and values of the audio, then tokens.
    let before = steps(Stage::Asr);
    let heard = handle.transcribe_after(audio.clone(), Transcript::default(), &cancel).await.expect("a transcript");
    let plain = at_least(Stage::Asr, 9 + heard.tokens.len() as u64, before);
    let before = steps(Stage::Asr);
    let again = handle.transcribe_after(audio.clone(), heard.clone(), &cancel).await.expect("a transcript");
    let drafted = at_least(Stage::Asr, 10, before);
    assert_eq!(again, heard);
    assert!(drafted - 9 <= (plain - 9).div_ceil(7) + 1, "{drafted} steps with a draft, {plain} without");

    // A first answer feeds its instructions chunk by chunk and layer by layer; another call's answer copies them.
    let instructions =
        "Be friendly and answer in one short sentence, since the caller hears what you write. ".repeat(12);
    let ask = |question: &str| {
        let messages = vec![ChatMessage::new("system", instructions.clone()), ChatMessage::new("user", question)];
        answer(&handle, messages, 8)
    };
    let before = steps(Stage::Llm);
    ask("What do you know about parcels?").await;
    let first = at_least(Stage::Llm, 4 * 30, before);
    let before = steps(Stage::Llm);
    ask("Why is the sky blue?").await;
    let second = at_least(Stage::Llm, 30, before);
    assert!(second * 2 < first, "{second} steps after {first}: the instructions were fed again");

    let before = steps(Stage::Tts);
    let text = "We are open from nine to five on weekdays, and on Saturdays until noon.".to_owned();
    handle.speak(text, 1.0, &cancel).await.expect("audio");
    at_least(Stage::Tts, 12, before);

    let before = steps(Stage::Embed);
    let sentences = (0..16).map(|n| format!("How much is parcel number {n} to London?")).collect();
    assert_eq!(handle.embed(sentences).await.expect("vectors").len(), 16);
    at_least(Stage::Embed, 4, before);

    println!("\n| stage | steps | mean ms | longest ms |\n|---|---|---|---|");
    for stage in handle.snapshot().stages {
        println!("| {} | {} | {:.1} | {:.1} |", stage.stage, stage.steps, stage.mean_step_ms, stage.longest_step_ms);
    }
    println!("on {}", handle.snapshot().device);
}

/// The least time of several runs, in milliseconds: other work on the machine only adds to it.
fn least_ms(mut run: impl FnMut()) -> f64 {
    let time = |_| {
        let begun = Instant::now();
        run();
        begun.elapsed().as_secs_f64() * 1e3
    };
    (0..7).map(time).fold(f64::INFINITY, f64::min)
}

#[test]
fn sharing_steps_saves_time_where_the_engine_does_it() {
    let open = |name: &str| Gguf::open(ensure(&[name]).expect("the model").remove(0)).expect("a GGUF file");
    let device = Device::flex();
    let mut rows = Vec::new();

    let moonshine = Moonshine::load(&open("moonshine-tiny"), &device).expect("a Moonshine model");
    let audio = speech();
    let windows: Vec<&[f32]> = audio.chunks(2 * 16_000).collect();
    let begun = || windows.iter().map(|w| moonshine.begin(moonshine.encode(w).expect("encoded"))).collect::<Vec<_>>();
    let written = |together: bool| {
        let mut all = begun();
        let begun = Instant::now();
        while all.iter().any(|one| !one.is_ended()) {
            let mut all: Vec<_> = all.iter_mut().collect();
            if together {
                moonshine.step(&mut all).expect("a step");
            } else {
                all.iter_mut().for_each(|one| moonshine.step(&mut [one]).expect("a step"));
            }
        }
        begun.elapsed().as_secs_f64() * 1e3
    };
    // In turns, so that other work on the machine slows both.
    let (mut alone, mut together) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..7 {
        (alone, together) = (alone.min(written(false)), together.min(written(true)));
    }
    rows.push(("4 transcripts written", alone, together, true));

    let minilm = MiniLm::load(&open("minilm-l6-v2"), &device).expect("a MiniLM model");
    let sentences = ["When do you open?", "Where is my parcel?", "Stop it, please.", "What does a box to Spain cost?"];
    let alone = least_ms(|| sentences.iter().for_each(|sentence| drop(minilm.embed(&[sentence]))));
    // A few milliseconds either way, so it is shown and not asserted.
    rows.push(("4 sentences embedded", alone, least_ms(|| drop(minilm.embed(&sentences))), false));

    let llama = Llama::load(&open("smollm2-135m-instruct"), &device).expect("a Llama model");
    let tokens = |together: bool| {
        let prompt = llama.tokenizer().encode("The weather in the mountains was").expect("tokens");
        let mut all: Vec<_> = (0..4).map(|_| llama.sequence(64, Sampling::GREEDY)).collect();
        all.iter_mut().for_each(|sequence| llama.prefill(sequence, &prompt).expect("fed"));
        least_ms(|| {
            let mut all: Vec<_> = all.iter_mut().collect();
            if together {
                llama.decode(&mut all).expect("a step");
            } else {
                all.iter_mut().for_each(|one| drop(llama.decode(&mut [one]).expect("a step")));
            }
        })
    };
    rows.push(("a token of each of 4 answers", tokens(false), tokens(true), true));

    // What the engine puts together as far as the device has use for it: on few threads hardly, on many or a GPU wholly.
    let hibari = Hibari::load(&open("hibari"), &device).expect("a voice");
    let phonemizer = Phonemizer::load(&open("hibari"), &device).expect("a phonemizer");
    let spoken = |texts: &[&str], together: bool| {
        let ids: Vec<_> = texts.iter().map(|text| phonemizer.ids(&phonemizer.phonemes(text)[0])).collect();
        let begun = || ids.iter().map(|ids| hibari.begin(ids, 1.0, 1).expect("a phrase")).collect::<Vec<_>>();
        let to_the_end = |all: &mut [&mut Rendering]| {
            while hibari.step_together(all).into_iter().any(|found| found.expect("it goes on").is_none()) {}
        };
        least_ms(|| {
            let mut begun = begun();
            if together {
                to_the_end(&mut begun.iter_mut().collect::<Vec<_>>());
            } else {
                begun.iter_mut().for_each(|one| to_the_end(&mut [one]));
            }
        })
    };
    let short = ["Yes.", "Of course.", "One moment.", "At nine."].repeat(2);
    rows.push(("8 short phrases rendered", spoken(&short, false), spoken(&short, true), false));
    let long =
        ["We are open from nine to five on weekdays.", "I am afraid that there is no train before six."].repeat(4);
    rows.push(("8 sentences rendered", spoken(&long, false), spoken(&long, true), false));
    let turn = SmartTurn::load(&open("smart-turn-v3.2"), &device).expect("a turn model");
    let alone = least_ms(|| {
        for window in &windows {
            turn.probability(window);
        }
    });
    let together = least_ms(|| {
        let mut turns = turn.listen_together(&windows);
        while turn.step_together(&mut turns.iter_mut().collect::<Vec<_>>()).contains(&None) {}
    });
    rows.push(("4 turns judged", alone, together, false));

    // What it does not put together on a CPU: what a batch could save at most is what one long piece saves.
    let short = least_ms(|| windows.iter().for_each(|w| drop(moonshine.encode(w).expect("encoded"))));
    let long = least_ms(|| drop(moonshine.encode(&audio).expect("encoded")));
    rows.push(("4 windows of 2 s encoded, for one of 8 s", short, long, false));

    println!("| work | one by one, ms | at once, ms | ratio |\n|---|---|---|---|");
    for (work, alone, together, is_asserted) in rows {
        println!("| {work} | {alone:.1} | {together:.1} | {:.2} |", together / alone);
        assert!(!is_asserted || together < alone, "{work}: {together} ms together, {alone} ms alone");
    }
}
