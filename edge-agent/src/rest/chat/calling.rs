//! A call that is demanded, argument by argument.
//!
//! A small model seldom writes a whole call that fits. So the function's schema leads: each argument that is required is begun for the
//! model, which says its value and nothing else. Where one of several functions is demanded, it is the one whose description is nearest
//! to the question in meaning.

use crate::{
    refusal::Refusal,
    speech::{ChatMessage, Speech, Wish},
};
use axum::http::StatusCode;
use nearfield_dialogue::tools::{CallReader, Reading, Tool, Tools, Wanted};
use nearfield_shared::assistant::matching::cosine;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Tokens of one argument.
const VALUE_TOKENS_MAX: usize = 64;

/// Arguments that are asked for; a schema that demands more is refused.
const ARGUMENTS_MAX: usize = 8;

/// What one answer is made from.
pub struct Demand<'a> {
    /// The models.
    pub speech: Arc<dyn Speech>,
    /// The whole prompt, tools included.
    pub prompt: &'a [ChatMessage],
    /// The functions, one of which must be called.
    pub tools: &'a Tools,
    /// How words are chosen.
    pub wish: &'a Wish,
}

impl Demand<'_> {
    /// The call, and how many tokens it took.
    pub async fn call(&self) -> Result<(Vec<Wanted>, usize), Refusal> {
        let tool = self.nearest().await?;
        let names = asked_for(tool);
        if names.len() > ARGUMENTS_MAX {
            let message = format!("`{}` demands more than {ARGUMENTS_MAX} arguments; demand fewer", tool.name);
            return Err(Refusal::field("tools", message));
        }
        let mut call = format!("<tool_call>[\n{{\"name\": {}, \"arguments\": {{", quoted(&tool.name));
        let mut tokens = 0;
        for (n, name) in names.into_iter().enumerate() {
            call.push_str(if n == 0 { "" } else { ", " });
            call.push_str(&format!("{}:", quoted(name)));
            let (value, more) = self.value(&call, is_text(tool, name)).await?;
            call.push_str(&format!(" {value}"));
            tokens += more;
        }
        call.push_str("}}\n]</tool_call>");
        let mut reader = CallReader::new(self.tools.clone());
        reader.push(&call);
        match reader.finish() {
            Reading::Calls(calls) => Ok((calls, tokens)),
            _ => Err(no_call()),
        }
    }

    /// The value that the model gives to the argument with whose name the call ends.
    async fn value(&self, call: &str, is_text: bool) -> Result<(Value, usize), Refusal> {
        let mut text = if is_text { "\"".to_owned() } else { String::new() };
        let begins = if is_text { format!("{call} \"") } else { call.to_owned() };
        let wish = Wish { begins, ..self.wish.clone() };
        let mut pieces = self.speech.generate_as(self.prompt.to_vec(), VALUE_TOKENS_MAX, wish)?;
        let mut tokens = 0;
        while let Some(piece) = pieces.next().await.transpose()? {
            tokens += 1;
            text.push_str(&piece);
            if let Some(value) = whole(&text) {
                return Ok((value, tokens));
            }
        }
        Err(no_call())
    }

    /// The function that is meant.
    async fn nearest(&self) -> Result<&Tool, Refusal> {
        let offered: Vec<&Tool> = self.tools.offered().collect();
        if let [only] = offered.as_slice() {
            return Ok(only);
        }
        let question = self.prompt.iter().rfind(|message| message.role == "user");
        let question = question.map(|message| message.content.clone()).unwrap_or_default();
        let told = |tool: &&Tool| format!("{}: {}", tool.name.replace(['_', '-'], " "), tool.description);
        let texts = std::iter::once(question).chain(offered.iter().map(told));
        // Beginnings, as the engine takes no longer ones.
        let found = self.speech.embed(texts.map(|text| text.chars().take(1_000).collect()).collect()).await?;
        let Some((question, tools)) = found.split_first() else { return Err(no_call()) };
        let near = offered.iter().zip(tools).map(|(tool, told)| (*tool, cosine(question, told)));
        near.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(tool, _)| tool).ok_or_else(no_call)
    }
}

/// The arguments that are required; all where none is.
fn asked_for(tool: &Tool) -> Vec<&str> {
    let required: Vec<&str> = match tool.parameters.get("required").and_then(Value::as_array) {
        Some(names) => names.iter().filter_map(Value::as_str).collect(),
        None => Vec::new(),
    };
    if required.is_empty() {
        properties(tool).into_iter().flat_map(Map::keys).map(String::as_str).collect()
    } else {
        required
    }
}

fn properties(tool: &Tool) -> Option<&Map<String, Value>> {
    tool.parameters.get("properties").and_then(Value::as_object)
}

/// Whether an argument is a string.
fn is_text(tool: &Tool, name: &str) -> bool {
    let property = properties(tool).and_then(|properties| properties.get(name));
    property.and_then(|property| property.get("type")).and_then(Value::as_str) == Some("string")
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The value with which a text begins, once it is certainly whole: the digits of a number could go on.
fn whole(text: &str) -> Option<Value> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next()?.ok()?;
    let is_followed = values.byte_offset() < text.len();
    (is_followed || !value.is_number()).then_some(value)
}

fn no_call() -> Refusal {
    let message = "the model made no call that fits the tools; ask in other words, or offer simpler tools";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "no_tool_call", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_dialogue::tools::DoneBy;
    use serde_json::json;

    #[test]
    fn a_value_is_whole_when_nothing_can_be_added() {
        let check = |text: &str, value: Option<Value>| assert_eq!(whole(text), value, "{text}");
        check("\"Par", None);
        check("\"Paris\"}, \"and", Some("Paris".into()));
        check("\"a \\\" quote\"", Some("a \" quote".into()));
        check(" 12", None);
        check(" 12,", Some(12.into()));
        check(" 12.5}", Some(12.5.into()));
        check(" true", Some(true.into()));
        check(" [1, 2", None);
        check(" [1, 2]", Some(json!([1, 2])));
        check(" oops", None);
    }

    #[test]
    fn what_is_required_is_asked_for_and_otherwise_everything() {
        let tool = |parameters: Value| Tool {
            by: DoneBy::Client,
            name: "t".into(),
            description: String::new(),
            parameters: parameters.as_object().expect("an object").clone(),
        };
        let both = json!({"properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["b"]});
        assert_eq!(asked_for(&tool(both.clone())), ["b"]);
        assert!(is_text(&tool(both.clone()), "a") && !is_text(&tool(both), "b"));
        assert_eq!(asked_for(&tool(json!({"properties": {"a": {}, "b": {}}}))), ["a", "b"]);
        assert_eq!(asked_for(&tool(json!({}))), [""; 0]);
    }
}
