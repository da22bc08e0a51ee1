//! Events of clients that speak the beta of the Realtime API, as those of today.

use serde_json::{Map, Value, json};

/// Events that only the beta has.
pub const KNOWN: [&str; 1] = ["transcription_session.update"];

/// Rewrites an event of the beta. What it does not know stays, and is judged as an event of today.
pub fn translate(event: &mut Map<String, Value>) {
    match event.get("type").and_then(Value::as_str) {
        Some("session.update") => change(event, "session", session),
        Some("transcription_session.update") => {
            event.insert("type".into(), json!("session.update"));
            change(event, "session", |fields| {
                let mut translated = session(fields);
                translated.insert("type".into(), json!("transcription"));
                translated
            });
        }
        Some("response.create") => change(event, "response", response),
        Some("conversation.item.create") => change(event, "item", item),
        _ => {}
    }
}

fn change(
    event: &mut Map<String, Value>,
    field: &str,
    translate: impl FnOnce(Map<String, Value>) -> Map<String, Value>,
) {
    if let Some(Value::Object(fields)) = event.get_mut(field) {
        *fields = translate(std::mem::take(fields));
    }
}

/// What lay flat in the beta lies under `audio` today.
pub fn session(fields: Map<String, Value>) -> Map<String, Value> {
    let mut translated = Map::new();
    let (mut input, mut output) = (Map::new(), Map::new());
    for (key, value) in fields {
        match key.as_str() {
            "modalities" => _ = translated.insert("output_modalities".into(), modalities(&value)),
            "max_response_output_tokens" => _ = translated.insert("max_output_tokens".into(), value),
            "voice" | "speed" => _ = output.insert(key, value),
            "output_audio_format" => _ = output.insert("format".into(), format(value)),
            "input_audio_format" => _ = input.insert("format".into(), format(value)),
            "input_audio_transcription" => _ = input.insert("transcription".into(), value),
            "input_audio_noise_reduction" => _ = input.insert("noise_reduction".into(), value),
            "turn_detection" => _ = input.insert(key, value),
            // The likeliest words are always taken, and a secret is not set by an event.
            "temperature" | "client_secret" => {}
            _ => _ = translated.insert(key, value),
        }
    }
    let audio = [("input", input), ("output", output)].into_iter().filter(|(_, side)| !side.is_empty());
    let audio: Map<String, Value> = audio.map(|(name, side)| (name.to_owned(), Value::Object(side))).collect();
    if !audio.is_empty() {
        translated.insert("audio".into(), Value::Object(audio));
    }
    translated
}

fn response(fields: Map<String, Value>) -> Map<String, Value> {
    let translate = |(key, value): (String, Value)| match key.as_str() {
        "modalities" => Some(("output_modalities".to_owned(), modalities(&value))),
        "max_response_output_tokens" => Some(("max_output_tokens".to_owned(), value)),
        // The session's own hold for every response.
        "voice" | "output_audio_format" | "temperature" => None,
        _ => Some((key, value)),
    };
    fields.into_iter().filter_map(translate).collect()
}

fn item(mut item: Map<String, Value>) -> Map<String, Value> {
    for part in item.get_mut("content").and_then(Value::as_array_mut).into_iter().flatten() {
        if part["type"] == "audio" {
            part["type"] = json!("output_audio");
        }
    }
    item
}

/// In the beta, audio came with `text` named beside it.
fn modalities(value: &Value) -> Value {
    let spoken = value.as_array().is_some_and(|names| names.contains(&json!("audio")));
    if spoken { json!(["audio"]) } else { value.clone() }
}

fn format(value: Value) -> Value {
    match value.as_str() {
        Some("pcm16") => json!({ "type": "audio/pcm", "rate": 24_000 }),
        Some("g711_ulaw") => json!({ "type": "audio/pcmu" }),
        Some("g711_alaw") => json!({ "type": "audio/pcma" }),
        _ => json!({ "type": value }),
    }
}
