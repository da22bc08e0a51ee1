//! `POST /v1/chat/completions`. The scripted model says what it is told.

use crate::{
    ask::{begin, events, post},
    support::{Did, Node, until},
};
use edge_agent::speech::SpeechError;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

const PATH: &str = "/v1/chat/completions";

fn ask(words: &str) -> Value {
    json!({"model": "gpt-4o", "messages": [{"role": "user", "content": words}]})
}

fn with(mut body: Value, change: Value) -> Value {
    for (field, value) in change.as_object().expect("fields") {
        body[field] = value.clone();
    }
    body
}

async fn node(answers: &[&[&'static str]]) -> Node {
    let node = Node::start().await;
    node.warm().await;
    node.script(|s| {
        s.answers.extend(answers.iter().map(|pieces| pieces.iter().map(|piece| Did::Well(*piece)).collect()));
        s.dues.clear();
    });
    node
}

/// The prompts that the model was given, as `role:text`.
fn prompts(node: &Node) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    node.script(|s| {
        let show = |m: &edge_agent::speech::ChatMessage| format!("{}:{}", m.role, m.content);
        found = s.prompts.iter().map(|prompt| prompt.iter().map(show).collect()).collect();
    });
    found
}

fn weather() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    json!([{"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": parameters}}])
}

#[tokio::test]
async fn a_conversation_is_answered_by_the_model() {
    let node = node(&[&["It is ", "Paris."]]).await;
    let body = json!({
        "model": "gpt-4o",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hello."}]},
            {"role": "assistant", "content": "Hello to you."},
            {"role": "user", "content": "And the capital of France?"},
        ],
        "max_tokens": 4000, "temperature": 0.5, "top_p": 0.9, "seed": 7, "user": "somebody", "n": 1, "logprobs": false,
    });
    let answer = post(&node, PATH, &body).await.done();
    assert!(answer["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")), "{answer}");
    assert_eq!((&answer["object"], &answer["model"]), (&"chat.completion".into(), &"fake-llm".into()));
    let choice = json!({
        "index": 0, "message": {"role": "assistant", "content": "It is Paris.", "refusal": null}, "logprobs": null,
        "finish_reason": "stop",
    });
    assert_eq!(answer["choices"], json!([choice]));
    assert_eq!(answer["usage"], json!({"prompt_tokens": 14, "completion_tokens": 2, "total_tokens": 16}));
    let expect = ["system:Be brief.", "user:Hello.", "assistant:Hello to you.", "user:And the capital of France?"];
    assert_eq!(prompts(&node), [expect]);
    node.script(|s| {
        let wish = &s.wishes[0];
        assert_eq!(
            (wish.temperature, wish.top_p, wish.seed, wish.begins.as_str()),
            (Some(0.5), Some(0.9), Some(7), "")
        );
        let (_, came, due) = s.dues[0];
        assert!(due.is_some_and(|due| due - came > std::time::Duration::from_secs(9)), "{:?}", s.dues);
    });
}

#[tokio::test]
async fn an_assistant_answers_what_it_knows_word_for_word_and_the_rest_under_its_instructions() {
    let node = node(&[&["I cannot say."]]).await;
    let answer = post(&node, PATH, &with(ask("When are you open?"), json!({"model": "front-desk"}))).await.done();
    assert_eq!(answer["choices"][0]["message"]["content"], "We are open from nine to six. Come by.");
    assert_eq!(
        (&answer["model"], &answer["nearfield"]["answered_by"]),
        (&"front-desk".into(), &"known_question".into())
    );
    let person = with(ask("I want to talk to a person"), json!({"model": "front-desk"}));
    let answer = post(&node, PATH, &person).await.done();
    assert_eq!(answer["choices"][0]["message"]["content"], "One moment please.");
    assert_eq!(answer["nearfield"]["answered_by"], "hand_over");
    assert_eq!(prompts(&node).len(), 0, "nobody had to think");
    let other = with(ask("Why is the sky blue?"), json!({"model": "front-desk"}));
    let answer = post(&node, PATH, &other).await.done();
    assert_eq!(
        (&answer["nearfield"]["answered_by"], prompts(&node)[0][0].as_str()),
        (&"model".into(), "system:Be kind and brief.")
    );
    // The same question under any other name is the model's.
    post(&node, PATH, &ask("When are you open?")).await.done();
    assert_eq!(prompts(&node)[1], ["user:When are you open?"]);
}

#[tokio::test]
async fn an_answer_is_sent_as_it_is_thought() {
    let node = node(&[&["One, ", "two."]]).await;
    let body = with(ask("Count."), json!({"stream": true, "stream_options": {"include_usage": true}}));
    let told = events(begin(&node, PATH, &body).await).await;
    let chunk = |n: usize| &told[n];
    assert_eq!(told.len(), 6, "{told:?}");
    assert!(told[..5].iter().all(|event| event["object"] == "chat.completion.chunk" && event["id"] == told[0]["id"]));
    assert_eq!(chunk(0)["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(chunk(1)["choices"][0]["delta"], json!({"content": "One, "}));
    assert_eq!(chunk(2)["choices"][0]["delta"], json!({"content": "two."}));
    assert_eq!(
        (&chunk(3)["choices"][0]["delta"], &chunk(3)["choices"][0]["finish_reason"]),
        (&json!({}), &"stop".into())
    );
    assert_eq!((&chunk(4)["choices"], &chunk(4)["usage"]["completion_tokens"]), (&json!([]), &2.into()));
    assert!(told[..4].iter().all(|event| event.get("usage") == Some(&Value::Null)));
    assert_eq!(told[5], "[DONE]");
    let known = with(ask("When are you open?"), json!({"model": "front-desk", "stream": true}));
    let told = events(begin(&node, PATH, &known).await).await;
    assert_eq!(told[1]["choices"][0]["delta"]["content"], "We are open from nine to six. Come by.");
    assert!(told.len() == 4 && told.iter().all(|event| event.get("usage").is_none()), "{told:?}");
}

#[tokio::test]
async fn an_answer_ends_at_its_limit_and_at_a_stop() {
    let node = node(&[&["One ", "two ", "three"], &["One ", "tw", "o three"], &["a", "b"]]).await;
    let reason = |answer: &Value| {
        (answer["choices"][0]["message"]["content"].clone(), answer["choices"][0]["finish_reason"].clone())
    };
    let short = post(&node, PATH, &with(ask("Count."), json!({"max_completion_tokens": 2}))).await.done();
    assert_eq!(reason(&short), ("One two ".into(), "length".into()));
    let stopped = post(&node, PATH, &with(ask("Count."), json!({"stop": ["two", "four"]}))).await.done();
    assert_eq!(reason(&stopped), ("One ".into(), "stop".into()));
    let unstopped = post(&node, PATH, &with(ask("Spell."), json!({"stop": "bc"}))).await.done();
    assert_eq!(reason(&unstopped), ("ab".into(), "stop".into()));
}

#[tokio::test]
async fn functions_are_called_and_their_results_go_into_the_next_answer() {
    let call: &[&str] = &[
        "<tool_",
        "call>[{\"name\": \"get_weather\", ",
        "\"arguments\": {\"city\": \"Paris\"}}]</tool_call>",
        " more",
    ];
    let node = node(&[call, call, &["It is sunny."]]).await;
    let body = with(ask("The weather in Paris?"), json!({"tools": weather()}));
    let answer = post(&node, PATH, &body).await.done();
    let choice = &answer["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&"tool_calls".into(), &Value::Null));
    let made = &choice["message"]["tool_calls"][0];
    let function = json!({"name": "get_weather", "arguments": "{\"city\":\"Paris\"}"});
    assert_eq!((&made["type"], &made["function"]), (&"function".into(), &function));
    assert!(prompts(&node)[0][0].contains("<tools>[{\"type\": \"function\""), "{:?}", prompts(&node)[0]);

    let streamed = events(begin(&node, PATH, &with(body.clone(), json!({"stream": true}))).await).await;
    let delta = &streamed[1]["choices"][0]["delta"]["tool_calls"][0];
    assert_eq!((&delta["index"], &delta["function"]), (&0.into(), &function));
    assert_eq!(streamed[2]["choices"][0]["finish_reason"], "tool_calls");

    let mut messages = body["messages"].as_array().expect("messages").clone();
    messages.push(choice["message"].clone());
    messages.push(json!({"role": "tool", "tool_call_id": made["id"], "content": "24 degrees"}));
    let next = with(body, json!({"messages": messages, "tool_choice": "none"}));
    let answer = post(&node, PATH, &next).await.done();
    assert_eq!(answer["choices"][0]["message"]["content"], "It is sunny.");
    let prompt = &prompts(&node)[2];
    assert!(prompt[1].starts_with("assistant:<tool_call>[") && prompt[1].contains("Paris"), "{prompt:?}");
    assert!(prompt[2].starts_with("user:") && prompt[2].contains("24 degrees"), "{prompt:?}");
    assert!(!prompt[0].contains("<tools>"), "none may be called: {prompt:?}");
}

#[tokio::test]
async fn a_demanded_call_is_begun_for_the_model_and_words_are_no_call() {
    let node = node(&[&["Os", "lo\", \"and"], &["Sunny, I think."]]).await;
    let named = json!({"tools": weather(), "tool_choice": {"type": "function", "function": {"name": "get_weather"}}});
    let answer = post(&node, PATH, &with(ask("The weather in Oslo?"), named.clone())).await.done();
    assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], "{\"city\":\"Oslo\"}");
    node.script(|s| {
        assert_eq!(s.wishes[0].begins, "<tool_call>[\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"")
    });
    post(&node, PATH, &with(ask("And now?"), named)).await.refused(500, "no_tool_call", None, "other words");
    // A function without arguments leaves nothing to be thought.
    let bell = json!([{"type": "function", "function": {"name": "ring"}}]);
    let answer =
        post(&node, PATH, &with(ask("Ring!"), json!({"tools": &bell, "tool_choice": "required"}))).await.done();
    let function = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!((function, prompts(&node).len()), (&json!({"name": "ring", "arguments": "{}"}), 2));
    // Of several it is the one that is nearest to the question, and each of its arguments is asked for.
    let parameters =
        json!({"properties": {"days": {"type": "integer"}, "city": {"type": "string"}}, "required": ["days", "city"]});
    let forecast = json!({"type": "function", "function": {"name": "forecast", "description": "The weather of days to come.", "parameters": parameters}});
    let several = json!({"tools": [bell[0], forecast], "tool_choice": "required"});
    node.script(|s| s.answers.extend([vec![Did::Well(" 3"), Did::Well(", \"")], vec![Did::Well("Rome\"")]]));
    let answer =
        post(&node, PATH, &with(ask("The weather of the next three days to come in Rome?"), several)).await.done();
    let function = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!((&function["name"], &answer["usage"]["completion_tokens"]), (&"forecast".into(), &3.into()));
    assert_eq!(function["arguments"], "{\"city\":\"Rome\",\"days\":3}");
    node.script(|s| assert!(s.wishes[3].begins.ends_with("{\"days\": 3, \"city\": \""), "{:?}", s.wishes[3].begins));
}

#[tokio::test]
async fn where_no_function_fits_the_answer_is_words() {
    let node = node(&[&["<tool_call>[]</tool_call>"], &["Hello!"], &["<tool_call>oops</tool_call>"], &["Hi."]]).await;
    for expect in ["Hello!", "Hi."] {
        let answer = post(&node, PATH, &with(ask("Hello."), json!({"tools": weather()}))).await.done();
        assert_eq!(answer["choices"][0]["message"]["content"], expect);
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    }
    assert!(!prompts(&node)[1].iter().any(|message| message.contains("<tools>")), "it is asked again without them");
}

#[tokio::test]
async fn a_client_that_leaves_stops_the_thinking() {
    let node = node(&[]).await;
    node.script(|s| s.answers.push_back(vec![Did::Well("One "), Did::Hangs]));
    let mut response = begin(&node, PATH, &with(ask("Count."), json!({"stream": true}))).await;
    response.chunk().await.expect("a chunk").expect("words");
    assert_eq!(node.speech.jobs.load(Ordering::SeqCst), 1);
    drop(response);
    node.quiet().await;
    until(|| node.speech.places.load(Ordering::SeqCst) == 0).await;
    // And one that waits for a whole answer.
    node.script(|s| s.answers.push_back(vec![Did::Hangs]));
    let url = format!("http://{}{PATH}", node.address);
    let client = tokio::spawn(reqwest::Client::new().post(url).json(&ask("Count.")).send());
    until(|| node.speech.jobs.load(Ordering::SeqCst) == 1).await;
    client.abort();
    node.quiet().await;
}

#[tokio::test]
async fn failures_are_told_with_a_status_or_in_the_stream() {
    let node = node(&[]).await;
    node.script(|s| {
        s.answers
            .push_back(vec![Did::Fails(SpeechError::BadInput("a conversation of 9000 tokens is too long".into()))]);
        s.answers.push_back(vec![Did::Fails(SpeechError::WorkerDied)]);
        s.answers.push_back(vec![Did::Well("One "), Did::Fails(SpeechError::Model("secret".into()))]);
    });
    let stream = with(ask("Count."), json!({"stream": true}));
    post(&node, PATH, &stream).await.refused(400, "bad_input", None, "9000 tokens");
    let died = post(&node, PATH, &ask("Count.")).await;
    died.refused(503, "worker_died", None, "try again");
    assert_eq!(died.retry_after.as_deref(), Some("1"));
    let told = events(begin(&node, PATH, &stream).await).await;
    assert_eq!((told.len(), &told[2]["error"]["code"]), (3, &"model_failed".into()));
    assert!(!told[2].to_string().contains("secret"));
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_by_name() {
    let node = node(&[]).await;
    let check = async |change: Value, param: &str, word: &str| {
        post(&node, PATH, &with(ask("Hi."), change)).await.refused(400, "invalid_value", Some(param), word);
    };
    check(json!({"messages": []}), "messages", "1 to 256").await;
    check(json!({"messages": [{"role": "system", "content": "x"}]}), "messages", "nothing to answer").await;
    check(json!({"messages": [{"role": "wizard", "content": "x"}]}), "messages[0].role", "`user`").await;
    check(json!({"messages": [{"role": "user", "content": 7}]}), "messages[0].content", "string").await;
    check(json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "messages[0].content", "text")
        .await;
    check(
        json!({"messages": [{"role": "tool", "tool_call_id": "x", "content": "y"}]}),
        "messages[0].tool_call_id",
        "no call",
    )
    .await;
    check(
        json!({"messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}]}),
        "messages[0].tool_calls",
        "function",
    )
    .await;
    check(json!({"n": 2}), "n", "one answer").await;
    check(json!({"temperature": 3}), "temperature", "0 to 2").await;
    check(json!({"max_tokens": 0}), "max_tokens", "from 1").await;
    check(json!({"stop": ["a", "b", "c", "d", "e"]}), "stop", "up to 4").await;
    check(json!({"stop": ""}), "stop", "1 to 256 bytes").await;
    check(json!({"frequency_penalty": 0.5}), "frequency_penalty", "leave").await;
    check(json!({"response_format": {"type": "json_object"}}), "response_format", "words").await;
    check(json!({"modalities": ["text", "audio"]}), "modalities", "texts").await;
    check(json!({"tools": [{"type": "retrieval"}]}), "tools", "function").await;
    check(json!({"tools": weather(), "tool_choice": "sometimes"}), "tool_choice", "auto").await;
    check(json!({"tools": [], "tool_choice": "required"}), "tools", "not among").await;
    check(json!({"stream": "yes"}), "stream", "true or false").await;
    check(json!({"model": "fake-asr"}), "model", "asr model").await;
    for field in ["functions", "audio", "logprobs", "store", "logit_bias"] {
        let asked = with(
            ask("Hi."),
            json!({field: if field == "logprobs" || field == "store" { json!(true) } else { json!({"a": 1}) }}),
        );
        post(&node, PATH, &asked).await.refused(400, "unsupported_parameter", Some(field), "not supported");
    }
    assert_eq!(prompts(&node).len(), 0);
    post(&node, PATH, &with(ask("Hi."), json!({"logit_bias": {}, "store": false, "metadata": {"a": "b"}})))
        .await
        .done();
}
