//! Functions: told to the model, called, returned, spoken about.

use crate::support::{Client, Did, Node};
use serde_json::{Value, json};

const CALL: &str = "<tool_call>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}]</tool_call>";

fn weather() -> Value {
    let city = json!({"type": "string", "description": "The city."});
    json!({
        "type": "function",
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": city}, "required": ["city"]},
    })
}

async fn with_tools(node: &Node, choice: Value) -> Client {
    let mut client = node.call().await;
    client.manual().await;
    let update =
        json!({"type": "session.update", "session": {"type": "realtime", "tools": [weather()], "tool_choice": choice}});
    let updated = client.ask(update, "session.updated").await;
    assert_eq!((&updated["session"]["tools"], &updated["session"]["tool_choice"]), (&json!([weather()]), &choice));
    let item = json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "How warm is it in Paris?"}]});
    client.ask(json!({"type": "conversation.item.create", "item": item}), "conversation.item.done").await;
    client.seen.clear();
    client
}

#[tokio::test]
async fn a_call_goes_out_its_result_comes_back_and_the_answer_goes_on() {
    let node = Node::start().await;
    node.script(|s| {
        s.answers.push_back(vec![Did::Well("One moment. "), Did::Well(&CALL[..30]), Did::Well(&CALL[30..])]);
        s.answers.push_back(vec![Did::Well("It is 18 degrees.")]);
    });
    let mut client = with_tools(&node, json!("auto")).await;
    client.send(json!({"type": "response.create"})).await;
    let done = client.expect("response.done").await["response"].clone();
    let events = client.seen.clone();
    assert_eq!(
        client.kinds(),
        [
            "response.created",
            "rate_limits.updated",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "response.output_audio_transcript.delta",
            "response.output_audio.delta",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.output_item.added",
            "conversation.item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        ]
    );
    let [said, call] = done["output"].as_array().expect("a list").as_slice() else { panic!("{done}") };
    assert_eq!((&done["status"], &said["content"][0]["transcript"]), (&json!("completed"), &json!("One moment.")));
    let arguments = json!("{\"city\":\"Paris\"}");
    assert_eq!(
        (&call["type"], &call["name"], &call["arguments"]),
        (&json!("function_call"), &json!("get_weather"), &arguments)
    );
    let told = events.iter().find(|e| e["type"] == "response.function_call_arguments.done").expect("told");
    assert_eq!((&told["call_id"], &told["name"], &told["arguments"]), (&call["call_id"], &call["name"], &arguments));
    assert_eq!((&told["item_id"], &told["output_index"]), (&call["id"], &json!(1)));
    let added = events.iter().rfind(|e| e["type"] == "conversation.item.added").expect("added");
    assert_eq!((&added["previous_item_id"], &added["item"]["arguments"]), (&said["id"], &json!("")));
    let prompt = node.speech.script.lock().unwrap().prompts[0].clone();
    assert!(prompt[0].content.contains("<tools>[{\"type\": \"function\", \"function\": {\"name\": \"get_weather\""));

    let output = json!({"type": "function_call_output", "call_id": call["call_id"], "output": "{\"celsius\": 18}"});
    client.send(json!({"type": "conversation.item.create", "item": output})).await;
    let added = client.expect("conversation.item.added").await;
    assert_eq!((&added["item"]["output"], &added["previous_item_id"]), (&output["output"], &call["id"]));
    client.send(json!({"type": "response.create"})).await;
    let done = client.expect("response.done").await["response"].clone();
    assert_eq!(done["output"][0]["content"][0]["transcript"], "It is 18 degrees.");
    let prompt = node.speech.script.lock().unwrap().prompts[1].clone();
    let told: Vec<(&str, bool)> = prompt.iter().map(|m| (m.role, m.content.contains("celsius"))).collect();
    assert_eq!(told, [("system", false), ("user", false), ("assistant", false), ("user", true)]);
    let shown = client
        .ask(json!({"type": "conversation.item.retrieve", "item_id": call["id"]}), "conversation.item.retrieved")
        .await;
    assert_eq!(shown["item"]["call_id"], call["call_id"]);
}

#[tokio::test]
async fn what_the_model_writes_instead_of_a_call_is_never_done() {
    let node = Node::start().await;
    node.script(|s| {
        s.answers.push_back(vec![Did::Well("<tool_call>[{\"name\": \"open_the_vault\"}]</tool_call>")]);
        s.answers.push_back(vec![Did::Well("I cannot tell.")]);
        s.answers.push_back(vec![Did::Well("I would rather chat.")]);
    });
    let mut client = with_tools(&node, json!("auto")).await;
    client.send(json!({"type": "response.create"})).await;
    let done = client.expect("response.done").await["response"].clone();
    assert_eq!(done["output"][0]["content"][0]["transcript"], "I cannot tell.");
    assert_eq!(done["output"].as_array().map(Vec::len), Some(1));
    let required = json!({"type": "response.create", "response": {"tool_choice": "required"}});
    client.send(required).await;
    let done = client.expect("response.done").await["response"].clone();
    assert_eq!((&done["status"], &done["output"]), (&json!("failed"), &json!([])));
    assert_eq!(done["status_details"]["error"]["code"], "invalid_tool_call");
}

#[tokio::test]
async fn wrong_tools_and_results_are_refused_and_the_session_goes_on() {
    let node = Node::start().await;
    let mut client = with_tools(&node, json!("none")).await;
    let output = json!({"type": "function_call_output", "call_id": "call_nobodys", "output": "x"});
    let refused = [
        (json!({"type": "conversation.item.create", "item": output}), "invalid_tool_call_id", "item.call_id"),
        (
            json!({"type": "session.update", "session": {"tools": [{"type": "function", "name": "a b"}]}}),
            "invalid_value",
            "session.tools",
        ),
        (
            json!({"type": "session.update", "session": {"tools": [], "tool_choice": "required"}}),
            "invalid_value",
            "session.tool_choice",
        ),
        (
            json!({"type": "response.create", "response": {"tool_choice": {"type": "function", "name": "else"}}}),
            "invalid_value",
            "response.tool_choice",
        ),
        (json!({"type": "response.create", "response": {"input": [output]}}), "invalid_tool_call_id", "item.call_id"),
        (
            json!({"type": "response.create", "response": {"input": [{"type": "item_reference", "id": "gone"}]}}),
            "item_not_found",
            "input",
        ),
    ];
    for (n, (mut event, code, param)) in refused.into_iter().enumerate() {
        event["event_id"] = json!(format!("e{n}"));
        let error = client.ask(event.clone(), "error").await["error"].clone();
        let found = (&error["code"], &error["param"], &error["event_id"]);
        assert_eq!(found, (&json!(code), &json!(param), &event["event_id"]), "{error}");
    }
    client.send(json!({"type": "response.create"})).await;
    assert_eq!(client.expect("response.done").await["response"]["status"], "completed");
    assert!(!node.speech.script.lock().unwrap().prompts[0][0].content.contains("<tools>"), "the choice is none");
}
