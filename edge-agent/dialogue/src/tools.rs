//! Function tools: what a language model is told of them, and what of its text is a call.
//!
//! The format is the one that SmolLM2 was trained with (its model card, "function calling"): the tools as JSON in the system
//! message, and in the answer `<tool_call>[{"name": …, "arguments": {…}}]</tool_call>`, an empty list where no function is
//! needed. Models of other families that were trained on the same tags fit, too.
//!
//! The parser is strict, because what it lets through is done: a call counts only whole, between both tags, of a tool that was
//! offered, with arguments that fit its schema. Everything else is words, or no call at all.

use nearfield_shared::pii::Pii;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Tools that may be offered at once.
pub const TOOLS_MAX: usize = 32;

/// Bytes of all tools as they stand in a prompt: about 1,000 tokens, half of what a prompt and its answer may have together.
pub const TOOLS_BYTES_MAX: usize = 4 * 1024;

/// Calls that one answer may make.
pub const CALLS_MAX: usize = 8;

/// Characters of a tool's name, as in the OpenAI API.
const NAME_CHARS_MAX: usize = 64;

/// Characters of a function's result that go into a prompt; a longer one would push the question out of it.
const RESULT_CHARS_MAX: usize = 1_200;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// A function that the client can do.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name: letters, digits, `_` and `-`.
    pub name: String,
    /// What it is for, in words for the model.
    pub description: String,
    /// Its arguments as a JSON schema of an object.
    pub parameters: Map<String, Value>,
}

/// Whether functions are called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// As the model decides.
    #[default]
    Auto,
    /// Never.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// Why tools cannot be offered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolError {
    /// A name that is none.
    #[error("a tool's name has 1 to {NAME_CHARS_MAX} letters, digits, `_` or `-`")]
    Name,
    /// Two of the same name.
    #[error("two tools have the same name; rename one")]
    Twice,
    /// More than [`TOOLS_MAX`].
    #[error("at most {TOOLS_MAX} tools can be offered at once; leave some out")]
    TooMany,
    /// More than [`TOOLS_BYTES_MAX`].
    #[error(
        "the tools take {0} bytes of the prompt, {TOOLS_BYTES_MAX} are the most; shorten their descriptions or leave some out"
    )]
    TooLong(usize),
    /// A choice of a tool that is not offered.
    #[error("tool_choice names a tool that is not among the tools")]
    NoSuchTool,
}

/// The tools of a conversation and whether they are to be called. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tools {
    all: Arc<[Tool]>,
    choice: ToolChoice,
}

/// A call that the model makes and the client does.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// The name under which its result comes back.
    pub call_id: String,
    /// The function.
    pub name: String,
    /// Its arguments: the text of a JSON object. What a caller said stands in it.
    pub arguments: Pii<String>,
}

/// What a client's function returned.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolResult {
    /// The call that it belongs to.
    pub call_id: String,
    /// The function that was called.
    pub name: String,
    /// What it returned, any text.
    pub output: Pii<String>,
}

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

impl Tools {
    /// These tools under this choice.
    ///
    /// # Errors
    /// When they are more or longer than a prompt holds, or do not fit each other.
    pub fn new(tools: Vec<Tool>, choice: ToolChoice) -> Result<Self, ToolError> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if tools.len() > TOOLS_MAX {
            return Err(ToolError::TooMany);
        }
        if tools.iter().any(|t| !(1..=NAME_CHARS_MAX).contains(&t.name.len()) || !t.name.chars().all(good)) {
            return Err(ToolError::Name);
        }
        if tools.iter().enumerate().any(|(n, tool)| tools[..n].iter().any(|other| other.name == tool.name)) {
            return Err(ToolError::Twice);
        }
        let bytes = tools.iter().map(|tool| shown(tool).len()).sum();
        if bytes > TOOLS_BYTES_MAX {
            return Err(ToolError::TooLong(bytes));
        }
        let tools = Self { all: tools.into(), choice };
        match &tools.choice {
            ToolChoice::Named(_) | ToolChoice::Required if tools.offered().next().is_none() => {
                Err(ToolError::NoSuchTool)
            }
            _ => Ok(tools),
        }
    }

    /// All of them, offered or not.
    pub fn all(&self) -> &[Tool] {
        &self.all
    }

    /// The choice.
    pub fn choice(&self) -> &ToolChoice {
        &self.choice
    }

    /// Those that may be called.
    pub fn offered(&self) -> impl Iterator<Item = &Tool> {
        self.all.iter().filter(|tool| match &self.choice {
            ToolChoice::None => false,
            ToolChoice::Named(name) => tool.name == *name,
            ToolChoice::Auto | ToolChoice::Required => true,
        })
    }

    /// Whether an answer must be a call.
    pub fn are_forced(&self) -> bool {
        matches!(self.choice, ToolChoice::Required | ToolChoice::Named(_))
    }

    /// Whether the model is told of any.
    pub fn are_offered(&self) -> bool {
        self.offered().next().is_some()
    }

    /// What the system message says about the tools; nothing where none is offered.
    pub fn instructions(&self) -> Option<String> {
        if !self.are_offered() {
            return None;
        }
        let tools = self.offered().map(shown).collect::<Vec<_>>().join(", ");
        Some(PROMPT.replacen("{tools}", &format!("[{tools}]"), 1))
    }

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

/// The prompt of SmolLM2's model card, word for word, spaces at the ends of lines included.
const PROMPT: &str = "You are an expert in composing functions. You are given a question and a set of possible functions. \n\
Based on the question, you will need to make one or more function/tool calls to achieve the purpose. \n\
If none of the functions can be used, point it out and refuse to answer. \n\
If the given question lacks the parameters required by the function, also point it out.\n\n\
You have access to the following tools:\n<tools>{tools}</tools>\n\n\
The output MUST strictly adhere to the following format, and NO other text MUST be included.\n\
The example format is as follows. Please make sure the parameter type is correct. If no function call is needed, please make the tool calls an empty list '[]'.\n\
<tool_call>[\n\
{\"name\": \"func_name1\", \"arguments\": {\"argument1\": \"value1\", \"argument2\": \"value2\"}},\n\
... (more tool calls as required)\n\
]</tool_call>";

/// A tool as the model card shows it to the model.
fn shown(tool: &Tool) -> String {
    let text = |words: &str| Value::from(words).to_string();
    format!(
        "{{\"type\": \"function\", \"function\": {{\"name\": {}, \"description\": {}, \"parameters\": {}}}}}",
        text(&tool.name),
        text(&tool.description),
        spaced(&Value::Object(tool.parameters.clone())),
    )
}

/// JSON with a space behind each comma and colon, as the model saw it in training.
fn spaced(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| format!("{}: {}", Value::from(key.as_str()), spaced(value));
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(spaced).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Calls that were made, as the model's own words in a later prompt.
pub fn shown_call(call: &ToolCall) -> String {
    let arguments = serde_json::from_str(call.arguments.reveal()).unwrap_or(Value::Null);
    format!(
        "{OPEN}[\n{{\"name\": {}, \"arguments\": {}}}\n]{CLOSE}",
        Value::from(call.name.as_str()),
        spaced(&arguments)
    )
}

/// A result as the model is told of it, in a turn of the user, because the format knows no other.
pub fn shown_result(result: &ToolResult) -> String {
    let output: String = result.output.reveal().trim().chars().take(RESULT_CHARS_MAX).collect();
    format!("The function {} returned: {output}\nAnswer my question with it.", result.name)
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
        self.said = true;
        let rest = self.held.split_off(until);
        let words = std::mem::replace(&mut self.held, rest);
        if self.tools.are_forced() { String::new() } else { words }
    }

    /// Whether the call is complete: what follows it does not count.
    pub fn is_closed(&self) -> bool {
        self.opened && self.held.contains(CLOSE)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn tools(choice: ToolChoice) -> Tools {
        let schema = |value: Value| value.as_object().expect("an object").clone();
        let weather = Tool {
            name: "get_weather".into(),
            description: "The weather in a city.".into(),
            parameters: schema(json!({
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
                "required": ["city"],
                "additionalProperties": false,
            })),
        };
        let time = Tool { name: "time".into(), description: String::new(), parameters: Map::new() };
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
        invalid(&format!("<tool_call>[{}]</tool_call>", vec!["{\"name\": \"time\"}"; CALLS_MAX + 1].join(",")));
        assert_eq!(read("<tool_call>[]</tool_call>", ToolChoice::Auto).1, Reading::NoCall);
        assert_eq!(read("It is five.", ToolChoice::Auto), ("It is five.".into(), Reading::Words(String::new())));
        assert!(matches!(read("It is five.", ToolChoice::Required), (words, Reading::Invalid(_)) if words.is_empty()));
        let named = ToolChoice::Named("time".into());
        let other = "<tool_call>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"x\"}}]</tool_call>";
        assert!(matches!(read(other, named).1, Reading::Invalid(_)));
    }

    #[test]
    fn the_prompt_is_the_one_of_the_model_card() {
        let prompt = tools(ToolChoice::Named("time".into())).instructions().expect("a prompt");
        let expect = "<tools>[{\"type\": \"function\", \"function\": {\"name\": \"time\", \"description\": \"\", \"parameters\": {}}}]</tools>";
        assert!(prompt.contains(expect) && !prompt.contains("get_weather"), "{prompt}");
        assert!(prompt.ends_with("... (more tool calls as required)\n]</tool_call>"));
        assert_eq!(tools(ToolChoice::None).instructions(), None);
        assert_eq!(Tools::default().instructions(), None);
    }

    #[test]
    fn tools_that_a_prompt_cannot_hold_are_refused() {
        let tool = |name: &str, words: usize| Tool {
            name: name.into(),
            description: "word ".repeat(words),
            parameters: Map::new(),
        };
        let check = |tools: Vec<Tool>, choice, expect: &str| {
            let error = Tools::new(tools, choice).expect_err(expect).to_string();
            assert!(error.contains(expect), "{error}");
        };
        check(vec![tool("a b", 1)], ToolChoice::Auto, "letters");
        check(vec![tool("", 1)], ToolChoice::Auto, "letters");
        check(vec![tool("a", 1), tool("a", 1)], ToolChoice::Auto, "same name");
        check((0..40).map(|n| tool(&format!("t{n}"), 0)).collect(), ToolChoice::Auto, "at most");
        check(vec![tool("a", 1_000)], ToolChoice::Auto, "shorten");
        check(vec![tool("a", 1)], ToolChoice::Named("b".into()), "not among");
        check(vec![], ToolChoice::Required, "not among");
    }

    #[test]
    fn what_was_called_and_returned_can_be_shown_to_the_model_again() {
        let call = ToolCall {
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
