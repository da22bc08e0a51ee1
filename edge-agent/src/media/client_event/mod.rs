//! Events from a client, from JSON text to what they mean.

pub mod beta;
mod items;
mod response;

use super::session::{WireError, object};
use nearfield_dialogue::{
    events::{Command, HandOverEnd, Place},
    ids::{ItemId, ResponseId},
    keys::Key,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// Every event that is understood, as the error about an unknown one lists them.
const KNOWN: [&str; 14] = [
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
    "nearfield.dtmf",
    "nearfield.hand_over.end",
    "nearfield.hand_over.resume",
];

/// Which edition of the protocol a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// That of today ("GA").
    #[default]
    Ga,
    /// The beta, where a client asks for it.
    Beta,
}

/// What a client wants.
#[derive(Debug, PartialEq)]
pub enum ClientEvent {
    /// Change the session.
    Update(Map<String, Value>),
    /// More of the caller's audio, decoded from base64.
    Append(Vec<u8>),
    /// An item of something that the caller said; its audio is in the session's input format.
    CreateAudio {
        /// The client's own name for it.
        id: Option<ItemId>,
        /// Where it goes.
        place: Option<Place>,
        /// Decoded from base64.
        audio: Vec<u8>,
    },
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
pub fn parse(json: &str, dialect: Dialect) -> Result<(ClientEvent, Option<String>), Refused> {
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
        Some(kind) if KNOWN.contains(&kind) || (dialect == Dialect::Beta && beta::KNOWN.contains(&kind)) => {
            match serde_json::from_str(json).map_err(broken)? {
                Value::Object(mut event) => {
                    if dialect == Dialect::Beta {
                        beta::translate(&mut event);
                    }
                    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
                    read(&kind, &event)
                }
                _ => Err(WireError::at("type", "an event is an object")),
            }
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
    let audio =
        audio.ok_or_else(|| WireError::at("audio", "append needs audio: base64 of the session's input format"))?;
    decoded(audio, "audio").map(ClientEvent::Append)
}

fn decoded(audio: &str, at: &str) -> Result<Vec<u8>, WireError> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(audio).map_err(|e| {
        WireError::at(
            at,
            format!("the audio is not base64 ({e}); encode the bytes with the standard alphabet and padding"),
        )
    })
}

fn read(kind: &str, event: &Map<String, Value>) -> Result<ClientEvent, WireError> {
    let item_id = || string(event, "item_id").map(ItemId::from_client);
    Ok(ClientEvent::Command(match kind {
        "session.update" => {
            let session = event.get("session").unwrap_or(&Value::Null);
            return Ok(ClientEvent::Update(object(session, || "session".into())?.clone()));
        }
        "nearfield.hand_over.end" => Command::EndHandOver(match event.get("status").and_then(Value::as_str) {
            Some("accepted") => HandOverEnd::Accepted,
            Some("closed") => HandOverEnd::Closed,
            _ => return Err(WireError::at("status", "status is accepted or closed")),
        }),
        "nearfield.hand_over.resume" => Command::Resume,
        "input_audio_buffer.commit" => Command::Commit,
        "input_audio_buffer.clear" => Command::Clear,
        "conversation.item.create" => return items::create(event),
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
        "response.create" => Command::CreateResponse(Box::new(response::wish(event)?)),
        "response.cancel" => {
            let id = event.get("response_id").filter(|id| !id.is_null());
            let id = id.map(|_| string(event, "response_id").map(ResponseId::from_client)).transpose()?;
            Command::CancelResponse(id)
        }
        // A key of a telephone, by the client's own bridge; named as the event that tells of it.
        "nearfield.dtmf" => {
            let mut signs = string(event, "event")?.chars();
            let key = signs.next().and_then(Key::new).filter(|_| signs.next().is_none());
            Command::Press(key.ok_or_else(|| WireError::at("event", "event is one key: 0 to 9, *, #, or A to D"))?)
        }
        // Of `KNOWN`, the only one left.
        _ => Command::StopPlayback,
    }))
}

fn string<'a>(event: &'a Map<String, Value>, field: &'static str) -> Result<&'a str, WireError> {
    event.get(field).and_then(Value::as_str).ok_or_else(|| WireError::at(field, format!("{field} is a string")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_dialogue::{
        events::{Given, Place},
        history::{Message, Role},
        tools::ToolChoice,
    };
    use nearfield_shared::pii::Pii;

    fn command(json: &str) -> Command {
        match parse(json, Dialect::Ga).expect("fine").0 {
            ClientEvent::Command(command) => command,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn events_are_read() {
        let (event, id) =
            parse(r#"{"type":"input_audio_buffer.append","event_id":"e1","audio":"AAEC"}"#, Dialect::Ga).expect("fine");
        assert_eq!((event, id.as_deref()), (ClientEvent::Append(vec![0, 1, 2]), Some("e1")));
        assert_eq!(command(r#"{"type":"input_audio_buffer.commit"}"#), Command::Commit);
        let item = r#"{"type":"conversation.item.create","previous_item_id":"root","item":{"type":"message","role":"user","id":"a","content":[{"type":"input_text","text":"hi"},{"type":"input_text","text":"you"}]}}"#;
        assert_eq!(
            command(item),
            Command::CreateItem {
                id: Some(ItemId::from_client("a")),
                place: Some(Place::Beginning),
                given: Given::Message(Message { role: Role::User, text: Pii::new("hi\nyou".into()) })
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
    fn keys_of_a_telephone_are_read() {
        let pressed = |event: &str| format!(r#"{{"type":"nearfield.dtmf","event":{event}}}"#);
        assert_eq!(command(&pressed(r##""#""##)), Command::Press(Key::new('#').expect("a key")));
        for wrong in [r#""12""#, r#""""#, r#""x""#, "5"] {
            let refused = parse(&pressed(wrong), Dialect::Ga).expect_err(wrong);
            assert_eq!((refused.error.code, refused.error.param.as_deref()), ("invalid_value", Some("event")));
        }
    }

    #[test]
    fn functions_are_read() {
        let output =
            r#"{"type":"conversation.item.create","item":{"type":"function_call_output","call_id":"c","output":"18"}}"#;
        let Command::CreateItem { given, .. } = command(output) else { panic!("an item") };
        assert_eq!(given, Given::Result { call_id: "c".into(), output: Pii::new("18".into()) });
        let wish = r#"{"type":"response.create","response":{"tools":[{"type":"function","name":"f","parameters":{}}],"tool_choice":{"type":"function","name":"f"},"input":[{"type":"item_reference","id":"a"}]}}"#;
        let Command::CreateResponse(wish) = command(wish) else { panic!("a wish") };
        assert_eq!(wish.tool_choice, Some(ToolChoice::Named("f".into())));
        assert_eq!(wish.tools.map(|tools| tools.len()), Some(1));
        assert_eq!(wish.input, Some(vec![Given::Reference(ItemId::from_client("a"))]));
    }

    #[test]
    fn the_beta_is_understood_where_it_is_spoken() {
        let update = r#"{"type":"session.update","session":{"modalities":["text","audio"],"voice":"alloy","input_audio_format":"g711_ulaw","output_audio_format":"pcm16","turn_detection":null,"temperature":0.7,"max_response_output_tokens":64,"instructions":"Be brief."}}"#;
        let ClientEvent::Update(session) = parse(update, Dialect::Beta).expect("fine").0 else { panic!("an update") };
        let expect = serde_json::json!({
            "output_modalities": ["audio"],
            "instructions": "Be brief.",
            "max_output_tokens": 64,
            "audio": {
                "input": {"format": {"type": "audio/pcmu"}, "turn_detection": null},
                "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "alloy"},
            },
        });
        assert_eq!(Value::Object(session), expect);
        let update = r#"{"type":"transcription_session.update","session":{"input_audio_format":"pcm16"}}"#;
        let ClientEvent::Update(session) = parse(update, Dialect::Beta).expect("fine").0 else { panic!("an update") };
        assert_eq!(session["type"], "transcription");
        let create = r#"{"type":"response.create","response":{"modalities":["text"],"temperature":1,"voice":"x"}}"#;
        let ClientEvent::Command(Command::CreateResponse(wish)) = parse(create, Dialect::Beta).expect("fine").0 else {
            panic!("a wish")
        };
        assert_eq!(wish.spoken, Some(false));
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name() {
        let check = |json: &str, code: &str, param: Option<&str>, event_id: Option<&str>| {
            let refused = parse(json, Dialect::Ga).expect_err(json);
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
            "invalid_value",
            Some("item.call_id"),
            None,
        );
        check(
            r#"{"type":"conversation.item.create","item":{"type":"function_call","call_id":"c","name":"f","arguments":"{"}}"#,
            "invalid_value",
            Some("item.arguments"),
            None,
        );
        check(
            r#"{"type":"conversation.item.create","item":{"type":"mcp_call"}}"#,
            "unsupported_parameter",
            Some("item.type"),
            None,
        );
        check(
            r#"{"type":"response.create","response":{"tool_choice":"sometimes"}}"#,
            "invalid_value",
            Some("response.tool_choice"),
            None,
        );
        check(r#"{"type":"transcription_session.update","session":{}}"#, "invalid_value", Some("type"), None);
        check(
            r#"{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[{"type":"output_text","text":"x"}]}}"#,
            "invalid_value",
            Some("item.content[0].type"),
            None,
        );
        check(
            r#"{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[{"type":"input_audio","audio":"AA=="},{"type":"input_text","text":"x"}]}}"#,
            "invalid_value",
            Some("item.content"),
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
        for (audio, code, param) in [
            (r#"{"output":{"format":{"type":"audio/mp3"}}}"#, "invalid_value", "response.audio.output.format"),
            (r#"{"output":{"voice":5}}"#, "invalid_value", "response.audio.output.voice"),
            (r#"{"output":{"speed":2}}"#, "unknown_parameter", "response.audio.output.speed"),
            (r#"{"input":{}}"#, "unknown_parameter", "response.audio.input"),
            ("5", "invalid_value", "response.audio"),
        ] {
            check(&format!(r#"{{"type":"response.create","response":{{"audio":{audio}}}}}"#), code, Some(param), None);
        }
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
        let refused = parse(
            r#"{"type":"conversation.item.create","item":{"type":"message","text":"my secret" oops"#,
            Dialect::Ga,
        )
        .expect_err("broken");
        assert!(!refused.error.message.contains("secret"), "{}", refused.error);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(json in ".{0,200}") {
            let _ = (parse(&json, Dialect::Ga), parse(&json, Dialect::Beta));
        }
    }
}
