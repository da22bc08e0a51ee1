//! Events as the beta of the Realtime API named and shaped them, for clients that ask for it.

use serde_json::{Map, Value, json};

/// An event of today as one of the beta; `None` where the beta has none.
pub fn translate(mut event: Value) -> Option<Value> {
    let kind = event["type"].as_str()?.to_owned();
    let renamed = match kind.as_str() {
        "conversation.item.done" => return None,
        "conversation.item.added" => "conversation.item.created".to_owned(),
        "session.created" | "session.updated" if event["session"]["type"] == "transcription" => {
            format!("transcription_{kind}")
        }
        _ => kind.replacen("response.output_audio", "response.audio", 1).replacen(
            "response.output_text",
            "response.text",
            1,
        ),
    };
    event["type"] = json!(renamed);
    for (field, translate) in [("session", session as fn(&Value) -> Value), ("item", item), ("response", response)] {
        if event.get(field).is_some_and(Value::is_object) {
            event[field] = translate(&event[field]);
        }
    }
    Some(event)
}

/// What lies under `audio` today lay flat in the beta.
fn session(session: &Value) -> Value {
    let (input, output) = (&session["audio"]["input"], &session["audio"]["output"]);
    let mut flat = json!({
        "id": session["id"],
        "object": session["object"],
        "expires_at": session["expires_at"],
        "input_audio_format": format(&input["format"]),
        "input_audio_transcription": input["transcription"],
        "input_audio_noise_reduction": input["noise_reduction"],
        "turn_detection": input["turn_detection"],
        "client_secret": null,
        "nearfield": session["nearfield"],
    });
    if session["type"] == "realtime" {
        let spoken = json!({
            "model": session["model"],
            "modalities": modalities(&session["output_modalities"]),
            "instructions": session["instructions"],
            "voice": output["voice"],
            "speed": output["speed"],
            "output_audio_format": format(&output["format"]),
            "tools": session["tools"],
            "tool_choice": session["tool_choice"],
            // The likeliest words are always taken; this is what the beta showed where nothing was set.
            "temperature": 0.8,
            "max_response_output_tokens": session["max_output_tokens"],
            "tracing": session["tracing"],
        });
        extend(&mut flat, spoken);
    }
    flat
}

fn response(response: &Value) -> Value {
    let mut flat = response.clone();
    let output = &response["audio"]["output"];
    extend(
        &mut flat,
        json!({
            "modalities": modalities(&response["output_modalities"]),
            "voice": output["voice"],
            "output_audio_format": format(&output["format"]),
            "output": response["output"].as_array().into_iter().flatten().map(item).collect::<Value>(),
        }),
    );
    if let Some(fields) = flat.as_object_mut() {
        fields.retain(|key, _| key != "audio" && key != "output_modalities");
    }
    flat
}

fn item(item: &Value) -> Value {
    let mut item = item.clone();
    for part in item.get_mut("content").and_then(Value::as_array_mut).into_iter().flatten() {
        match part["type"].as_str() {
            Some("output_audio") => part["type"] = json!("audio"),
            Some("output_text") => part["type"] = json!("text"),
            _ => {}
        }
    }
    item
}

fn extend(to: &mut Value, more: Value) {
    if let (Value::Object(to), Value::Object(more)) = (to, more) {
        to.extend::<Map<String, Value>>(more);
    }
}

/// In the beta, audio came with `text` named beside it.
fn modalities(value: &Value) -> Value {
    if *value == json!(["audio"]) { json!(["audio", "text"]) } else { value.clone() }
}

fn format(value: &Value) -> &'static str {
    match value["type"].as_str() {
        Some("audio/pcmu") => "g711_ulaw",
        Some("audio/pcma") => "g711_alaw",
        _ => "pcm16",
    }
}
