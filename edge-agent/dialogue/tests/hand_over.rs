//! Handing a call to a person: when it happens, and the words while the caller waits.

mod desk;

use desk::{Desk, NOTHING, settings};
use nearfield_dialogue::{
    call::WORK_MAX,
    events::{Command, Fault, Found, HandOverEnd, Input, Output},
    settings::{HandingOver, Settings, Silence, Transfers},
};
use std::time::Duration;

fn rules() -> HandingOver {
    HandingOver {
        words: "I will fetch somebody.".into(),
        misunderstandings: 2,
        sentiment: None,
        transfers: Transfers::No,
        waiting: "Please wait.".into(),
        told_every: Duration::from_secs(10),
        wait: Duration::from_secs(25),
        accepted: "Here is a colleague.".into(),
        closed: "Nobody is free.".into(),
    }
}

fn desk() -> Desk {
    Desk::new(Settings { hand_over: Some(rules()), ..settings() })
}

fn asks(desk: &mut Desk, words: &str, found: Found) {
    desk.hears("####..........").transcript(words).found(found);
}

/// Waits until something is due, and lets it happen.
fn waits(desk: &mut Desk) -> u64 {
    let due = desk.call.deadline().expect("something is due");
    let waited = due.saturating_sub(desk.now);
    desk.now += waited;
    desk.tell(Input::Tick);
    waited.as_millis() as u64
}

#[test]
fn a_caller_who_waits_is_told_so_until_the_time_is_over() {
    let mut desk = desk();
    asks(&mut desk, "a person please", Found::HandOver("One moment.".into()));
    desk.speaks();
    assert!(desk.happened().contains("handed over, output, said `One moment.`"));
    // 550 ms of words, then ten seconds of silence.
    assert_eq!(waits(&mut desk), 10_550);
    desk.speaks();
    assert_eq!(desk.happened(), "created, output, said `Please wait.`, audio 600, completed");
    // Asked again, they are told, and nobody is fetched twice.
    asks(&mut desk, "a person", Found::HandOver("One moment.".into()));
    desk.speaks();
    let happened = desk.happened();
    assert!(
        happened.ends_with("said `One moment.`, audio 550, completed") && !happened.contains("handed over"),
        "{happened}"
    );
    let mut told = String::new();
    while !told.contains("hand-over ended") {
        waits(&mut desk);
        told = desk.happened();
        desk.speaks();
    }
    assert!(told.ends_with("hand-over ended: nobody_came, created"), "{told}");
    assert_eq!(desk.happened(), "output, said `Nobody is free.`, audio 750, completed");
    assert_eq!(desk.call.deadline(), None, "nothing is waited for any more");
}

#[test]
fn a_person_who_comes_is_announced_behind_what_is_being_said() {
    let mut desk = desk();
    assert_eq!(desk.ask(Command::EndHandOver(HandOverEnd::Accepted)), Err("no_hand_over"));
    asks(&mut desk, "a person please", Found::HandOver("One moment.".into()));
    desk.ask(Command::EndHandOver(HandOverEnd::Accepted)).expect("somebody waits");
    assert!(desk.happened().ends_with("handed over, hand-over ended: accepted"));
    desk.speaks().speaks();
    assert!(
        desk.happened().ends_with("completed, created, output, said `Here is a colleague.`, audio 1000, completed")
    );
    assert_eq!(desk.ask(Command::EndHandOver(HandOverEnd::Closed)), Err("no_hand_over"));
}

#[test]
fn two_misunderstandings_in_a_row_fetch_a_person() {
    let mut desk = desk();
    asks(&mut desk, "what is my balance", NOTHING);
    desk.thinks("I don't know that.").speaks();
    // One that is answered begins the count again.
    asks(&mut desk, "when are you open", Found::Answer("At nine.".into()));
    desk.speaks();
    asks(&mut desk, "and my balance", NOTHING);
    desk.thinks("I am not sure.").speaks();
    assert!(!desk.happened().contains("handed over"));
    // Once that was heard. 48 frames of what the detector takes for speech, and no word in it.
    desk.wait(2_000).hears(&"#".repeat(48)).hears("..........").transcript("");
    assert!(desk.happened().ends_with("created, handed over: misunderstood"));
    desk.speaks();
    assert_eq!(desk.happened(), "output, said `I will fetch somebody.`, audio 1100, completed");
}

#[test]
fn a_cough_is_no_misunderstanding_and_without_rules_nothing_is_counted() {
    let mut desk = desk();
    for _ in 0..4 {
        desk.hears("####..........").transcript("");
    }
    assert!(!desk.happened().contains("handed over"));
    let mut desk = Desk::new(settings());
    for _ in 0..3 {
        asks(&mut desk, "what", NOTHING);
        desk.thinks("I don't know.").speaks();
    }
    assert!(!desk.happened().contains("handed over"));
    asks(&mut desk, "a person please", Found::HandOver("One moment.".into()));
    desk.speaks();
    assert!(desk.happened().contains("handed over"));
    assert_eq!(desk.call.deadline(), None, "nobody waits");
}

#[test]
fn a_forbidden_topic_has_its_own_words_and_may_fetch_a_person() {
    for (hand_over, told) in [(false, ""), (true, "handed over: forbidden_topic, ")] {
        let mut desk = desk();
        asks(&mut desk, "which shares", Found::Forbidden { say: "I may not say.".into(), hand_over });
        desk.speaks();
        let expect = format!("created, {told}output, said `I may not say.`, audio 700, completed");
        let happened = desk.happened();
        assert!(happened.ends_with(&expect), "{happened}");
    }
}

#[test]
fn a_caller_who_is_put_through_hears_so_and_then_is_gone() {
    let rules = HandingOver { transfers: Transfers::ByEnding, ..rules() };
    let mut desk = Desk::new(Settings { hand_over: Some(rules.clone()), ..settings() });
    asks(&mut desk, "a person please", Found::HandOver("One moment.".into()));
    desk.speaks();
    assert!(!desk.happened().contains("transferred"), "it has not been heard yet");
    assert_eq!(waits(&mut desk), 550);
    assert_eq!(desk.happened(), "hand-over ended: transferred");
    assert_eq!(desk.call.deadline(), None, "nothing is waited for, and nothing is said to nobody");
    assert_eq!(desk.ask(Command::EndHandOver(HandOverEnd::Closed)), Err("no_hand_over"));

    // Whoever speaks over it is put through at once; whoever cannot be told is, too.
    let mut desk = Desk::new(Settings { hand_over: Some(rules.clone()), ..settings() });
    asks(&mut desk, "a person please", Found::HandOver("One moment, I will put you through to a colleague.".into()));
    desk.speaks().hears(&"#".repeat(20));
    let happened = desk.happened();
    assert!(happened.ends_with("interrupted 64, hand-over ended: transferred"), "{happened}");
    let mut desk = Desk::new(Settings { hand_over: Some(rules), ..settings() });
    asks(&mut desk, "a person please", Found::HandOver("One moment.".into()));
    let (response, fault) = (
        desk.call.answering().expect("an answer").clone(),
        Fault { code: "no_voice".into(), message: "it broke".into() },
    );
    desk.tell(Input::Failed { response, fault });
    assert!(desk.happened().ends_with("ended: no_voice, hand-over ended: transferred"));
}

#[test]
fn whoever_carries_the_call_is_asked_once_and_if_they_do_not_the_caller_is_told() {
    let rules = HandingOver { transfers: Transfers::ByAsking, ..rules() };
    let asked = |desk: &mut Desk| desk.take(|work| matches!(work, Output::PutThrough).then_some(()));
    let mut desk = Desk::new(Settings { hand_over: Some(rules.clone()), ..settings() });
    asks(&mut desk, "a person please", Found::HandOver("One moment.".into()));
    desk.tell(Input::PutThrough { done: true });
    assert!(!desk.happened().contains("hand-over ended"), "nobody was asked");
    desk.speaks();
    assert!(desk.work.is_empty(), "it has not been heard yet");
    assert_eq!(waits(&mut desk), 550);
    asked(&mut desk);
    desk.happened();
    desk.tell(Input::PutThrough { done: true });
    assert_eq!(desk.happened(), "hand-over ended: transferred");
    assert_eq!((desk.work.len(), desk.call.deadline()), (0, None));

    for answer in [Some(Input::PutThrough { done: false }), None] {
        let mut desk = Desk::new(Settings { hand_over: Some(rules.clone()), ..settings() });
        asks(&mut desk, "a person please", Found::HandOver("One moment.".into()));
        desk.speaks();
        waits(&mut desk);
        asked(&mut desk);
        desk.happened();
        match answer {
            Some(answer) => drop(desk.tell(answer)),
            // Who never answers has not done it.
            None => assert_eq!(waits(&mut desk), WORK_MAX.as_millis() as u64),
        }
        desk.speaks();
        let told = "hand-over ended: closed, created, output, said `Nobody is free.`, audio 750, completed";
        assert_eq!(desk.happened(), told);
        // The conversation goes on, and a person may be asked for again.
        asks(&mut desk, "a person please", Found::HandOver("One moment.".into()));
        assert!(desk.happened().contains("handed over"));
    }
}

#[test]
fn a_caller_who_stays_upset_gets_a_person_and_one_harsh_word_is_not_the_mood() {
    let rules = HandingOver { sentiment: Some(-0.4), ..rules() };
    let mut desk = Desk::new(Settings { hand_over: Some(rules), ..settings() });
    for (words, answer) in [
        ("this is terrible I hate it", "I am sorry."),
        ("well thank you that is kind", "Gladly."),
        ("you are useless and I am angry", "I am sorry."),
    ] {
        asks(&mut desk, words, Found::Answer(answer.into()));
        desk.speaks().wait(3_000).hears("..");
        let happened = desk.happened();
        assert!(!happened.contains("handed over"), "{words}: {happened}");
    }
    asks(&mut desk, "this is awful awful service", Found::Answer("I am sorry.".into()));
    desk.speaks().wait(3_000).hears("..");
    desk.speaks();
    let happened = desk.happened();
    assert!(happened.contains("handed over: upset, output, said `I will fetch somebody.`"), "{happened}");
}

#[test]
fn a_caller_who_waits_is_not_asked_whether_they_are_there() {
    let silence = Silence { after_ms: 3_000, ask: "Hello?".into(), times: 1, goodbye: "Bye then.".into() };
    let mut desk = Desk::new(Settings { hand_over: Some(rules()), silence: Some(silence), ..settings() });
    asks(&mut desk, "a person please", Found::HandOver("One moment.".into()));
    desk.speaks().happened();
    while desk.now < Duration::from_secs(20) {
        waits(&mut desk);
        desk.speaks();
        let happened = desk.happened();
        assert!(happened.contains("Please wait."), "{happened}");
    }
    assert_eq!(desk.ask(Command::EndHandOver(HandOverEnd::Closed)), Ok(()));
    desk.speaks();
    assert!(desk.happened().contains("Nobody is free."));
    waits(&mut desk);
    desk.speaks();
    assert!(desk.happened().contains("said `Hello?`"), "nobody is waited for any more");
}
