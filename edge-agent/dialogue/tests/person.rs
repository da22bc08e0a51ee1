//! A person has the call: the assistant is silent until it is wanted back, and what the caller and the person say stays theirs.

mod desk;

use desk::{Desk, settings};
use nearfield_dialogue::{
    events::{Command, Found, HandOverEnd, Input, Wish},
    settings::{HandingOver, Settings, Silence},
};
use std::time::Duration;

/// A call that a person has just taken over.
fn desk(settings: Settings) -> Desk {
    let rules = HandingOver {
        words: "I will fetch somebody.".into(),
        misunderstandings: 1,
        sentiment: None,
        transfers: Default::default(),
        waiting: "Please wait.".into(),
        told_every: Duration::from_secs(10),
        wait: Duration::from_secs(60),
        accepted: "Here is a colleague.".into(),
        closed: "Nobody is free.".into(),
    };
    let silence = Silence { after_ms: 3_000, ask: "Hello?".into(), times: 1, goodbye: "Bye.".into() };
    let mut desk = Desk::new(Settings { hand_over: Some(rules), silence: Some(silence), ..settings });
    desk.hears("####..........").transcript("a person please").found(Found::HandOver("One moment.".into())).speaks();
    assert_eq!(desk.ask(Command::EndHandOver(HandOverEnd::Accepted)), Ok(()));
    assert!(desk.call.person_has_call());
    desk.speaks().wait(2_000);
    assert!(desk.happened().ends_with("said `Here is a colleague.`, audio 1000, completed"));
    desk
}

#[test]
fn without_a_permit_to_keep_it_nothing_is_listened_to_and_nothing_is_said() {
    let mut desk = desk(settings());
    assert_eq!(desk.call.listens_from(), None);
    desk.hears(&"#".repeat(40)).hears("..........").presses("12#");
    assert_eq!(desk.ask(Command::Commit), Err("person_has_call"));
    desk.wait(60_000).tell(Input::Tick);
    assert_eq!(desk.happened(), "key 1, key 2, key #");
    assert!(desk.work.is_empty(), "{:?}", desk.work);
    assert_eq!(desk.call.deadline(), None, "no silence is asked about");
    assert_eq!(desk.call.history().len(), 3, "a turn and two answers, all from before");
}

#[test]
fn with_a_permit_turns_are_written_and_not_answered() {
    let mut desk = desk(Settings { hears_with_person: true, ..settings() });
    for words in ["my card is lost", ""] {
        desk.hears(&"#".repeat(48)).hears("..........").transcript(words);
        let happened = desk.happened();
        assert!(happened.ends_with(&format!("committed, user item, words `{words}`")), "{happened}");
        assert!(desk.work.is_empty(), "no answer is begun, ahead or after: {:?}", desk.work);
    }
    desk.presses("12#").wait(60_000).tell(Input::Tick);
    assert_eq!(desk.happened(), "key 1, key 2, key #, user item");
    // A permit that ends in the middle of a turn ends it.
    desk.hears("####");
    let update = Settings { hears_with_person: false, ..desk.call.settings().clone() };
    assert_eq!(desk.ask(Command::Update(Box::new(update))), Ok(()));
    desk.hears("..........");
    assert!(!desk.happened().contains("committed"));
}

#[test]
fn what_the_client_asks_for_is_still_done() {
    let mut desk = desk(settings());
    let summary =
        Wish { out_of_band: true, instructions: Some("Sum up.".into()), spoken: Some(false), ..Wish::default() };
    assert_eq!(desk.ask(Command::CreateResponse(Box::new(summary))), Ok(()));
    desk.thinks("They want a person.");
    let happened = desk.happened();
    assert!(happened.starts_with("created") && happened.ends_with("said `person.`, completed"), "{happened}");
    let spoken = Wish { instructions: Some("Say goodbye.".into()), ..Wish::default() };
    assert_eq!(desk.ask(Command::CreateResponse(Box::new(spoken))), Ok(()));
    desk.thinks("Goodbye.").speaks();
    assert_eq!(desk.happened(), "created, output, said `Goodbye.`, audio 400, completed");
    assert!(desk.call.person_has_call());
}

#[test]
fn the_assistant_comes_back_when_it_is_wanted() {
    let mut fresh = Desk::new(settings());
    assert_eq!(fresh.ask(Command::Resume), Err("no_person"));
    for hears_with_person in [false, true] {
        let mut desk = desk(Settings { hears_with_person, ..settings() });
        desk.hears("..####");
        assert_eq!(desk.ask(Command::Resume), Ok(()));
        assert!(desk.happened().ends_with("resumed"));
        assert_eq!(desk.ask(Command::Resume), Err("no_person"));
        if hears_with_person {
            // The turn in progress is to the assistant now.
            desk.hears("..........").transcript("hello again");
        } else {
            desk.hears("..........");
            assert_eq!(desk.happened(), "", "nothing that was said before is heard");
            desk.hears("####..........").transcript("hello again");
        }
        desk.found(Found::Answer("Hello.".into())).speaks();
        assert!(desk.happened().ends_with("said `Hello.`, audio 300, completed"));
        let due = desk.call.deadline().expect("silence is asked about again");
        desk.now = due;
        desk.tell(Input::Tick);
        desk.speaks();
        assert!(desk.happened().contains("said `Hello?`"));
        // And a person can be fetched again.
        desk.wait(2_000).hears("####..........").transcript("a person").found(Found::HandOver("One moment.".into()));
        assert!(desk.happened().contains("handed over"));
    }
}
