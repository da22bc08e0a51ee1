//! Function tools: what a language model is told of them, and what of its text is a call.
//!
//! The format is the one that SmolLM2 was trained with (its model card, "function calling"): the tools as JSON in the system
//! message, and in the answer `<tool_call>[{"name": …, "arguments": {…}}]</tool_call>`, an empty list where no function is
//! needed. Models of other families that were trained on the same tags fit, too.
//!
//! The parser is strict, because what it lets through is done: a call counts only whole, between both tags, of a tool that was
//! offered, with arguments that fit its schema. Everything else is words, or no call at all.

mod reading;

pub use reading::{CALLS_MAX, CallReader, Reading, Wanted};

use nearfield_shared::pii::Pii;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Tools that may be offered at once.
pub const TOOLS_MAX: usize = 32;

/// Bytes of all tools as they stand in a prompt: about 1,000 tokens, half of what a prompt and its answer may have together.
pub const TOOLS_BYTES_MAX: usize = 4 * 1024;

/// Characters of a tool's name, as in the OpenAI API.
const NAME_CHARS_MAX: usize = 64;

/// Characters of a function's result that go into a prompt; a longer one would push the question out of it.
const RESULT_CHARS_MAX: usize = 1_200;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// Who does what a function is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DoneBy {
    /// The client: it is told of the call and sends what it returned.
    #[default]
    Client,
    /// This node: the shell is asked to do it, and the answer goes on by itself.
    Node,
}

/// A function that can be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Who does it.
    pub by: DoneBy,
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

/// A call that the model makes.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// Who does it.
    pub by: DoneBy,
    /// The name under which its result comes back.
    pub call_id: String,
    /// The function.
    pub name: String,
    /// Its arguments: the text of a JSON object. What a caller said stands in it.
    pub arguments: Pii<String>,
}

/// What a function returned.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolResult {
    /// The call that it belongs to.
    pub call_id: String,
    /// The function that was called.
    pub name: String,
    /// What it returned, any text.
    pub output: Pii<String>,
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

    /// These tools, with others in their place or under another choice.
    ///
    /// # Errors
    /// As for [`Tools::new`].
    pub fn with(&self, tools: Option<Vec<Tool>>, choice: Option<ToolChoice>) -> Result<Self, ToolError> {
        match (tools, choice) {
            (None, None) => Ok(self.clone()),
            (tools, choice) => {
                Self::new(tools.unwrap_or_else(|| self.all.to_vec()), choice.unwrap_or_else(|| self.choice.clone()))
            }
        }
    }

    /// Those that the client does, under the same choice.
    #[must_use]
    pub fn of_client(&self) -> Self {
        let all: Arc<[Tool]> = self.all.iter().filter(|tool| tool.by == DoneBy::Client).cloned().collect();
        let is_there = |name: &String| all.iter().any(|tool| tool.name == *name);
        let choice = match &self.choice {
            ToolChoice::Named(name) if !is_there(name) => ToolChoice::Auto,
            ToolChoice::Required if all.is_empty() => ToolChoice::Auto,
            choice => choice.clone(),
        };
        Self { all, choice }
    }

    /// The same, none of them demanded.
    #[must_use]
    pub fn unforced(&self) -> Self {
        let choice = if self.are_forced() { ToolChoice::Auto } else { self.choice.clone() };
        Self { all: Arc::clone(&self.all), choice }
    }

    /// Who does the function of this name.
    pub fn done_by(&self, name: &str) -> DoneBy {
        self.all.iter().find(|tool| tool.name == name).map_or(DoneBy::Client, |tool| tool.by)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, description: &str) -> Tool {
        Tool { by: DoneBy::Client, name: name.into(), description: description.into(), parameters: Map::new() }
    }

    fn time(choice: ToolChoice) -> Tools {
        Tools::new(vec![tool("get_weather", "The weather."), tool("time", "")], choice).expect("fine")
    }

    #[test]
    fn the_prompt_is_the_one_of_the_model_card() {
        let prompt = time(ToolChoice::Named("time".into())).instructions().expect("a prompt");
        let expect = "<tools>[{\"type\": \"function\", \"function\": {\"name\": \"time\", \"description\": \"\", \"parameters\": {}}}]</tools>";
        assert!(prompt.contains(expect) && !prompt.contains("get_weather"), "{prompt}");
        assert!(prompt.ends_with("... (more tool calls as required)\n]</tool_call>"));
        assert_eq!(time(ToolChoice::None).instructions(), None);
        assert_eq!(Tools::default().instructions(), None);
    }

    #[test]
    fn tools_that_a_prompt_cannot_hold_are_refused() {
        let tool = |name: &str, words: usize| tool(name, &"word ".repeat(words));
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
}
