//! What a client asks for: the fields of `POST /v1/chat/completions`, checked.

use super::stops::Stops;
use crate::{
    media::session,
    refusal::Refusal,
    rest::body::{JsonBody, missing},
    speech::{ChatMessage, Wish},
};
use nearfield_dialogue::{
    settings::TOKENS_MAX,
    tools::{DoneBy, Tool, ToolCall, ToolChoice, ToolResult, Tools, shown_call, shown_result},
};
use nearfield_shared::pii::Pii;
use serde_json::{Map, Value};

/// Messages of one request. The prompt holds some 1,500 tokens, so far fewer are ever of use.
const MESSAGES_MAX: usize = 256;

/// Bytes of one message: what the engine takes in all.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Texts at which an answer stops, as in the OpenAI API, and the bytes of each.
const STOPS_MAX: usize = 4;
const STOP_BYTES_MAX: usize = 256;

/// Fields that would change the answer and are not supported, with what they are.
const UNSUPPORTED: [(&str, &str); 9] = [
    ("functions", "functions in the old form"),
    ("function_call", "functions in the old form"),
    ("audio", "spoken answers"),
    ("logprobs", "probabilities"),
    ("top_logprobs", "probabilities"),
    ("prediction", "predicted outputs"),
    ("web_search_options", "searches of the web"),
    ("store", "stored completions"),
    ("logit_bias", "biases"),
];

/// A request that can be answered.
pub struct Request {
    /// The model or assistant that was asked for.
    pub model: String,
    /// What the client says as system or developer.
    pub system: Vec<String>,
    /// The conversation, in the roles of the prompt.
    pub messages: Vec<ChatMessage>,
    /// The last message, where it is the user's own words.
    pub question: Option<String>,
    /// What may be called.
    pub tools: Tools,
    /// Whether at most one call is wanted.
    pub one_call: bool,
    /// How the answer is chosen.
    pub wish: Wish,
    /// Tokens of the answer.
    pub tokens_max: usize,
    /// Where the answer stops.
    pub stops: Stops,
    /// Whether the answer is sent as it is thought.
    pub stream: bool,
    /// Whether a stream ends with its usage.
    pub include_usage: bool,
}

impl Request {
    /// Reads a body.
    pub fn read(body: &JsonBody) -> Result<Self, Refusal> {
        for (field, what) in UNSUPPORTED {
            // What asks for nothing is what is done.
            let asks = |value: &Value| {
                !matches!(value, Value::Null | Value::Bool(false))
                    && value.as_object().is_none_or(|map| !map.is_empty())
            };
            if asks(body.get(field)) {
                return Err(session::unsupported(field.into(), what).into());
            }
        }
        only(body, "n", &1.into(), "this node gives one answer; leave `n` out")?;
        for penalty in ["frequency_penalty", "presence_penalty"] {
            let message = format!("this node has a penalty of its own against repetition; leave `{penalty}` out");
            if body.get(penalty).as_f64().is_none_or(|value| value != 0.0) && !body.get(penalty).is_null() {
                return Err(Refusal::field(penalty, message));
            }
        }
        if body.get("response_format").get("type").is_some_and(|kind| kind != "text") {
            return Err(Refusal::field("response_format", "this node answers in words; leave `response_format` out"));
        }
        only(body, "modalities", &serde_json::json!(["text"]), "answers here are texts; leave `modalities` out")?;
        let model = body.text("model", 256)?;
        let (system, messages, question) = messages(body.get("messages"))?;
        Ok(Self {
            model,
            system,
            messages,
            question,
            tools: tools(body.get("tools"), body.get("tool_choice"))?,
            one_call: body.get("parallel_tool_calls") == &Value::Bool(false),
            wish: Wish {
                temperature: body.number("temperature", 0.0, 2.0)?,
                top_p: body.number("top_p", 1e-6, 1.0)?,
                seed: body.get("seed").as_i64().map(|seed| seed as u64),
                begins: String::new(),
            },
            tokens_max: tokens_max(body)?,
            stops: stops(body.get("stop"))?,
            stream: body.switch("stream")?,
            include_usage: body.get("stream_options").get("include_usage") == Some(&Value::Bool(true)),
        })
    }
}

/// A field that can only have one value.
fn only(body: &JsonBody, field: &'static str, value: &Value, message: &str) -> Result<(), Refusal> {
    let found = body.get(field);
    if found.is_null() || found == value { Ok(()) } else { Err(Refusal::field(field, message)) }
}

/// As many tokens as are asked for; more than this node thinks in one answer are as many as it does.
fn tokens_max(body: &JsonBody) -> Result<usize, Refusal> {
    for field in ["max_completion_tokens", "max_tokens"] {
        match body.get(field) {
            Value::Null => {}
            value => {
                let asked = value.as_u64().filter(|tokens| *tokens > 0);
                let asked = asked.ok_or_else(|| Refusal::field(field, format!("`{field}` is a number from 1 on")))?;
                return Ok(usize::try_from(asked).unwrap_or(TOKENS_MAX).min(TOKENS_MAX));
            }
        }
    }
    Ok(TOKENS_MAX)
}

fn stops(value: &Value) -> Result<Stops, Refusal> {
    let wrong = || {
        let message = format!("`stop` is a text or up to {STOPS_MAX} of them, of 1 to {STOP_BYTES_MAX} bytes each");
        Refusal::field("stop", message)
    };
    let texts: Vec<&str> = match value {
        Value::Null => vec![],
        Value::String(stop) => vec![stop],
        Value::Array(stops) => stops.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(wrong)?,
        _ => return Err(wrong()),
    };
    if texts.len() > STOPS_MAX || texts.iter().any(|text| !(1..=STOP_BYTES_MAX).contains(&text.len())) {
        return Err(wrong());
    }
    Ok(Stops::new(texts.into_iter().map(str::to_owned).collect()))
}

type Conversation = (Vec<String>, Vec<ChatMessage>, Option<String>);

fn messages(value: &Value) -> Result<Conversation, Refusal> {
    let messages = match value {
        Value::Null => return Err(missing("messages")),
        Value::Array(messages) if (1..=MESSAGES_MAX).contains(&messages.len()) => messages,
        _ => return Err(Refusal::field("messages", format!("`messages` is a list of 1 to {MESSAGES_MAX} messages"))),
    };
    let (mut system, mut conversation, mut question) = (Vec::new(), Vec::new(), None);
    // Which function was called under which name, for the results.
    let mut called: Vec<ToolCall> = Vec::new();
    for (n, message) in messages.iter().enumerate() {
        let at = |field: &str| format!("messages[{n}].{field}");
        let message = session::object(message, || format!("messages[{n}]"))?;
        let content = content(message.get("content").unwrap_or(&Value::Null), &at("content"))?;
        question = None;
        let (role, content) = match message.get("role").and_then(Value::as_str) {
            Some("system" | "developer") => {
                system.push(content);
                continue;
            }
            Some("user") => {
                question = Some(content.clone());
                ("user", content)
            }
            Some("assistant") => {
                let calls = calls(message.get("tool_calls").unwrap_or(&Value::Null), &at("tool_calls"))?;
                let words = Some(content).filter(|content| !content.is_empty());
                let shown = words.into_iter().chain(calls.iter().map(shown_call)).collect::<Vec<_>>().join("\n");
                called.extend(calls);
                ("assistant", shown)
            }
            Some("tool") => {
                let id = message.get("tool_call_id").and_then(Value::as_str);
                let call = called.iter().rfind(|call| Some(call.call_id.as_str()) == id).ok_or_else(|| {
                    Refusal::field(at("tool_call_id"), "it names no call of an assistant's message before it")
                })?;
                let (call_id, name) = (call.call_id.clone(), call.name.clone());
                ("user", shown_result(&ToolResult { call_id, name, output: Pii::new(content) }))
            }
            _ => {
                let message = "a message's role is `system`, `developer`, `user`, `assistant` or `tool`";
                return Err(Refusal::field(at("role"), message));
            }
        };
        conversation.push(ChatMessage { role, content, is_shared: false });
    }
    if conversation.is_empty() {
        return Err(Refusal::field("messages", "there is nothing to answer; send a message of the `user`"));
    }
    Ok((system, conversation, question))
}

/// The text of a message: a string, or parts of text.
fn content(value: &Value, at: &str) -> Result<String, Refusal> {
    let text = |value: &Value| session::text(value, MESSAGE_BYTES_MAX, || at.to_owned());
    match value {
        Value::Null => Ok(String::new()),
        Value::Array(parts) => {
            let part = |part: &Value| match part.get("type").and_then(Value::as_str) {
                Some("text") => Ok(text(part.get("text").unwrap_or(&Value::Null))?),
                _ => Err(Refusal::field(at, "this node reads text; send parts of type `text` only")),
            };
            Ok(parts.iter().map(part).collect::<Result<Vec<_>, Refusal>>()?.join("\n"))
        }
        value => Ok(text(value)?),
    }
}

/// The calls of an assistant's earlier message.
fn calls(value: &Value, at: &str) -> Result<Vec<ToolCall>, Refusal> {
    let calls = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let call = |call: &Value| {
        let (id, function) = (call.get("id"), call.get("function"));
        let part = |field: &str| function.and_then(|function| function.get(field)).and_then(Value::as_str);
        match (id.and_then(Value::as_str), part("name"), part("arguments")) {
            (Some(id), Some(name), Some(arguments)) => Ok(ToolCall {
                by: DoneBy::Client,
                call_id: id.to_owned(),
                name: name.to_owned(),
                arguments: Pii::new(arguments.to_owned()),
            }),
            _ => Err(Refusal::field(at, "a call has an `id` and a `function` with `name` and `arguments`")),
        }
    };
    calls.iter().map(call).collect()
}

fn tools(tools: &Value, choice: &Value) -> Result<Tools, Refusal> {
    let tools = match tools {
        Value::Null => Vec::new(),
        Value::Array(tools) => tools.iter().map(tool).collect::<Result<_, _>>()?,
        _ => return Err(Refusal::field("tools", "`tools` is a list")),
    };
    let choice = match choice {
        Value::Null => ToolChoice::Auto,
        Value::String(word) => match word.as_str() {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" => ToolChoice::Required,
            _ => return Err(wrong_choice()),
        },
        choice => match choice.get("function").and_then(|function| function.get("name")).and_then(Value::as_str) {
            Some(name) => ToolChoice::Named(name.to_owned()),
            None => return Err(wrong_choice()),
        },
    };
    Tools::new(tools, choice).map_err(|error| Refusal::field("tools", error.to_string()))
}

fn wrong_choice() -> Refusal {
    let message =
        "`tool_choice` is `auto`, `none`, `required` or {\"type\": \"function\", \"function\": {\"name\": …}}";
    Refusal::field("tool_choice", message)
}

fn tool(value: &Value) -> Result<Tool, Refusal> {
    let wrong = || {
        Refusal::field(
            "tools",
            "a tool is {\"type\": \"function\", \"function\": {\"name\", \"description\", \"parameters\"}}",
        )
    };
    let function = value.get("function").and_then(Value::as_object).ok_or_else(wrong)?;
    let text = |field: &str| match function.get(field) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(text) => text.as_str().map(str::to_owned).ok_or_else(wrong),
    };
    let parameters = match function.get("parameters") {
        None | Some(Value::Null) => Map::new(),
        Some(parameters) => parameters.as_object().ok_or_else(wrong)?.clone(),
    };
    Ok(Tool { by: DoneBy::Client, name: text("name")?, description: text("description")?, parameters })
}
