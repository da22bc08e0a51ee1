//! Functions: the model calls, the client does and returns, the answer goes on; and callers who say nothing.

mod desk;

use desk::{Desk, NOTHING, by_hand, settings};
use nearfield_dialogue::{
    events::{Command, Given, Input, Output, Wish},
    history::{Message, Role},
    settings::{EndOfTurn, Settings, TurnDetection},
    tools::{DoneBy, Tool, ToolCall, ToolChoice, Tools},
};
use nearfield_shared::pii::Pii;

const CALL: &str = "<tool_call>[{\"name\": \"f\", \"arguments\": {}}]</tool_call>";

fn tools(choice: ToolChoice) -> Tools {
    let tool = Tool {
        by: DoneBy::Client,
        name: "f".into(),
        description: "Does it.".into(),
        parameters: serde_json::Map::new(),
    };
    Tools::new(vec![tool], choice).expect("fine")
}

fn with(choice: ToolChoice) -> Settings {
    Settings { tools: tools(choice), ..by_hand() }
}

fn says(text: &str) -> Command {
    let message = Message { role: Role::User, text: Pii::new(text.to_owned()) };
    Command::CreateItem { id: None, place: None, given: Given::Message(message) }
}

fn create() -> Command {
    Command::CreateResponse(Box::default())
}

fn returns(call_id: &str) -> Command {
    let given = Given::Result { call_id: call_id.to_owned(), output: Pii::new("18 degrees".to_owned()) };
    Command::CreateItem { id: None, place: None, given }
}

/// The prompt that the model waits to answer, as one text.
fn prompt(desk: &Desk) -> String {
    let of = |work: &Output| match work {
        Output::Generate { prompt, .. } => Some(prompt.clone()),
        _ => None,
    };
    let messages = desk.work.iter().find_map(of).expect("the model is asked");
    messages.iter().map(|m| format!("{}: {}\n", m.role.as_str(), m.text.reveal())).collect()
}

#[test]
fn a_call_is_made_its_result_is_taken_and_the_answer_goes_on() {
    let mut desk = Desk::new(with(ToolChoice::Auto));
    desk.ask(says("How warm is it?")).expect("taken");
    desk.ask(create()).expect("begins");
    desk.found(NOTHING);
    assert!(prompt(&desk).contains("<tools>[{\"type\": \"function\", \"function\": {\"name\": \"f\""));
    desk.thinks(CALL);
    assert_eq!(desk.happened(), "user item, created, calls f{}, completed");
    let call_id = desk.calls[0].clone();
    assert_eq!(desk.ask(returns("another")), Err("invalid_tool_call_id"));
    desk.ask(returns(&call_id)).expect("taken");
    desk.ask(create()).expect("goes on");
    let asked = prompt(&desk);
    assert!(!asked.contains("<tools>"), "the caller waits for words now: {asked}");
    assert!(asked.contains("user: How warm is it?\nassistant: <tool_call>["), "{asked}");
    assert!(asked.contains("user: The function f returned: 18 degrees\n"), "{asked}");
    desk.thinks("It is 18 degrees.").speaks();
    assert_eq!(desk.happened(), "system item, created, output, said `It is 18 degrees.`, audio 850, completed");
}

#[test]
fn words_before_a_call_are_spoken_and_what_follows_it_is_not_waited_for() {
    let mut desk = Desk::new(with(ToolChoice::Auto));
    desk.ask(says("Do it.")).expect("taken");
    desk.ask(create()).expect("begins");
    desk.found(NOTHING).thinks(&format!("One moment please. {CALL} and so on and on"));
    assert_eq!(desk.happened(), "user item, created");
    desk.speaks();
    assert_eq!(desk.happened(), "output, said `One moment please.`, audio 900, calls f{}, completed");
}

#[test]
fn an_answer_that_is_cut_short_calls_nothing() {
    let mut desk = Desk::new(with(ToolChoice::Auto));
    desk.ask(says("Do it.")).expect("taken");
    desk.ask(create()).expect("begins");
    desk.found(NOTHING).thinks(&format!("One moment please. {CALL}"));
    desk.ask(Command::CancelResponse(None)).expect("cancelled");
    assert!(desk.happened().ends_with("created, ended: cancelled"));
    assert!(desk.calls.is_empty());
}

#[test]
fn what_is_no_call_is_answered_in_words() {
    for no_call in ["<tool_call>[]</tool_call>", "<tool_call>[{\"name\": \"g\"}]</tool_call>", "<tool_call>f("] {
        let mut desk = Desk::new(with(ToolChoice::Auto));
        desk.ask(says("Hello.")).expect("taken");
        desk.ask(create()).expect("begins");
        desk.found(NOTHING).thinks(no_call);
        assert!(!prompt(&desk).contains("<tools>"), "asked again without tools");
        desk.thinks("Hello to you.").speaks();
        assert!(desk.happened().ends_with("said `Hello to you.`, audio 650, completed"), "{no_call}");
    }
}

#[test]
fn a_call_that_is_demanded_is_a_call_or_a_failure() {
    for (text, end) in [
        (CALL, "created, calls f{}, completed"),
        ("I would rather not.", "created, ended: invalid_tool_call"),
        ("<tool_call>[]</tool_call>", "created, ended: invalid_tool_call"),
    ] {
        let mut desk = Desk::new(with(ToolChoice::Required));
        desk.ask(says("When are you open?")).expect("taken");
        desk.ask(create()).expect("begins");
        desk.thinks(text);
        assert!(desk.happened().ends_with(end), "{text}: nothing is compared first, and no word is said");
    }
}

#[test]
fn one_response_may_have_tools_and_items_of_its_own() {
    let mut desk = Desk::new(by_hand());
    desk.ask(says("Before.")).expect("taken");
    let call =
        ToolCall { by: DoneBy::Client, call_id: "mine".into(), name: "f".into(), arguments: Pii::new("{}".to_owned()) };
    let known = desk.call.history().items().next().map(|item| item.id.clone()).expect("an item");
    let result = |call_id: &str| Given::Result { call_id: call_id.into(), output: Pii::new("five".to_owned()) };
    let wish = |input, choice| Wish {
        input: Some(input),
        tools: Some(tools(ToolChoice::Auto).all().to_vec()),
        tool_choice: Some(choice),
        out_of_band: true,
        ..Wish::default()
    };
    let missing = wish(vec![result("mine")], ToolChoice::Auto);
    assert_eq!(desk.ask(Command::CreateResponse(Box::new(missing))), Err("invalid_tool_call_id"));
    let whole = wish(vec![Given::Reference(known), Given::Call(call), result("mine")], ToolChoice::Auto);
    desk.ask(Command::CreateResponse(Box::new(whole))).expect("begins");
    let asked = prompt(&desk);
    assert!(asked.contains("user: Before.\n") && asked.contains("The function f returned: five"), "{asked}");
    assert!(!asked.contains("<tools>"), "{asked}");
    desk.thinks("Five.").speaks();
    let forced = wish(vec![], ToolChoice::Named("f".into()));
    desk.ask(Command::CreateResponse(Box::new(forced))).expect("begins");
    desk.thinks(CALL);
    assert!(desk.happened().ends_with("created, calls f{}, completed"));
    assert_eq!(desk.call.history().len(), 1, "nothing of it is in the conversation");
}

#[test]
fn a_call_that_was_thought_ahead_is_made_at_the_commit() {
    let mut desk = Desk::new(Settings { tools: tools(ToolChoice::Auto), ..settings() });
    desk.hears("####......").transcript("do it").found(NOTHING).thinks(CALL);
    assert!(!desk.happened().contains("calls"));
    desk.hears("....");
    assert!(desk.happened().ends_with("created, calls f{}, completed"));
}

#[test]
fn a_caller_who_is_silent_for_too_long_is_spoken_to() {
    let by = EndOfTurn::Silence { silence_ms: 320 };
    let detection = TurnDetection { by, idle_timeout_ms: Some(5_000), ..TurnDetection::default() };
    let mut desk = Desk::new(Settings { turn_detection: Some(detection), ..settings() });
    desk.hears("####..........").transcript("hello").found(NOTHING).thinks("Hello.").speaks();
    desk.happened();
    assert_eq!(
        desk.call.deadline(),
        Some(desk.now + std::time::Duration::from_millis(300 + 5_000)),
        "played, then silent"
    );
    for _ in 0..16 {
        desk.hears("..........");
    }
    assert_eq!(desk.happened(), "", "not yet");
    desk.hears("..........");
    let happened = desk.happened();
    assert!(happened.starts_with("idle "), "{happened}");
    assert!(happened.ends_with("committed, user item, words ``, created"), "{happened}");
    desk.speaks();
    assert_eq!(desk.happened(), "output, said `Are you still there?`, audio 1000, completed");
    desk.hears("####");
    let soon = |desk: &Desk| desk.call.deadline().is_none_or(|at| at < desk.now + std::time::Duration::from_secs(4));
    assert!(soon(&desk), "speech ends it");
    desk.hears("..........").transcript("");
    assert!(!soon(&desk), "a noise is no speech");
}

/// Settings with a function `f` that the node does and `g` that the client does.
fn with_own(choice: ToolChoice) -> Settings {
    let tool =
        |name: &str, by| Tool { by, name: name.into(), description: String::new(), parameters: Default::default() };
    let tools = vec![tool("f", DoneBy::Node), tool("g", DoneBy::Client)];
    Settings { tools: Tools::new(tools, choice).expect("fine"), ..by_hand() }
}

/// The call that the node is to do.
fn own_call(desk: &mut Desk) -> String {
    desk.take(|work| match work {
        Output::CallFunction(call) => Some(call.call_id.clone()),
        _ => None,
    })
}

fn returned(call_id: &str, output: Result<&str, &str>) -> Input {
    let output = output.map(|text| Pii::new(text.to_owned())).map_err(str::to_owned);
    Input::Returned { call_id: call_id.to_owned(), output }
}

#[test]
fn what_the_node_does_goes_on_by_itself() {
    for (output, told) in
        [(Ok("18 degrees"), "18 degrees"), (Err("no answer in time"), "{\"error\":\"no answer in time\"}")]
    {
        // Even where a call is demanded: the answer about what it returned is words.
        for choice in [ToolChoice::Auto, ToolChoice::Required] {
            let mut desk = Desk::new(with_own(choice.clone()));
            desk.ask(says("How warm is it?")).expect("taken");
            desk.ask(create()).expect("begins");
            if choice == ToolChoice::Auto {
                desk.found(NOTHING);
            }
            desk.thinks(CALL);
            assert_eq!(desk.happened(), "user item, created, calls f{}, completed");
            let call_id = own_call(&mut desk);
            desk.wait(300).tell(returned("another", Ok("x"))).tell(returned(&call_id, output));
            let asked = prompt(&desk);
            assert!(
                asked.contains(&format!("user: The function f returned: {told}\n")) && !asked.contains("<tools>"),
                "{asked}"
            );
            desk.thinks("Here you are.").speaks();
            let end = "created, output, said `Here you are.`, audio 650, completed";
            assert!(desk.happened().ends_with(end));
            desk.tell(returned(&call_id, Ok("twice")));
            assert_eq!(desk.happened(), "");
        }
    }
}

#[test]
fn a_caller_who_waits_for_the_node_hears_that_they_are_to_wait() {
    let mut desk = Desk::new(with_own(ToolChoice::Auto));
    desk.ask(says("How warm is it?")).expect("taken");
    desk.ask(create()).expect("begins");
    desk.found(NOTHING).thinks(CALL);
    let call_id = own_call(&mut desk);
    desk.happened();
    desk.wait(990).tell(Input::Tick);
    assert_eq!(desk.happened(), "", "a moment is no silence");
    desk.wait(20).tell(Input::Tick).speaks();
    assert_eq!(desk.happened(), "created, output, said `One moment, please.`, audio 950, completed");
    desk.wait(5_900).tell(Input::Tick);
    assert_eq!(desk.happened(), "");
    desk.wait(200).tell(Input::Tick);
    assert_eq!(desk.happened(), "created");
    // What it returns comes before the words are spoken: nothing is said any more, and the answer is about the result.
    desk.tell(returned(&call_id, Ok("18 degrees")));
    assert_eq!(desk.happened(), "f returned `18 degrees`, completed, created");
    assert!(prompt(&desk).contains("The function f returned: 18 degrees"));
}

#[test]
fn a_function_that_never_returns_is_given_up_and_answered_about() {
    let mut desk = Desk::new(Settings { spoken: false, ..with_own(ToolChoice::Auto) });
    desk.ask(says("How warm is it?")).expect("taken");
    desk.ask(create()).expect("begins");
    desk.found(NOTHING).thinks(CALL);
    own_call(&mut desk);
    desk.happened();
    desk.now += desk.call.deadline().expect("it is not waited for for ever") - desk.now;
    desk.tell(Input::Tick);
    assert_eq!(desk.happened(), "f failed: it took too long, created");
    assert!(prompt(&desk).contains("it took too long"));
}

#[test]
fn what_the_caller_says_meanwhile_waits_for_the_result_and_is_answered_with_it() {
    let mut desk = Desk::new(Settings { turn_detection: settings().turn_detection, ..with_own(ToolChoice::Auto) });
    desk.hears("####..........").transcript("how warm is it").found(NOTHING).thinks(CALL);
    let call_id = own_call(&mut desk);
    desk.hears("####..........").transcript("in Paris");
    assert!(desk.happened().ends_with("words `in Paris`"), "no answer yet");
    desk.tell(returned(&call_id, Ok("18 degrees")));
    let asked = prompt(&desk);
    assert!(asked.contains("user: in Paris The function f returned: 18 degrees"), "{asked}");
}

#[test]
fn of_a_mixed_answer_the_client_asks_for_the_next() {
    let mut desk = Desk::new(with_own(ToolChoice::Auto));
    desk.ask(says("Do both.")).expect("taken");
    desk.ask(create()).expect("begins");
    desk.found(NOTHING).thinks("<tool_call>[{\"name\": \"f\"}, {\"name\": \"g\"}]</tool_call>");
    let call_id = own_call(&mut desk);
    let by_client = desk.calls[1].clone();
    desk.ask(returns(&by_client)).expect("taken");
    desk.ask(create()).expect("waits for the node");
    assert!(desk.happened().ends_with("system item, created"));
    desk.tell(returned(&call_id, Ok("done")));
    let asked = prompt(&desk);
    assert!(asked.contains("f returned: done") && asked.contains("g returned: 18 degrees"), "{asked}");
}

#[test]
fn an_answer_beside_the_conversation_calls_nothing_of_the_node() {
    let mut desk = Desk::new(with_own(ToolChoice::Named("f".into())));
    desk.ask(says("How warm is it?")).expect("taken");
    let wish = Wish { out_of_band: true, ..Wish::default() };
    desk.ask(Command::CreateResponse(Box::new(wish))).expect("begins");
    desk.found(NOTHING);
    let asked = prompt(&desk);
    assert!(asked.contains("\"name\": \"g\"") && !asked.contains("\"name\": \"f\""), "{asked}");
}
