//! What a process takes of the machine's memory with all six models live and six calls at once: within what is promised, however
//! long the calls are, and no more after many calls than after few. It stands alone in its file, since tests beside it in the process would be counted.
#![cfg(target_os = "linux")]

use control_plane::registry::{Cache, Catalogue, Fetcher};
use edge_agent::memory::Memory;
use futures_util::future::join_all;
use nearfield_inference::engine::{Cancel, ChatMessage, EngineHandle};
use nearfield_tests::engine_with_all_models;
use std::time::Duration;

/// What is promised of an agent.
const MEMORY_MAX: u64 = 450_000_000;

/// What an agent takes beside its engine: connections, buffers, cached phrases. This process has none of it.
const BESIDE_THE_ENGINE: u64 = 50_000_000;

/// What may differ between two rounds of equal work: pages that the allocator keeps or gives back as it happens.
const GROWTH_MAX: u64 = 24_000_000;

/// What the engine's thread needs to notice that nobody calls any more, many times over.
const GIVES_BACK: Duration = Duration::from_millis(500);

const CALLS: usize = 6;
/// As many characters of a conversation as go into a prompt.
const LONG_CHARS: usize = 2_400;
const TURNS: usize = 3;

fn now(when: &str) -> Memory {
    let memory = Memory::own().expect("Linux tells");
    println!("{when}: {} MB, {} at most", memory.resident_bytes / 1_000_000, memory.peak_bytes / 1_000_000);
    memory
}

/// A call: it is listened to, understood and answered, each turn with all before it as context.
async fn call(handle: &EngineHandle, speech: &[f32], number: usize) {
    let cancel = Cancel::new();
    let mut vad = handle.open_vad().expect("a place");
    let instructions = "You answer the telephone of a parcel office. Answer in one short sentence.";
    let mut messages = vec![ChatMessage { is_shared: true, ..ChatMessage::new("system", instructions) }];
    for turn in 0..TURNS {
        for piece in speech.chunks(1_600) {
            vad.push(piece).await.expect("probabilities");
        }
        handle.turn_probability(speech.to_vec()).await.expect("a probability");
        let heard = handle.transcribe(speech.to_vec(), &cancel).await.expect("a transcript");
        handle.embed(vec![heard.clone()]).await.expect("an embedding");
        // Nobody says the same: what is kept to be used again is not.
        messages.push(ChatMessage::new("user", format!("{heard} This is parcel {number} of day {turn}.")));
        let mut pieces = handle.generate(messages.clone(), 48, &cancel).expect("a place");
        let mut answer = String::new();
        while let Some(piece) = pieces.recv().await {
            answer += &piece.expect("a piece");
        }
        let phrase = format!("Well. {}", answer.chars().take(200).collect::<String>());
        handle.speak(phrase, 1.0, &cancel).await.expect("audio");
        messages.push(ChatMessage::new("assistant", answer));
    }
}

/// A call that has lasted: a prompt as long as any call's (`Settings::context_chars_max`), and an answer to it.
async fn long_call(handle: &EngineHandle, number: usize) {
    let mut conversation = String::new();
    for line in 0.. {
        // Nobody says the same.
        conversation +=
            &format!("Parcel {line} of shelf {number} weighs {} pounds and goes to the harbour. ", line * 7 + number);
        if conversation.len() > LONG_CHARS {
            break;
        }
    }
    let messages = vec![ChatMessage::new("user", conversation)];
    let mut pieces = handle.generate(messages, 96, &Cancel::new()).expect("a place");
    while let Some(piece) = pieces.recv().await {
        piece.expect("a piece");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn six_models_and_many_calls_keep_to_their_memory() {
    let fetcher = Fetcher::new(Cache::of_user().expect("a cache"));
    let recordings = Catalogue::builtin().and_then(|catalogue| catalogue.speech()).expect("the list of recordings");
    let speech = recordings.get(&fetcher, &["librivox_0880"]).expect("the recording").remove(0).samples();
    now("before");
    let engine = engine_with_all_models().await;
    let handle = engine.handle();
    let weights = handle.snapshot().resident_bytes as u64;
    let idle = now("with six models live");
    assert!(
        idle.resident_bytes < weights + weights / 2,
        "{} bytes for {weights} bytes of weights: is something kept twice?",
        idle.resident_bytes
    );
    let mut after = Vec::new();
    for round in 0..4 {
        join_all((0..CALLS).map(|i| call(&handle, &speech, round * CALLS + i))).await;
        // The engine gives memory back when it has seen the last call end, which is a moment after the call's own end.
        tokio::time::sleep(GIVES_BACK).await;
        after.push(now(&format!("after {} calls", (round + 1) * CALLS)).resident_bytes);
    }
    join_all((0..CALLS).map(|i| long_call(&handle, i))).await;
    let most = now("after as many long ones at once").peak_bytes;
    assert!(most + BESIDE_THE_ENGINE <= MEMORY_MAX, "{most} bytes at most");
    // The first rounds fill what is kept to be used again.
    let (few, many) = (after[0].max(after[1]), after[2].min(after[3]));
    assert!(many <= few + GROWTH_MAX, "it grows from {few} to {many} bytes: {after:?}");
}
