//! `[[tools]]`: functions that a node does by HTTP.

use super::text;
use crate::definition::section::{At, Section};
use nearfield_shared::assistant::http_tool::{
    HEADERS_MAX, Method, RESPONSE_BYTES_MAX, TIMEOUT_MS, TOOLS_BYTES_MAX, TOOLS_MAX, UrlTemplate, header_parts, is_name,
};
use serde_json::Value;
use std::collections::BTreeSet;

/// Parts of a header's or a parameter's name that say that its value is secret.
const SECRET_NAMES: [&str; 8] =
    ["authorization", "cookie", "token", "secret", "password", "passwd", "apikey", "api-key"];

/// Notes everything that is wrong with the tools. `hosts` is the allow-list.
pub fn check(root: &Section<'_, '_>, hosts: &[&str]) {
    let tools = root.tables("tools");
    if tools.len() > TOOLS_MAX {
        root.note_here(format!("{} tools are more than {TOOLS_MAX}; a small model mixes up so many", tools.len()));
    }
    let mut names = BTreeSet::new();
    let mut bytes = 0;
    for tool in &tools {
        if let Some(name) = tool.string("name") {
            if !is_name(name.value) {
                tool.note(name.at, format!("\"{}\" is no name: use 1 to 64 letters, digits, _ or -", name.value));
            } else if !names.insert(name.value) {
                tool.note(name.at, format!("there are two tools named \"{}\"; rename one", name.value));
            }
            bytes += name.value.len();
        }
        let description = tool.string("description");
        bytes += description.as_ref().map_or(0, |d| d.value.len());
        text(tool, "description", description);
        if let Some(method) = tool.optional_string("method")
            && !Method::ALL.iter().any(|known| known.as_str() == method.value)
        {
            tool.note(method.at, format!("`method` \"{}\" is none; use GET, POST, PUT, PATCH or DELETE", method.value));
        }
        let parameters = tool.json("parameters");
        bytes += parameters.as_ref().map_or(0, |p| p.value.to_string().len());
        if let Some(url) = tool.string("url") {
            check_url(tool, &url, hosts, parameters.as_ref().map(|p| &p.value));
        }
        if let Some(parameters) = &parameters {
            check_parameters(tool, parameters);
        }
        if let Some(headers) = tool.table("headers", false) {
            check_headers(&headers);
        }
        tool.optional_integer("timeout_ms", (TIMEOUT_MS.0.into(), TIMEOUT_MS.1.into()));
        tool.optional_integer("response_bytes_max", (1, RESPONSE_BYTES_MAX.into()));
        tool.finish();
    }
    if bytes > TOOLS_BYTES_MAX {
        root.note_here(format!(
            "names, descriptions and parameters of all tools have {bytes} bytes, {TOOLS_BYTES_MAX} fit into a prompt; shorten them"
        ));
    }
}

fn check_url(tool: &Section<'_, '_>, url: &At<&str>, hosts: &[&str], parameters: Option<&Value>) {
    let template = match UrlTemplate::parse(url.value) {
        Ok(template) => template,
        Err(error) => return tool.note(url.at, format!("`url` cannot be asked: {error}")),
    };
    check_host(tool, url.at, template.host(), hosts);
    let required = parameters.and_then(|p| p.get("required")).and_then(Value::as_array);
    for argument in template.arguments() {
        if !required.is_some_and(|names| names.iter().any(|name| name == argument)) {
            let message =
                format!("`url` needs `{argument}`, which is not in `parameters.required`; the model may leave it out");
            tool.note(url.at, message);
        }
    }
    let query = url.value.split_once('?').map_or("", |(_, query)| query);
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        if is_secret_name(name) && !value.is_empty() && !value.contains('{') {
            tool.note(
                url.at,
                format!("`{name}` in the URL looks like a secret; send it as a header with ${{NAME}} in it"),
            );
        }
    }
}

/// Notes a host that is not in the allow-list.
pub fn check_host(section: &Section<'_, '_>, at: usize, host: &str, hosts: &[&str]) {
    if !hosts.contains(&host) {
        section.note(at, format!("the host \"{host}\" is not in `hosts`; add it there: hosts = [\"{host}\"]"));
    }
}

fn check_parameters(tool: &Section<'_, '_>, parameters: &At<Value>) {
    let note = |message: &str| tool.note(parameters.at, message);
    let Value::Object(schema) = &parameters.value else {
        return note("`parameters` must be a JSON schema of an object, as a table");
    };
    if schema.get("type").is_some_and(|kind| kind != "object") {
        note("`parameters.type` must be \"object\"");
    }
    let properties = match schema.get("properties") {
        None => None,
        Some(Value::Object(properties)) => Some(properties),
        Some(_) => return note("`parameters.properties` must be a table with a schema for each argument"),
    };
    match schema.get("required") {
        None => {}
        Some(Value::Array(names)) => {
            for name in names {
                let known = name.as_str().is_some_and(|name| properties.is_some_and(|p| p.contains_key(name)));
                if !known {
                    note(&format!("`parameters.required` names {name}, which is not in `parameters.properties`"));
                }
            }
        }
        Some(_) => note("`parameters.required` must be a list of names"),
    }
}

fn check_headers(headers: &Section<'_, '_>) {
    let entries: Vec<_> = headers.entries().collect();
    if entries.len() > HEADERS_MAX {
        headers.note_here(format!("{} headers are more than {HEADERS_MAX}", entries.len()));
    }
    for (name, value) in entries {
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if name.value.is_empty() || !name.value.bytes().all(good) {
            headers.note(name.at, format!("\"{}\" is no header's name", name.value));
        }
        if ["host", "content-length", "transfer-encoding", "connection"]
            .contains(&name.value.to_ascii_lowercase().as_str())
        {
            headers.note(name.at, format!("`{}` is set by the node; take it out", name.value));
        }
        let Some(value) = value else { continue };
        if header_parts(value.value).is_none() {
            headers.note(value.at, "a secret is ${NAME} with letters, digits, _ or - between the braces");
        } else if is_secret_name(name.value) && !value.value.contains("${") {
            let message = format!(
                "`{}` is secret: put it into the file secrets/NAME of each node's folder (mode 0600), and write ${{NAME}} here",
                name.value
            );
            headers.note(value.at, message);
        }
        if value.value.bytes().any(|b| !(0x20..0x7f).contains(&b)) {
            headers.note(value.at, format!("`{}` holds what a header cannot hold", name.value));
        }
    }
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    SECRET_NAMES.iter().any(|secret| name.contains(secret)) || name == "key" || name.ends_with("-key")
}
