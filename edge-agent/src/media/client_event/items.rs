//! Items that a client puts into a conversation.

use super::{ClientEvent, decoded};
use crate::media::session::{WireError, object, text, unsupported};
use nearfield_dialogue::{
    events::{Command, Given, Place},
    history::{ITEM_BYTES_MAX, Message, Role},
    ids::ItemId,
    tools::{DoneBy, ToolCall},
};
use nearfield_shared::pii::Pii;
use serde_json::{Map, Value};

/// Bytes of the names of a call and of its function.
const NAME_BYTES_MAX: usize = 128;

/// A new item, and where it goes.
pub fn create(event: &Map<String, Value>) -> Result<ClientEvent, WireError> {
    let item = object(event.get("item").unwrap_or(&Value::Null), || "item".into())?;
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
    Ok(match audio(item)? {
        Some(audio) => ClientEvent::CreateAudio { id, place, audio },
        None => ClientEvent::Command(Command::CreateItem { id, place, given: given(item, "item")? }),
    })
}

/// The audio of a message of the caller's, where it is one. A transcript beside it is the client's own: words are found by this node.
fn audio(item: &Map<String, Value>) -> Result<Option<Vec<u8>>, WireError> {
    let parts = item.get("content").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_audio = |part: &Value| {
        part.get("type").is_some_and(|kind| kind == "input_audio")
            && part.get("audio").is_some_and(|audio| !audio.is_null())
    };
    if item.get("type").is_none_or(|kind| kind != "message") || !parts.iter().any(is_audio) {
        return Ok(None);
    }
    match (item.get("role").and_then(Value::as_str), parts) {
        (Some("user"), [part]) => {
            let at = "item.content[0].audio";
            let audio = part.get("audio").and_then(Value::as_str);
            let audio = audio.ok_or_else(|| WireError::at(at, "audio is base64 of the session's input format"))?;
            decoded(audio, at).map(Some)
        }
        (Some("user"), _) => {
            Err(WireError::at("item.content", "audio is the only part of its item; create one item for each part"))
        }
        _ => Err(WireError::at("item.role", "an item with audio is of the role user")),
    }
}

/// What an item holds.
pub fn given(item: &Map<String, Value>, at: &str) -> Result<Given, WireError> {
    let word =
        |field: &str, bytes_max| text(item.get(field).unwrap_or(&Value::Null), bytes_max, || format!("{at}.{field}"));
    Ok(match item.get("type").and_then(Value::as_str) {
        Some("message") => Given::Message(message(item, at)?),
        Some("function_call") => {
            let arguments = word("arguments", ITEM_BYTES_MAX)?;
            if !serde_json::from_str::<Value>(&arguments).is_ok_and(|value| value.is_object()) {
                return Err(WireError::at(format!("{at}.arguments"), "arguments are the text of a JSON object"));
            }
            let (call_id, name) = (word("call_id", NAME_BYTES_MAX)?, word("name", NAME_BYTES_MAX)?);
            Given::Call(ToolCall { by: DoneBy::Client, call_id, name, arguments: Pii::new(arguments) })
        }
        Some("function_call_output") => Given::Result {
            call_id: word("call_id", NAME_BYTES_MAX)?,
            output: Pii::new(word("output", ITEM_BYTES_MAX)?),
        },
        Some(kind @ ("mcp_approval_response" | "mcp_approval_request" | "mcp_list_tools" | "mcp_call")) => {
            return Err(unsupported(format!("{at}.type"), &format!("{kind} items")));
        }
        _ => {
            let message = "an item's type is message, function_call or function_call_output";
            return Err(WireError::at(format!("{at}.type"), message));
        }
    })
}

/// A message item as text.
fn message(item: &Map<String, Value>, at: &str) -> Result<Message, WireError> {
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
                return Err(unsupported(format!("{at}.audio"), "audio of other roles, and in the input of a response"));
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
