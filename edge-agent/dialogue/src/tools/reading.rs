//! What of a model's text is a call. See [`crate::tools`] for the format.

use super::{CLOSE, OPEN, Tools};
use serde_json::{Map, Value};

/// Calls that one answer may make.
pub const CALLS_MAX: usize = 8;

/// A call as it was read, before it has an id.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The function.
    pub name: String,
    /// The text of a JSON object.
    pub arguments: String,
}

/// What a model's whole text turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// Words; these had not been given out yet.
    Words(String),
    /// Calls, one at least.
    Calls(Vec<Wanted>),
    /// The model says that no function is needed.
    NoCall,
    /// Something that begins like a call and is none.
    Invalid(&'static str),
}

/// Tells words from calls while a model's text arrives. The words before a call are words.
#[derive(Debug, Clone)]
pub struct CallReader {
    tools: Tools,
    /// Text that may be, or is, the beginning of a call.
    held: String,
    opened: bool,
    said: bool,
}

impl CallReader {
    /// A reader of an answer for which these tools were offered.
    pub fn new(tools: Tools) -> Self {
        Self { tools, held: String::new(), opened: false, said: false }
    }

    /// Takes the next piece; returns what of the text so far is words for certain. Where a call is demanded, words are not.
    pub fn push(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        if self.opened {
            return String::new();
        }
        let until = match self.held.find(OPEN) {
            Some(at) => {
                self.opened = true;
                at
            }
            // The end of the text may be the beginning of a tag.
            None => (1..OPEN.len())
                .rev()
                .filter(|bytes| self.held.ends_with(&OPEN[..*bytes]))
                .map(|bytes| self.held.len() - bytes)
                .next()
                .unwrap_or(self.held.len()),
        };
        if !self.said && self.held[..until].trim().is_empty() {
            // White space before the first word, or before a call that nothing was said before, is nothing to say.
            if self.opened {
                self.held.drain(..until);
            }
            return String::new();
        }
        self.said |= !self.tools.are_forced();
        let rest = self.held.split_off(until);
        let words = std::mem::replace(&mut self.held, rest);
        if self.tools.are_forced() { String::new() } else { words }
    }

    /// Whether words were given out.
    pub fn has_words(&self) -> bool {
        self.said
    }

    /// Whether calls stand in the text already: what follows them does not count.
    pub fn has_called(&self) -> bool {
        self.opened && self.held.contains(CLOSE) && matches!(self.clone().finish(), Reading::Calls(_))
    }

    /// The text is complete.
    pub fn finish(self) -> Reading {
        if !self.opened {
            return if self.tools.are_forced() { Reading::Invalid("it is words") } else { Reading::Words(self.held) };
        }
        let inside = self.held.strip_prefix(OPEN).unwrap_or(&self.held);
        match inside.split_once(CLOSE) {
            Some((inside, _)) => self.tools.read(inside),
            None => Reading::Invalid("it is not closed"),
        }
    }
}

impl Tools {
    /// Reads what stands between the tags.
    fn read(&self, inside: &str) -> Reading {
        let Ok(value) = serde_json::from_str::<Value>(inside) else { return Reading::Invalid("it is not JSON") };
        let calls = match value {
            Value::Array(calls) => calls,
            one @ Value::Object(_) => vec![one],
            _ => return Reading::Invalid("it is not a list of calls"),
        };
        if calls.len() > CALLS_MAX {
            return Reading::Invalid("it makes more calls than one answer may");
        }
        let mut wanted = Vec::new();
        for call in &calls {
            let Some(call) = call.as_object() else { return Reading::Invalid("a call is not an object") };
            let tool = call.get("name").and_then(Value::as_str);
            let Some(tool) = tool.and_then(|name| self.offered().find(|tool| tool.name == name)) else {
                return Reading::Invalid("it names a function that was not offered");
            };
            let none = Map::new();
            let arguments = match call.get("arguments") {
                None | Some(Value::Null) => &none,
                Some(Value::Object(arguments)) => arguments,
                Some(_) => return Reading::Invalid("the arguments are not an object"),
            };
            if let Err(reason) = fits(&tool.parameters, arguments) {
                return Reading::Invalid(reason);
            }
            let arguments = Value::Object(arguments.clone()).to_string();
            wanted.push(Wanted { name: tool.name.clone(), arguments });
        }
        if wanted.is_empty() { Reading::NoCall } else { Reading::Calls(wanted) }
    }
}

/// Whether arguments fit a schema: what is required is there, nothing is there that the schema rules out, and values are of the
/// type and among the choices that it names. Schemas inside schemas are the client's to check.
fn fits(schema: &Map<String, Value>, arguments: &Map<String, Value>) -> Result<(), &'static str> {
    let names =
        |field: &str| schema.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    if names("required").any(|name| !arguments.contains_key(name)) {
        return Err("an argument that is required is missing");
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
    for (name, value) in arguments {
        let Some(property) = properties.and_then(|properties| properties.get(name)) else {
            if closed {
                return Err("there is an argument that the function does not take");
            }
            continue;
        };
        let kinds = match property.get("type") {
            Some(Value::String(kind)) => vec![kind.as_str()],
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => vec![],
        };
        if !kinds.is_empty() && !kinds.iter().any(|kind| is_a(value, kind)) {
            return Err("an argument is of the wrong type");
        }
        if property.get("enum").and_then(Value::as_array).is_some_and(|choices| !choices.contains(value)) {
            return Err("an argument is not among its choices");
        }
    }
    Ok(())
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        // A kind that nobody knows rules nothing out.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{DoneBy, RESULT_CHARS_MAX, Tool, ToolCall, ToolChoice, ToolResult, shown_call, shown_result},
        *,
    };
    use nearfield_shared::pii::Pii;
    use proptest::prelude::*;
    use serde_json::json;

    fn tools(choice: ToolChoice) -> Tools {
        let schema = |value: Value| value.as_object().expect("an object").clone();
        let weather = Tool {
            by: DoneBy::Client,
            name: "get_weather".into(),
            description: "The weather in a city.".into(),
            parameters: schema(json!({
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
                "required": ["city"],
                "additionalProperties": false,
            })),
        };
        let time = Tool { by: DoneBy::Client, name: "time".into(), description: String::new(), parameters: Map::new() };
        Tools::new(vec![weather, time], choice).expect("fine")
    }

    fn read(text: &str, choice: ToolChoice) -> (String, Reading) {
        let mut reader = CallReader::new(tools(choice));
        let words = reader.push(text);
        (words, reader.finish())
    }

    fn calls(text: &str) -> Option<Vec<(String, String)>> {
        match read(text, ToolChoice::Auto).1 {
            Reading::Calls(calls) => Some(calls.into_iter().map(|call| (call.name, call.arguments)).collect()),
            _ => None,
        }
    }

    #[test]
    fn a_call_is_read_with_its_arguments() {
        let text = "<tool_call>[\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\", \"days\": 2}},\n{\"name\": \"time\"}\n]</tool_call>";
        let expect = [("get_weather", "{\"city\":\"Paris\",\"days\":2}"), ("time", "{}")];
        assert_eq!(calls(text), Some(expect.map(|(a, b)| (a.into(), b.into())).into()));
        assert_eq!(
            calls("<tool_call>{\"name\": \"time\", \"arguments\": {}}</tool_call> and more").map(|c| c.len()),
            Some(1)
        );
        let (words, reading) = read("One moment. <tool_call>[{\"name\": \"time\"}]</tool_call>", ToolChoice::Auto);
        assert_eq!(words, "One moment. ");
        assert!(matches!(reading, Reading::Calls(_)));
    }

    #[test]
    fn what_is_no_call_is_not_done() {
        let invalid = |text: &str| assert!(matches!(read(text, ToolChoice::Auto).1, Reading::Invalid(_)), "{text}");
        invalid("<tool_call>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}]");
        invalid("<tool_call>get_weather(Paris)</tool_call>");
        invalid("<tool_call>[{\"name\": \"shut_down\", \"arguments\": {}}]</tool_call>");
        invalid("<tool_call>[{\"name\": \"get_weather\", \"arguments\": {}}]</tool_call>");
        invalid("<tool_call>[{\"name\": \"get_weather\", \"arguments\": \"Paris\"}]</tool_call>");
        invalid("<tool_call>[{\"name\": \"get_weather\", \"arguments\": {\"city\": 5}}]</tool_call>");
        invalid(
            "<tool_call>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"x\", \"unit\": \"K\"}}]</tool_call>",
        );
        invalid("<tool_call>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"x\", \"else\": 1}}]</tool_call>");
        invalid("<tool_call>[{\"name\": \"time\"}, 7]</tool_call>");
        invalid(&format!("<tool_call>[{}]</tool_call>", ["{\"name\": \"time\"}"; CALLS_MAX + 1].join(",")));
        assert_eq!(read("<tool_call>[]</tool_call>", ToolChoice::Auto).1, Reading::NoCall);
        assert_eq!(read("It is five.", ToolChoice::Auto), ("It is five.".into(), Reading::Words(String::new())));
        assert!(matches!(read("It is five.", ToolChoice::Required), (words, Reading::Invalid(_)) if words.is_empty()));
        let named = ToolChoice::Named("time".into());
        let other = "<tool_call>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"x\"}}]</tool_call>";
        assert!(matches!(read(other, named).1, Reading::Invalid(_)));
    }

    #[test]
    fn what_was_called_and_returned_can_be_shown_to_the_model_again() {
        let call = ToolCall {
            by: DoneBy::Client,
            call_id: "c".into(),
            name: "get_weather".into(),
            arguments: Pii::new("{\"city\":\"Paris\"}".into()),
        };
        assert_eq!(calls(&shown_call(&call)), Some(vec![("get_weather".into(), "{\"city\":\"Paris\"}".into())]));
        let result = ToolResult { call_id: "c".into(), name: "f".into(), output: Pii::new("x".repeat(5_000)) };
        assert!(shown_result(&result).len() < RESULT_CHARS_MAX + 100);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter_and_nothing_panics(
            text in "(<tool_call>|</tool_call>|[ a-z<>{}\"\\[\\]:,]){0,12}",
            at in prop::collection::vec(0usize..200, 0..6),
        ) {
            let (words, reading) = read(&text, ToolChoice::Auto);
            let mut reader = CallReader::new(tools(ToolChoice::Auto));
            let mut pieces = String::new();
            let mut from = 0;
            let mut cuts: Vec<usize> = at.into_iter().filter(|at| *at <= text.len()).collect();
            cuts.sort_unstable();
            for cut in cuts.into_iter().chain([text.len()]) {
                pieces.push_str(&reader.push(&text[from..cut]));
                from = cut;
            }
            let finished = reader.finish();
            let all = |words: &str, reading: &Reading| match reading {
                Reading::Words(rest) => format!("{words}{rest}"),
                _ => words.to_owned(),
            };
            prop_assert_eq!(all(&words, &reading), all(&pieces, &finished));
            if !text.contains(OPEN) {
                prop_assert_eq!(all(&words, &reading), text);
            }
        }
    }
}
