//! What this node can do, as `info` tells it.

use crate::node::{ServedModel, Serving};
use nearfield_shared::artefact::Stage;
use serde_json::{Value, json};

/// The name of this node's programs, for `select-program`.
pub const PROGRAM: &str = "nearfield";

/// The language of the recogniser and of the voice.
pub const LANGUAGE: &str = "en";

/// The data of `info`. Stages without a live model are left out; the protocol has no place for a detector of voices.
pub fn info(serving: &Serving) -> Value {
    let live = |stage: Stage| serving.models.get(&stage);
    let asr = live(Stage::Asr).map(|model| {
        let mut program = program("Transcripts of English speech, sent phrase by phrase");
        program["models"] = json!([artifact(&model.name, "Speech to text", model)]);
        program["supports_transcript_streaming"] = json!(true);
        program["requires_external_vad"] = json!(true);
        program
    });
    let tts = live(Stage::Tts).map(|model| {
        let mut program = program("English speech, sent phrase by phrase");
        let voices = voices(serving).into_iter().map(|voice| artifact(&voice, "Text to speech", model));
        program["voices"] = voices.collect();
        program["supports_synthesize_streaming"] = json!(true);
        program
    });
    let list = |program: Option<Value>| program.into_iter().collect::<Vec<_>>();
    json!({
        "asr": list(asr), "tts": list(tts),
        "handle": [], "intent": [], "wake": [], "mic": [], "snd": [],
    })
}

/// The voices that the assistants speak with: those that are known by name.
fn voices(serving: &Serving) -> Vec<String> {
    let mut voices: Vec<String> = serving.assistants.iter().map(|assistant| assistant.voice.clone()).collect();
    voices.sort();
    voices.dedup();
    if voices.is_empty() {
        voices.push("default".into());
    }
    voices
}

fn program(description: &str) -> Value {
    json!({
        "name": PROGRAM, "description": description, "installed": true, "version": env!("CARGO_PKG_VERSION"),
        "attribution": attribution(),
    })
}

fn artifact(name: &str, what: &str, model: &ServedModel) -> Value {
    json!({
        "name": name, "description": format!("{what} with {}", model.name), "installed": true, "version": model.version,
        "attribution": attribution(), "languages": [LANGUAGE],
    })
}

/// Who made it. The protocol wants an address beside the name; where models come from is told by the node's catalogue.
fn attribution() -> Value {
    json!({ "name": PROGRAM, "url": "" })
}
