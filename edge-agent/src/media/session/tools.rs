//! `tools` and `tool_choice`, as the wire states them.

use super::fields::{WireError, object, text, unknown, unsupported};
use nearfield_dialogue::tools::{DoneBy, TOOLS_BYTES_MAX, TOOLS_MAX, Tool, ToolChoice, ToolError, Tools};
use serde_json::{Map, Value, json};

/// Functions.
pub fn tools(value: &Value, at: impl Fn() -> String) -> Result<Vec<Tool>, WireError> {
    let list = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) if list.len() <= TOOLS_MAX => list,
        _ => return Err(WireError::at(at(), format!("{} is a list of at most {TOOLS_MAX} functions", at()))),
    };
    list.iter().enumerate().map(|(n, tool)| function(tool, &format!("{}[{n}]", at()))).collect()
}

fn function(value: &Value, at: &str) -> Result<Tool, WireError> {
    let fields = object(value, || at.to_owned())?;
    match fields.get("type").and_then(Value::as_str) {
        Some("function") => {}
        Some("mcp") => return Err(unsupported(at.to_owned(), "MCP servers")),
        _ => return Err(WireError::at(format!("{at}.type"), "a tool's type is function")),
    }
    let words = |field: &str| match fields.get(field) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(value) => text(value, TOOLS_BYTES_MAX, || format!("{at}.{field}")),
    };
    if let Some(field) =
        fields.keys().find(|key| !["type", "name", "description", "parameters", "strict"].contains(&key.as_str()))
    {
        return Err(unknown(format!("{at}.{field}")));
    }
    let parameters = match fields.get("parameters") {
        None | Some(Value::Null) => Map::new(),
        Some(value) => object(value, || format!("{at}.parameters"))?.clone(),
    };
    Ok(Tool { by: DoneBy::Client, name: words("name")?, description: words("description")?, parameters })
}

/// Whether functions are called.
pub fn tool_choice(value: &Value, at: impl Fn() -> String) -> Result<ToolChoice, WireError> {
    let named = || value.get("type").and_then(Value::as_str).zip(value.get("name").and_then(Value::as_str));
    match value.as_str() {
        Some("auto") => Ok(ToolChoice::Auto),
        Some("none") => Ok(ToolChoice::None),
        Some("required") => Ok(ToolChoice::Required),
        None if value.is_null() => Ok(ToolChoice::Auto),
        _ => match named() {
            Some(("function", name)) => Ok(ToolChoice::Named(name.to_owned())),
            _ => Err(WireError::at(
                at(),
                "tool_choice is auto, none, required, or an object such as {\"type\": \"function\", \"name\": \"NAME\"}",
            )),
        },
    }
}

/// Why tools cannot be offered, as an error about the field that can be changed. `at` is the object that holds both.
pub fn refused(error: &ToolError, at: &str) -> WireError {
    let field = if *error == ToolError::NoSuchTool { "tool_choice" } else { "tools" };
    WireError::at(format!("{at}.{field}"), error.to_string())
}

/// The functions that the client has set, as it sees them. Those that the node does are the assistant's and not the session's.
pub(super) fn show_tools(tools: &Tools) -> Value {
    let show = |tool: &Tool| {
        json!({
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
        })
    };
    tools.all().iter().filter(|tool| tool.by == DoneBy::Client).map(show).collect()
}

/// The choice as a client sees it.
pub(super) fn show_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => json!("auto"),
        ToolChoice::None => json!("none"),
        ToolChoice::Required => json!("required"),
        ToolChoice::Named(name) => json!({ "type": "function", "name": name }),
    }
}
