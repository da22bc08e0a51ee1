//! Events from a client, from JSON text to what they mean.

use super::session::{INSTRUCTIONS_BYTES_MAX, WireError, no_tools, object, spoken, text, tokens, unknown, unsupported};
use nearfield_dialogue::{
    events::{Command, Place, Wish},
    history::{ITEM_BYTES_MAX, Message, Role},
    ids::{ItemId, ResponseId},
};
use nearfield_shared::pii::Pii;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{borrow::Cow, collections::BTreeMap};

/// Every event that is understood, as the error about an unknown one lists them.
const KNOWN: [&str; 11] = [
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
    "conversation.item.create",
    "conversation.item.retrieve",
    "conversation.item.truncate",
    "conversation.item.delete",
    "response.create",
    "response.cancel",
    "output_audio_buffer.clear",
];

/// Marks that a client may give a response, and their sizes, as in the OpenAI API.
const METADATA_PAIRS_MAX: usize = 16;

/// Messages that `response.create` may bring along.
const INPUT_MESSAGES_MAX: usize = 64;

/// What a client wants.
#[derive(Debug, PartialEq)]
pub enum ClientEvent {
    /// Change the session.
    Update(Map<String, Value>),
    /// More of the caller's audio, decoded from base64.
    Append(Vec<u8>),
    /// Show an item again.
    Retrieve(ItemId),
    /// Something the conversation decides.
    Command(Command),
}

/// An event that was refused: the client's name for it, and why.
#[derive(Debug, PartialEq)]
pub struct Refused {
    /// The client's `event_id`.
    pub event_id: Option<String>,
    /// Why.
    pub error: WireError,
}

/// The part of an event that decides how the rest is read. Audio is borrowed, because it is most of all bytes.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    event_id: Option<Text<'a>>,
    #[serde(borrow)]
    audio: Option<Text<'a>>,
}

/// Borrowed where the JSON holds no escapes; serde copies an `Option<Cow>` always.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads one event; also returns the client's name for it.
pub fn parse(json: &str) -> Result<(ClientEvent, Option<String>), Refused> {
    let broken = |e: serde_json::Error| Refused {
        event_id: None,
        // The parser's words, without the text it choked on: that may be what a caller said.
        error: WireError {
            code: "invalid_json",
            message: format!(
                "the event is not the JSON object expected (line {}, column {}); send one object per message",
                e.line(),
                e.column()
            ),
            param: None,
        },
    };
    let head: Head = match serde_json::from_str(json) {
        Ok(head) => head,
        // A head with a field of a wrong type is looked at again, so that the error can name the event.
        Err(e) if e.is_data() => {
            let value: Value = serde_json::from_str(json).map_err(broken)?;
            let event_id = value.get("event_id").and_then(Value::as_str).map(short);
            let field =
                ["type", "event_id", "audio"].into_iter().find(|f| value.get(f).is_some_and(|v| !v.is_string()));
            let error = match field {
                Some(field) => WireError::at(field, format!("{field} is a string")),
                None => return Err(broken(e)),
            };
            return Err(Refused { event_id, error });
        }
        Err(e) => return Err(broken(e)),
    };
    let event_id = head.event_id.map(|id| short(&id.0));
    let refused = |error| Refused { event_id: event_id.clone(), error };
    let event = match head.kind.as_ref().map(|kind| &*kind.0) {
        None => Err(WireError::at("type", "every event has a type")),
        Some("input_audio_buffer.append") => append(head.audio.as_ref().map(|audio| &*audio.0)),
        Some(kind) if KNOWN.contains(&kind) => {
            let value: Value = serde_json::from_str(json).map_err(broken)?;
            value.as_object().ok_or_else(|| WireError::at("type", "an event is an object")).and_then(|o| read(kind, o))
        }
        Some(kind) => Err(WireError::at(
            "type",
            format!("unknown event `{}`; the events are {}", short(kind).escape_debug(), KNOWN.join(", ")),
        )),
    };
    Ok((event.map_err(refused)?, event_id))
}

/// At most 128 characters of a client's own word, for echoing.
fn short(word: &str) -> String {
    word.chars().take(128).collect()
}

fn append(audio: Option<&str>) -> Result<ClientEvent, WireError> {
    use base64::Engine as _;
    let audio =
        audio.ok_or_else(|| WireError::at("audio", "append needs audio: base64 of the session's input format"))?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(audio).map_err(|e| {
        WireError::at(
            "audio",
            format!("the audio is not base64 ({e}); encode the bytes with the standard alphabet and padding"),
        )
    })?;
    Ok(ClientEvent::Append(bytes))
}

fn read(kind: &str, event: &Map<String, Value>) -> Result<ClientEvent, WireError> {
    let item_id = || string(event, "item_id").map(ItemId::from_client);
    Ok(ClientEvent::Command(match kind {
        "session.update" => {
            let session = event.get("session").unwrap_or(&Value::Null);
            return Ok(ClientEvent::Update(object(session, || "session".into())?.clone()));
        }
        "input_audio_buffer.commit" => Command::Commit,
        "input_audio_buffer.clear" => Command::Clear,
        "conversation.item.create" => create_item(event)?,
        "conversation.item.retrieve" => return Ok(ClientEvent::Retrieve(item_id()?)),
        "conversation.item.delete" => Command::DeleteItem(item_id()?),
        "conversation.item.truncate" => {
            let ms = event.get("audio_end_ms").and_then(Value::as_u64).and_then(|ms| u32::try_from(ms).ok());
            let audio_end_ms =
                ms.ok_or_else(|| WireError::at("audio_end_ms", "audio_end_ms is a whole number of milliseconds"))?;
            if event.get("content_index").is_some_and(|i| i.as_u64() != Some(0)) {
                return Err(WireError::at("content_index", "content_index is 0: an item has one content"));
            }
            Command::TruncateItem { item: item_id()?, audio_end_ms }
        }
        "response.create" => Command::CreateResponse(Box::new(wish(event)?)),
        "response.cancel" => {
            let id = event.get("response_id").filter(|id| !id.is_null());
            let id = id.map(|_| string(event, "response_id").map(ResponseId::from_client)).transpose()?;
            Command::CancelResponse(id)
        }
        // On a WebSocket the client holds the audio itself, so there is nothing to clear but the answer in progress.
        _ => {
            return Err(WireError::at(
                "type",
                "output_audio_buffer.clear is for WebRTC and SIP; send response.cancel instead",
            ));
        }
    }))
}

fn string<'a>(event: &'a Map<String, Value>, field: &'static str) -> Result<&'a str, WireError> {
    event.get(field).and_then(Value::as_str).ok_or_else(|| WireError::at(field, format!("{field} is a string")))
}

fn create_item(event: &Map<String, Value>) -> Result<Command, WireError> {
    let item = object(event.get("item").unwrap_or(&Value::Null), || "item".into())?;
    let message = message(item, "item")?;
    let id = match item.get("id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) => Some(ItemId::from_client(id)),
        Some(_) => return Err(WireError::at("item.id", "item.id is a string")),
    };
    let place = match event.get("previous_item_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(root)) if root == "root" => Some(Place::Beginning),
        Some(Value::String(id)) => Some(Place::After(ItemId::from_client(id))),
        Some(_) => return Err(WireError::at("previous_item_id", "previous_item_id is a string")),
    };
    Ok(Command::CreateItem { id, place, role: message.role, text: message.text })
}

/// A message item as text. Audio in items is not taken: it goes through the input audio buffer.
fn message(item: &Map<String, Value>, at: &str) -> Result<Message, WireError> {
    match item.get("type").and_then(Value::as_str) {
        Some("message") => {}
        Some(kind @ ("function_call" | "function_call_output")) => {
            return Err(unsupported(format!("{at}.type"), &format!("{kind} items")));
        }
        _ => return Err(WireError::at(format!("{at}.type"), "an item's type is message")),
    }
    let role = match item.get("role").and_then(Value::as_str) {
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("system") => Role::System,
        _ => return Err(WireError::at(format!("{at}.role"), "a role is user, assistant or system")),
    };
    let parts = item.get("content").and_then(Value::as_array);
    let parts = parts.ok_or_else(|| WireError::at(format!("{at}.content"), "content is a list of parts"))?;
    let mut words = Vec::new();
    for (n, part) in parts.iter().enumerate() {
        let at = format!("{at}.content[{n}]");
        let (kind, field) = match part.get("type").and_then(Value::as_str) {
            Some(kind @ ("input_text" | "output_text" | "text")) => (kind, "text"),
            Some(kind @ ("input_audio" | "output_audio")) if part.get("audio").is_none_or(Value::is_null) => {
                (kind, "transcript")
            }
            Some("input_audio" | "output_audio") => {
                return Err(unsupported(
                    format!("{at}.audio"),
                    "items with audio (append it to the input audio buffer and commit that)",
                ));
            }
            Some("input_image") => return Err(unsupported(at, "images")),
            _ => return Err(WireError::at(format!("{at}.type"), "a part's type is input_text or output_text")),
        };
        let value = part.get(field).unwrap_or(&Value::Null);
        if value.is_null() && field == "transcript" {
            continue;
        }
        if (kind == "input_text") == (role == Role::Assistant) && field == "text" && kind != "text" {
            let expected = if role == Role::Assistant { "output_text" } else { "input_text" };
            return Err(WireError::at(format!("{at}.type"), format!("a part of this role is {expected}")));
        }
        words.push(text(value, ITEM_BYTES_MAX, || format!("{at}.{field}"))?);
    }
    Ok(Message { role, text: Pii::new(words.join("\n")) })
}

fn wish(event: &Map<String, Value>) -> Result<Wish, WireError> {
    let mut wish = Wish::default();
    let empty = Map::new();
    let response = match event.get("response") {
        None | Some(Value::Null) => &empty,
        Some(value) => object(value, || "response".into())?,
    };
    for (key, value) in response.iter().filter(|(_, value)| !value.is_null()) {
        let at = || format!("response.{key}");
        match key.as_str() {
            "instructions" => wish.instructions = Some(text(value, INSTRUCTIONS_BYTES_MAX, at)?),
            "max_output_tokens" => wish.tokens_max = tokens(value, at)?,
            "output_modalities" => wish.spoken = Some(spoken(value, at)?),
            "conversation" => match value.as_str() {
                Some("auto") => {}
                Some("none") => wish.out_of_band = true,
                _ => return Err(WireError::at(at(), "conversation is auto or none")),
            },
            "metadata" => wish.metadata = metadata(value)?,
            "input" => wish.input = Some(input(value)?),
            "tools" => no_tools(value, at)?,
            // The session's format and voice hold for every response.
            "audio" | "tool_choice" | "prompt" | "reasoning" | "parallel_tool_calls" => {}
            _ => return Err(unknown(at())),
        }
    }
    Ok(wish)
}

fn metadata(value: &Value) -> Result<BTreeMap<String, String>, WireError> {
    let at = || "response.metadata".to_owned();
    let pairs = object(value, at)?;
    let fits = |(key, value): (&String, &Value)| {
        let value = value.as_str()?;
        (key.chars().count() <= 64 && value.chars().count() <= 512).then(|| (key.clone(), value.to_owned()))
    };
    let marks: Option<BTreeMap<_, _>> = pairs.iter().map(fits).collect();
    marks.filter(|marks| marks.len() <= METADATA_PAIRS_MAX).ok_or_else(|| {
        WireError::at(at(), "metadata has at most 16 pairs of a key of 64 characters and a string of 512 characters")
    })
}

fn input(value: &Value) -> Result<Vec<Message>, WireError> {
    let items = value.as_array().filter(|items| items.len() <= INPUT_MESSAGES_MAX);
    let items = items.ok_or_else(|| {
        WireError::at("response.input", format!("input is a list of at most {INPUT_MESSAGES_MAX} items"))
    })?;
    let read = |(n, item): (usize, &Value)| {
        let at = format!("response.input[{n}]");
        if item.get("type").and_then(Value::as_str) == Some("item_reference") {
            return Err(unsupported(at, "item references"));
        }
        message(object(item, || at.clone())?, &at)
    };
    items.iter().enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(json: &str) -> Command {
        match parse(json).expect("fine").0 {
            ClientEvent::Command(command) => command,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn events_are_read() {
        let (event, id) =
            parse(r#"{"type":"input_audio_buffer.append","event_id":"e1","audio":"AAEC"}"#).expect("fine");
        assert_eq!((event, id.as_deref()), (ClientEvent::Append(vec![0, 1, 2]), Some("e1")));
        assert_eq!(command(r#"{"type":"input_audio_buffer.commit"}"#), Command::Commit);
        let item = r#"{"type":"conversation.item.create","previous_item_id":"root","item":{"type":"message","role":"user","id":"a","content":[{"type":"input_text","text":"hi"},{"type":"input_text","text":"you"}]}}"#;
        assert_eq!(
            command(item),
            Command::CreateItem {
                id: Some(ItemId::from_client("a")),
                place: Some(Place::Beginning),
                role: Role::User,
                text: Pii::new("hi\nyou".into())
            }
        );
        let wish = r#"{"type":"response.create","response":{"conversation":"none","max_output_tokens":"inf","output_modalities":["text"],"metadata":{"a":"b"},"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"x"}]}]}}"#;
        let Command::CreateResponse(wish) = command(wish) else { panic!("a wish") };
        assert!(wish.out_of_band && wish.spoken == Some(false) && wish.metadata["a"] == "b");
        assert_eq!(wish.input.map(|input| input.len()), Some(1));
        assert_eq!(command(r#"{"type":"response.create","response":null}"#), Command::CreateResponse(Box::default()));
        assert_eq!(command(r#"{"type":"response.cancel"}"#), Command::CancelResponse(None));
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name() {
        let check = |json: &str, code: &str, param: Option<&str>, event_id: Option<&str>| {
            let refused = parse(json).expect_err(json);
            let found = (refused.error.code, refused.error.param.as_deref(), refused.event_id.as_deref());
            assert_eq!(found, (code, param, event_id), "{json}: {}", refused.error);
        };
        check("{", "invalid_json", None, None);
        check("", "invalid_json", None, None);
        check("[]", "invalid_json", None, None);
        check("\"hello\"", "invalid_json", None, None);
        check("{}", "invalid_value", Some("type"), None);
        check(r#"{"type":5,"event_id":"e"}"#, "invalid_value", Some("type"), Some("e"));
        check(r#"{"type":"no.such","event_id":"e"}"#, "invalid_value", Some("type"), Some("e"));
        check(r#"{"type":"input_audio_buffer.append","event_id":"e"}"#, "invalid_value", Some("audio"), Some("e"));
        check(r#"{"type":"input_audio_buffer.append","audio":"?!"}"#, "invalid_value", Some("audio"), None);
        check(r#"{"type":"input_audio_buffer.append","audio":7}"#, "invalid_value", Some("audio"), None);
        check(r#"{"type":"session.update"}"#, "invalid_value", Some("session"), None);
        check(r#"{"type":"conversation.item.create"}"#, "invalid_value", Some("item"), None);
        check(
            r#"{"type":"conversation.item.create","item":{"type":"function_call_output"}}"#,
            "unsupported_parameter",
            Some("item.type"),
            None,
        );
        check(
            r#"{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[{"type":"output_text","text":"x"}]}}"#,
            "invalid_value",
            Some("item.content[0].type"),
            None,
        );
        check(
            r#"{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[{"type":"input_audio","audio":"AA=="}]}}"#,
            "unsupported_parameter",
            Some("item.content[0].audio"),
            None,
        );
        check(r#"{"type":"conversation.item.truncate","item_id":"a"}"#, "invalid_value", Some("audio_end_ms"), None);
        check(r#"{"type":"conversation.item.delete"}"#, "invalid_value", Some("item_id"), None);
        check(
            r#"{"type":"response.create","response":{"conversation":"maybe"}}"#,
            "invalid_value",
            Some("response.conversation"),
            None,
        );
        check(r#"{"type":"response.create","response":{"wat":1}}"#, "unknown_parameter", Some("response.wat"), None);
        check(
            r#"{"type":"response.create","response":{"metadata":{"a":1}}}"#,
            "invalid_value",
            Some("response.metadata"),
            None,
        );
    }

    #[test]
    fn an_error_never_repeats_what_was_said() {
        let refused = parse(r#"{"type":"conversation.item.create","item":{"type":"message","text":"my secret" oops"#)
            .expect_err("broken");
        assert!(!refused.error.message.contains("secret"), "{}", refused.error);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(json in ".{0,200}") {
            let _ = parse(&json);
        }
    }
}
