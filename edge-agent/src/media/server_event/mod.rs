//! Events to a client: what the conversation tells, in the words and the order of the Realtime API.
//!
//! Our own additions stand under `nearfield` inside events that clients know, and in events of our own
//! (`nearfield.handed_over`, `nearfield.hand_over.ended`, `nearfield.hand_over.resumed`, `nearfield.goodbye`,
//! `nearfield.language_not_spoken`). The official clients keep fields they do not know and pass on events they do not know.

pub mod beta;

use super::{
    codec::Format,
    session::{WireError, show_format},
};
use nearfield_dialogue::{
    events::{About, Called, Ended, Event, Fault, Status, Uttered},
    history::{Content, Item, Role},
    ids::ItemId,
    ledger::Ledger,
    tools::{DoneBy, ToolCall},
};
use serde_json::{Value, json};

/// Audio in one delta: 200 ms, so that little is under way when the caller speaks.
pub const DELTA_MS: u32 = 200;

/// The name under which clients see what this node does itself.
const SERVER_LABEL: &str = "node";

/// What events about answers need to know besides the event itself.
#[derive(Debug, Clone)]
pub struct Wire {
    /// The time, in seconds since 1970.
    pub now_unix_s: u64,
    /// The conversation's id.
    pub conversation: String,
    /// Format of the answers' audio.
    pub output: Format,
    /// The voice that speaks.
    pub voice: String,
    /// The session's limit of tokens, where the client set one.
    pub tokens_max: Option<usize>,
}

/// What was used up by an answer, as far as it is known here.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Characters of the prompt; its tokens are estimated as a quarter of them.
    pub prompt_chars: usize,
    /// Milliseconds of the caller's audio that the answer is to.
    pub heard_ms: u32,
}

/// An `error` event.
pub fn error(error: &WireError, client_event_id: Option<&str>) -> Value {
    json!({
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "event_id": client_event_id,
        },
    })
}

/// An `error` event instead of a call: this node has no room now.
pub fn turned_away(code: &str, message: &str, retry_after_s: u64) -> Value {
    json!({
        "type": "error",
        "error": {
            "type": "server_error",
            "code": code,
            "message": message,
            "param": null,
            "event_id": null,
            "retry_after_s": retry_after_s,
        },
    })
}

/// An `error` event that says why this node ended a call, where the transport has no words for it.
pub fn call_ended(reason: &str) -> Value {
    json!({
        "type": "error",
        "error": { "type": "server_error", "code": "call_ended", "message": reason, "param": null, "event_id": null },
    })
}

/// An `error` event about this node.
pub fn server_error(fault: &Fault) -> Value {
    json!({
        "type": "error",
        "error": { "type": "server_error", "code": fault.code, "message": fault.message, "param": null, "event_id": null },
    })
}

/// One delta of an answer's audio.
pub fn audio_delta(response: &str, item: &ItemId, base64: &str) -> Value {
    json!({
        "type": "response.output_audio.delta",
        "response_id": response,
        "item_id": item.as_str(),
        "output_index": 0,
        "content_index": 0,
        "delta": base64,
    })
}

/// More words of what the caller says.
fn transcript_delta(item: &ItemId, words: &str) -> Value {
    json!({
        "type": "conversation.item.input_audio_transcription.delta",
        "item_id": item.as_str(),
        "content_index": 0,
        "delta": words,
    })
}

impl Wire {
    /// The wire's events for one event of the conversation, in order, without their ids.
    pub fn events(&self, event: &Event, usage: Usage) -> Vec<Value> {
        match event {
            Event::SpeechStarted { item, at_ms } => vec![json!({
                "type": "input_audio_buffer.speech_started", "audio_start_ms": at_ms, "item_id": item.as_str(),
            })],
            Event::SpeechStopped { item, at_ms } => vec![json!({
                "type": "input_audio_buffer.speech_stopped", "audio_end_ms": at_ms, "item_id": item.as_str(),
            })],
            Event::IdleTimeout { item, start_ms, end_ms } => vec![json!({
                "type": "input_audio_buffer.timeout_triggered",
                "audio_start_ms": start_ms, "audio_end_ms": end_ms, "item_id": item.as_str(),
            })],
            Event::Goodbye => vec![json!({ "type": "nearfield.goodbye", "reason": "caller_silent" })],
            Event::Committed { item, previous } => vec![json!({
                "type": "input_audio_buffer.committed", "item_id": item.as_str(), "previous_item_id": id(previous),
            })],
            Event::KeyPressed(key) => vec![json!({
                "type": "input_audio_buffer.dtmf_event_received",
                "event": key.sign().to_string(), "received_at": self.now_unix_s,
            })],
            Event::Cleared => vec![json!({ "type": "input_audio_buffer.cleared" })],
            Event::ItemAdded { item, previous } => ["conversation.item.added", "conversation.item.done"]
                .map(|kind| json!({ "type": kind, "previous_item_id": id(previous), "item": show_item(item) }))
                .into(),
            Event::ItemDeleted { item } => {
                vec![json!({ "type": "conversation.item.deleted", "item_id": item.as_str() })]
            }
            Event::ItemTruncated { item, audio_end_ms } => vec![json!({
                "type": "conversation.item.truncated",
                "item_id": item.as_str(), "content_index": 0, "audio_end_ms": audio_end_ms,
            })],
            Event::TranscribedPart { item, words } => vec![transcript_delta(item, words.reveal())],
            Event::Transcribed { item, words, rest, ms } => vec![
                transcript_delta(item, rest.reveal()),
                json!({
                    "type": "conversation.item.input_audio_transcription.completed",
                    "item_id": item.as_str(),
                    "content_index": 0,
                    "transcript": words.reveal().trim(),
                    "usage": { "type": "duration", "seconds": f64::from(*ms) / 1000.0 },
                }),
            ]
            .split_off(usize::from(rest.reveal().is_empty())),
            Event::TranscriptionFailed { item, fault } => vec![json!({
                "type": "conversation.item.input_audio_transcription.failed",
                "item_id": item.as_str(),
                "content_index": 0,
                "error": { "type": "server_error", "code": fault.code, "message": fault.message, "param": null },
            })],
            Event::ResponseCreated(about) => {
                vec![json!({ "type": "response.created", "response": self.response(about, "in_progress") })]
            }
            Event::OutputStarted { about, item, previous } => self.output_started(about, item, previous),
            Event::Said { about, item, words } => {
                let kind =
                    if about.spoken { "response.output_audio_transcript.delta" } else { "response.output_text.delta" };
                let mut delta = part_of(about, item, kind);
                delta["delta"] = json!(words.reveal());
                vec![delta]
            }
            Event::Returned { response, output_index, item, previous, call, output } => {
                let done = if output.is_ok() { "completed" } else { "failed" };
                let event = json!({
                    "type": format!("response.mcp_call.{done}"), "response_id": response.as_str(),
                    "output_index": output_index, "item_id": item.as_str(),
                });
                let mut whole = call_item(item, call, done);
                match output {
                    Ok(output) => whole["output"] = json!(output.reveal()),
                    Err(reason) => {
                        whole["error"] = json!({ "type": "tool_execution_error", "message": reason });
                    }
                }
                let done = json!({
                    "type": "conversation.item.done", "previous_item_id": id(previous), "item": whole,
                });
                vec![event, done]
            }
            Event::HandedOver { response, reason } => vec![json!({
                "type": "nearfield.handed_over", "response_id": response.as_str(), "reason": reason.as_str(),
            })],
            Event::HandOverEnded { end } => {
                vec![json!({ "type": "nearfield.hand_over.ended", "status": end.as_str() })]
            }
            Event::Resumed => vec![json!({ "type": "nearfield.hand_over.resumed" })],
            // Told by the answer's own end, and by what the client itself knows of its loudspeaker.
            Event::Interrupted { .. } => Vec::new(),
            // Told by the close of the connection, and by the answer that failed.
            Event::NoticeFailed => Vec::new(),
            Event::ResponseEnded(ended) => self.ended(ended, usage),
        }
    }

    fn response(&self, about: &About, status: &str) -> Value {
        let format = about.audio_format.and_then(Format::named).unwrap_or(self.output);
        let mut response = json!({
            "object": "realtime.response",
            "id": about.response.as_str(),
            "conversation_id": about.in_conversation.then_some(&self.conversation),
            "status": status,
            "status_details": null,
            "output": [],
            "output_modalities": [if about.spoken { "audio" } else { "text" }],
            "audio": { "output": { "format": show_format(format), "voice": self.voice } },
            "max_output_tokens": about.tokens_max.or(self.tokens_max).map_or(json!("inf"), |n| json!(n)),
            "metadata": if about.metadata.is_empty() { Value::Null } else { json!(about.metadata) },
            "usage": null,
        });
        if let Some(item) = &about.goes_on_with {
            response["nearfield"] = json!({ "goes_on_with": item.as_str() });
        }
        response
    }

    fn output_started(&self, about: &About, item: &ItemId, previous: &Option<ItemId>) -> Vec<Value> {
        let empty = json!({
            "object": "realtime.item", "id": item.as_str(), "type": "message",
            "role": "assistant", "status": "in_progress", "content": [],
        });
        let mut added = json!({
            "type": "response.output_item.added", "response_id": about.response.as_str(), "output_index": 0,
        });
        added["item"] = empty.clone();
        let mut part = part_of(about, item, "response.content_part.added");
        part["part"] = content_part(about, "");
        let mut events = vec![added];
        if about.in_conversation {
            events.push(json!({ "type": "conversation.item.added", "previous_item_id": id(previous), "item": empty }));
        }
        events.push(part);
        events
    }

    fn ended(&self, ended: &Ended, usage: Usage) -> Vec<Value> {
        let about = &ended.about;
        let (status, details) = status(&ended.status);
        let mut events = Vec::new();
        let mut response = self.response(about, status);
        let mut output = Vec::new();
        if let Some(Uttered { item, previous, words }) = &ended.output {
            let words = words.reveal();
            let kind_of_text =
                if about.spoken { "response.output_audio_transcript.done" } else { "response.output_text.done" };
            if about.spoken {
                events.push(part_of(about, item, "response.output_audio.done"));
            }
            let mut text = part_of(about, item, kind_of_text);
            text[if about.spoken { "transcript" } else { "text" }] = json!(words);
            events.push(text);
            let mut part = part_of(about, item, "response.content_part.done");
            part["part"] = content_part(about, words);
            events.push(part);
            let whole = if matches!(ended.status, Status::Completed) { "completed" } else { "incomplete" };
            let shown = assistant_item(item, about.spoken, words, whole);
            let mut done = json!({
                "type": "response.output_item.done", "response_id": about.response.as_str(), "output_index": 0,
            });
            done["item"] = shown.clone();
            events.push(done);
            if about.in_conversation {
                events.push(json!({
                    "type": "conversation.item.done", "previous_item_id": id(previous), "item": shown,
                }));
            }
            output.push(shown);
        }
        for called in &ended.calls {
            events.extend(function_call(about, called, output.len()));
            output.push(call_item(&called.item, &called.call, "completed"));
        }
        response["output"] = json!(output);
        response["status_details"] = details;
        response["usage"] = show_usage(&ended.ledger, usage);
        response["nearfield"]["ledger"] = json!(ended.ledger);
        events.push(json!({ "type": "response.done", "response": response }));
        events
    }
}

/// An item as a client sees it, its audio left out.
pub fn show_item(item: &Item) -> Value {
    let status = if item.complete { "completed" } else { "incomplete" };
    match &item.content {
        Content::Spoken(speech) => assistant_item(&item.id, true, &speech.heard(), status),
        Content::Text(text) if item.role == Role::Assistant => assistant_item(&item.id, false, text.reveal(), status),
        Content::Called(call) => call_item(&item.id, call, status),
        Content::Returned(result) => json!({
            "object": "realtime.item", "id": item.id.as_str(), "type": "function_call_output",
            "status": status, "call_id": result.call_id, "output": result.output.reveal(),
        }),
        Content::Text(text) => json!({
            "object": "realtime.item", "id": item.id.as_str(), "type": "message",
            "role": item.role.as_str(), "status": status,
            "content": [{ "type": "input_text", "text": text.reveal() }],
        }),
        Content::Heard { transcript, .. } => json!({
            "object": "realtime.item", "id": item.id.as_str(), "type": "message",
            "role": item.role.as_str(), "status": status,
            "content": [{ "type": "input_audio", "transcript": transcript.as_ref().map(|t| t.reveal()) }],
        }),
    }
}

fn assistant_item(item: &ItemId, spoken: bool, words: &str, status: &str) -> Value {
    let part = if spoken {
        json!({ "type": "output_audio", "transcript": words })
    } else {
        json!({ "type": "output_text", "text": words })
    };
    json!({
        "object": "realtime.item", "id": item.as_str(), "type": "message",
        "role": "assistant", "status": status, "content": [part],
    })
}

/// A call that this node does is what the API calls a call of an MCP tool: clients know that the server does it.
fn call_item(item: &ItemId, call: &ToolCall, status: &str) -> Value {
    if call.by == DoneBy::Node {
        return json!({
            "object": "realtime.item", "id": item.as_str(), "type": "mcp_call",
            "server_label": SERVER_LABEL, "name": call.name, "arguments": call.arguments.reveal(),
            "approval_request_id": null, "output": null, "error": null,
        });
    }
    json!({
        "object": "realtime.item", "id": item.as_str(), "type": "function_call", "status": status,
        "call_id": call.call_id, "name": call.name, "arguments": call.arguments.reveal(),
    })
}

/// All that is told of a call, at once: what is not whole is no call yet, so its arguments come in one piece.
fn function_call(about: &About, called: &Called, output_index: usize) -> Vec<Value> {
    let Called { item, previous, call } = called;
    let event =
        |kind: &str| json!({ "type": kind, "response_id": about.response.as_str(), "output_index": output_index });
    let by_node = call.by == DoneBy::Node;
    let family = if by_node { "response.mcp_call_arguments" } else { "response.function_call_arguments" };
    let arguments = |kind: &str| {
        let mut event = event(&format!("{family}.{kind}"));
        event["item_id"] = json!(item.as_str());
        if !by_node {
            event["call_id"] = json!(call.call_id);
        }
        event
    };
    let mut begun = call_item(item, call, "in_progress");
    begun["arguments"] = json!("");
    let whole = call_item(item, call, "completed");
    let in_conversation = |kind: &str, item: &Value| {
        let event = json!({ "type": kind, "previous_item_id": id(previous), "item": item });
        about.in_conversation.then_some(event)
    };
    let (mut added, mut done) = (event("response.output_item.added"), event("response.output_item.done"));
    added["item"] = begun.clone();
    done["item"] = whole.clone();
    let mut delta = arguments("delta");
    delta["delta"] = json!(call.arguments.reveal());
    let mut all = arguments("done");
    if !by_node {
        all["name"] = json!(call.name);
    }
    all["arguments"] = json!(call.arguments.reveal());
    let events = [
        Some(added),
        in_conversation("conversation.item.added", &begun),
        Some(delta),
        Some(all),
        Some(done),
        // What the node does is done when it has returned.
        in_conversation("conversation.item.done", &whole).filter(|_| !by_node),
        by_node.then(|| {
            let mut event = event("response.mcp_call.in_progress");
            event["item_id"] = json!(item.as_str());
            event
        }),
    ];
    events.into_iter().flatten().collect()
}

fn content_part(about: &About, words: &str) -> Value {
    if about.spoken {
        json!({ "type": "audio", "transcript": words })
    } else {
        json!({ "type": "text", "text": words })
    }
}

fn part_of(about: &About, item: &ItemId, kind: &str) -> Value {
    json!({
        "type": kind,
        "response_id": about.response.as_str(),
        "item_id": item.as_str(),
        "output_index": 0,
        "content_index": 0,
    })
}

fn id(item: &Option<ItemId>) -> Option<&str> {
    item.as_ref().map(ItemId::as_str)
}

fn status(status: &Status) -> (&'static str, Value) {
    match status {
        Status::Completed => ("completed", Value::Null),
        Status::Interrupted => ("cancelled", json!({ "type": "cancelled", "reason": "turn_detected" })),
        Status::Cancelled => ("cancelled", json!({ "type": "cancelled", "reason": "client_cancelled" })),
        Status::CutOff => ("incomplete", json!({ "type": "incomplete", "reason": "max_output_tokens" })),
        Status::Failed(fault) => (
            "failed",
            json!({
                "type": "failed",
                "error": { "type": "server_error", "code": fault.code, "message": fault.message },
            }),
        ),
    }
}

/// Tokens as the OpenAI API counts them: 100 ms of the caller's audio and 50 ms of an answer's are one token each. The
/// prompt's text is estimated from its length.
fn show_usage(ledger: &Ledger, usage: Usage) -> Value {
    let input = (usage.prompt_chars / 4, usage.heard_ms as usize / 100);
    let output = (ledger.text_pieces as usize, ledger.audio_ms as usize / 50);
    json!({
        "total_tokens": input.0 + input.1 + output.0 + output.1,
        "input_tokens": input.0 + input.1,
        "output_tokens": output.0 + output.1,
        "input_token_details": {
            "text_tokens": input.0, "audio_tokens": input.1, "image_tokens": 0, "cached_tokens": 0,
            "cached_tokens_details": { "text_tokens": 0, "audio_tokens": 0, "image_tokens": 0 },
        },
        "output_token_details": { "text_tokens": output.0, "audio_tokens": output.1 },
    })
}
