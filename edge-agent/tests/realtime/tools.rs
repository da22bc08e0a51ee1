//! Tools of an assistant, which the node does by HTTP: against a server that answers, fails, hangs and lies.

use crate::support::{Client, Did, FakeSpeech, Node, front_desk, serving};
use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use edge_agent::secrets;
use nearfield_shared::assistant::{Assistant, HttpTool};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// Method, path, headers and body.
type Request = (Method, String, HeaderMap, String);

/// What the server was asked.
#[derive(Default, Clone)]
struct Asked(Arc<Mutex<Vec<Request>>>);

/// A server whose path says how it behaves.
async fn server() -> (String, Asked) {
    let asked = Asked::default();
    let seen = asked.clone();
    let behave = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| async move {
        let body = String::from_utf8(body.to_vec()).unwrap();
        seen.0.lock().unwrap().push((method, uri.to_string(), headers, body));
        match uri.path() {
            "/slow" => {
                tokio::time::sleep(std::time::Duration::from_millis(1_300)).await;
                "it is slow".into_response()
            }
            "/hangs" => std::future::pending::<Response>().await,
            "/long" => "x".repeat(100_000).into_response(),
            "/moved" => (StatusCode::FOUND, [(header::LOCATION, "/orders/1")]).into_response(),
            "/gone" => StatusCode::NOT_FOUND.into_response(),
            "/broken" => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            "/bytes" => vec![0xffu8, 0xfe].into_response(),
            _ => "{\"state\": \"on its way\"}".into_response(),
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(behave)).await.unwrap() });
    (host, asked)
}

fn tool(url: &str) -> HttpTool {
    let number = json!({"type": "string", "description": "The order's number."});
    let parameters = json!({"type": "object", "properties": {"number": number}, "required": ["number"]});
    toml::from_str::<HttpTool>(&format!(
        "name = \"order_status\"\ndescription = \"Where an order is.\"\nurl = \"{url}\""
    ))
    .map(|tool| HttpTool { parameters: parameters.as_object().unwrap().clone(), timeout_ms: 3_000, ..tool })
    .unwrap()
}

fn desk(tool: HttpTool, hosts: &[&str]) -> Assistant {
    Assistant { tools: vec![tool], hosts: hosts.iter().map(|host| (*host).to_owned()).collect(), ..front_desk() }
}

async fn node(assistant: Assistant, private_hosts: &[&str]) -> Node {
    let private = private_hosts.iter().map(|host| (*host).to_owned()).collect();
    Node::asking(FakeSpeech::default(), serving(vec![assistant]), 8, private).await
}

const CALL: &str =
    "<tool_call>[{\"name\": \"order_status\", \"arguments\": {\"number\": \"a/1\", \"made_up\": 1}}]</tool_call>";

/// Asks about an order; returns the events until the answer that is about the result has ended.
async fn ask(node: &Node) -> (Client, Vec<Value>) {
    node.script(|s| {
        s.answers.push_back(vec![Did::Well(CALL)]);
        s.answers.push_back(vec![Did::Well("That is all I know.")]);
    });
    let mut client = node.call().await;
    client.manual().await;
    let item =
        json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Where is order a/1?"}]});
    client.ask(json!({"type": "conversation.item.create", "item": item}), "conversation.item.done").await;
    client.seen.clear();
    client.send(json!({"type": "response.create"})).await;
    loop {
        let done = client.expect("response.done").await["response"].clone();
        if done["output"][0]["content"][0]["transcript"] == "That is all I know." {
            let events = std::mem::take(&mut client.seen);
            return (client, events);
        }
    }
}

fn last_prompt(node: &Node) -> String {
    node.speech.script.lock().unwrap().prompts.last().unwrap().last().unwrap().content.clone()
}

#[tokio::test]
async fn a_tool_is_called_in_region_and_the_answer_goes_on() {
    let (host, asked) = server().await;
    let mut with_secret = tool(&format!("http://{host}/orders/{{number}}?lang=en"));
    with_secret.headers.insert("Authorization".into(), "Bearer ${crm_token}".into());
    let node = node(desk(with_secret, &[&host]), &[&host]).await;
    secrets::private_folder(&node.secrets()).unwrap();
    secrets::write(&node.secrets().join("crm_token"), b"s3cret\n").unwrap();
    let (mut client, events) = ask(&node).await;
    let (method, uri, headers, body) = asked.0.lock().unwrap()[0].clone();
    assert_eq!((method, uri.as_str(), body.as_str()), (Method::GET, "/orders/a%2F1?lang=en", ""));
    assert_eq!(headers["authorization"], "Bearer s3cret");
    assert!(last_prompt(&node).contains("order_status returned: {\"state\": \"on its way\"}"));
    let of = |kind: &str| events.iter().find(|e| e["type"] == kind).unwrap_or_else(|| panic!("no {kind}")).clone();
    assert_eq!(of("response.mcp_call_arguments.done")["arguments"], "{\"made_up\":1,\"number\":\"a/1\"}");
    let call = of("response.output_item.done")["item"].clone();
    assert_eq!(
        (&call["type"], &call["name"], &call["output"]),
        (&json!("mcp_call"), &json!("order_status"), &Value::Null)
    );
    assert_eq!(of("response.mcp_call.completed")["item_id"], call["id"]);
    let whole = events.iter().find(|e| e["type"] == "conversation.item.done" && e["item"]["id"] == call["id"]).unwrap();
    assert_eq!(whole["item"]["output"], "{\"state\": \"on its way\"}");
    // The client sees and changes its own functions only; the assistant's stays.
    let mine = json!({"type": "function", "name": "mine", "description": "", "parameters": {}});
    let update = json!({"type": "session.update", "session": {"type": "realtime", "tools": [mine]}});
    assert_eq!(client.ask(update, "session.updated").await["session"]["tools"], json!([mine]));
    client.send(json!({"type": "response.create"})).await;
    client.expect("response.done").await;
    let system = node.speech.script.lock().unwrap().prompts.last().unwrap()[0].content.clone();
    assert!(system.contains("\"order_status\"") && system.contains("\"mine\""), "{system}");
    let twice = json!({"type": "session.update", "session": {"type": "realtime", "tools": [{"type": "function", "name": "order_status"}]}});
    assert_eq!(client.ask(twice, "error").await["error"]["param"], "session.tools");
}

#[tokio::test]
async fn arguments_of_a_post_travel_as_json_and_only_those_of_the_schema() {
    let (host, asked) = server().await;
    let post = HttpTool {
        method: nearfield_shared::assistant::http_tool::Method::Post,
        ..tool(&format!("http://{host}/orders"))
    };
    let node = node(desk(post, &[&host]), &[&host]).await;
    ask(&node).await;
    let (method, uri, headers, body) = asked.0.lock().unwrap()[0].clone();
    assert_eq!((method, uri.as_str(), body.as_str()), (Method::POST, "/orders", "{\"number\":\"a/1\"}"));
    assert_eq!(headers["content-type"], "application/json");
}

#[tokio::test]
async fn a_caller_hears_that_they_are_to_wait_while_a_tool_takes_its_time() {
    let (host, _) = server().await;
    let node = node(desk(tool(&format!("http://{host}/slow")), &[&host]), &[&host]).await;
    let (_, events) = ask(&node).await;
    let said: Vec<&str> = events
        .iter()
        .filter(|e| e["type"] == "response.output_audio_transcript.done")
        .filter_map(|e| e["transcript"].as_str())
        .collect();
    assert_eq!(said, ["One moment, please.", "That is all I know."]);
    assert!(last_prompt(&node).contains("returned: it is slow"));
}

#[tokio::test]
async fn whatever_a_tool_does_the_model_is_told_and_the_caller_gets_an_answer() {
    let (host, asked) = server().await;
    let here: &[&str] = &[&host];
    for (path, says) in [
        ("hangs", "it did not answer in time"),
        ("long", "its answer was too long"),
        ("moved", "it cannot be reached at the moment"),
        ("gone", "nothing was found"),
        ("broken", "it cannot be reached at the moment"),
        ("bytes", "it cannot be reached at the moment"),
    ] {
        let quick = HttpTool { timeout_ms: 300, ..tool(&format!("http://{host}/{path}")) };
        let node = node(desk(quick, here), here).await;
        let (_, events) = ask(&node).await;
        let failed =
            events.iter().find(|e| e["item"]["error"].is_object()).unwrap_or_else(|| panic!("{path} did not fail"));
        assert_eq!(failed["item"]["error"]["message"], says, "{path}");
        assert!(last_prompt(&node).contains(says), "{path}");
    }
    let count = asked.0.lock().unwrap().len();
    let secret = {
        let mut tool = tool(&format!("http://{host}/x"));
        tool.headers.insert("x-key".into(), "${not_there}".into());
        tool
    };
    // Not in the assistant's list; loopback without the operator's leave; the metadata service; a secret that is not there.
    for (tool, hosts, private) in [
        (tool(&format!("http://{host}/x")), &["else.example"] as &[&str], here),
        (tool(&format!("http://{host}/x")), here, &[]),
        (tool("https://169.254.169.254/latest"), &["169.254.169.254"], here),
        (tool("https://localhost/x"), &["localhost"], here),
        (secret, here, here),
    ] {
        let node = node(desk(tool.clone(), hosts), private).await;
        let (_, events) = ask(&node).await;
        let failed = events.iter().find(|e| e["item"]["error"].is_object()).expect("it failed");
        assert_eq!(failed["item"]["error"]["message"], "it cannot be reached at the moment", "{tool:?}");
    }
    assert_eq!(asked.0.lock().unwrap().len(), count, "nobody was asked");
}

#[tokio::test]
async fn a_call_that_ends_leaves_no_tool_behind() {
    let (host, asked) = server().await;
    let node =
        node(desk(HttpTool { timeout_ms: 20_000, ..tool(&format!("http://{host}/hangs")) }, &[&host]), &[&host]).await;
    node.script(|s| s.answers.push_back(vec![Did::Well(CALL)]));
    let mut client = node.call().await;
    client.manual().await;
    client.send(json!({"type": "response.create"})).await;
    crate::support::until(|| !asked.0.lock().unwrap().is_empty()).await;
    drop(client);
    node.quiet().await;
}
