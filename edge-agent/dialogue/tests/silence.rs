//! A caller who says nothing: asked some times, told goodbye, and gone.

mod desk;

use desk::{Desk, NOTHING, by_hand, settings};
use nearfield_dialogue::{
    events::{Command, Input},
    ledger::AnsweredBy,
    settings::{Settings, Silence, TurnDetection},
};

fn silent_after(ms: u32, times: u32) -> Settings {
    let silence = Silence { after_ms: ms, ask: "Hello?".into(), times, goodbye: "Bye then.".into() };
    Settings { silence: Some(silence), ..settings() }
}

/// A question that was answered, and the answer heard.
fn answered(settings: Settings) -> Desk {
    let mut desk = Desk::new(settings);
    desk.hears("####..........").transcript("tell me").found(NOTHING).thinks("Well.").speaks();
    desk.wait(250).happened();
    desk
}

fn after(desk: &mut Desk, ms: u64) -> String {
    desk.wait(ms).tell(Input::Tick).happened()
}

#[test]
fn a_silent_caller_is_asked_and_then_told_goodbye() {
    let mut desk = answered(silent_after(8_000, 2));
    for _ in 0..2 {
        assert_eq!(desk.call.deadline(), Some(desk.now + std::time::Duration::from_secs(8)));
        assert_eq!(after(&mut desk, 7_999), "");
        assert_eq!(after(&mut desk, 1), "created", "no event of the client's own timeout, and no item");
        desk.speaks();
        assert_eq!(desk.happened(), "output, said `Hello?`, audio 300, completed");
        desk.wait(300);
    }
    assert_eq!(after(&mut desk, 8_000), "created");
    desk.speaks();
    assert_eq!(desk.happened(), "output, said `Bye then.`, audio 450, completed");
    assert_eq!(desk.ledgers.last().and_then(|ledger| ledger.answered_by), Some(AnsweredBy::Goodbye));
    assert_eq!(after(&mut desk, 449), "");
    assert_eq!(after(&mut desk, 1), "goodbye");
    assert_eq!((after(&mut desk, 60_000), desk.call.deadline()), (String::new(), None), "once");
}

#[test]
fn whoever_speaks_types_or_presses_is_there() {
    let mut desk = answered(silent_after(8_000, 1));
    assert_eq!(after(&mut desk, 8_000), "created");
    desk.speaks().wait(300);
    // A noise is not the caller.
    desk.hears("##..........").transcript("");
    desk.happened();
    assert_eq!(after(&mut desk, 8_000), "created");
    desk.speaks();
    assert!(desk.happened().contains("Bye then."));
    desk.wait(200).hears("##..........").transcript("I am here");
    desk.found(NOTHING).thinks("Fine.").speaks().wait(250);
    assert!(!desk.happened().contains("goodbye"), "who speaks up stays");
    assert_eq!(after(&mut desk, 8_000), "created");
    desk.speaks();
    assert!(desk.happened().contains("Hello?"), "and is asked from the beginning");
    desk.presses("1#").found(NOTHING).thinks("One.").speaks().wait(200).happened();
    assert_eq!(after(&mut desk, 8_000), "created");
    desk.speaks();
    assert!(desk.happened().contains("Hello?"));
}

#[test]
fn the_clients_own_timeout_goes_first_and_who_answers_itself_is_left_alone() {
    let of = |change: fn(&mut TurnDetection)| {
        let mut detection = settings().turn_detection.expect("one");
        change(&mut detection);
        Settings { turn_detection: Some(detection), ..silent_after(8_000, 1) }
    };
    let mut desk = answered(of(|detection| detection.idle_timeout_ms = Some(5_000)));
    for _ in 0..4 {
        let told = after(&mut desk, 5_000);
        assert!(told.starts_with("idle ") && told.ends_with("created"), "{told}");
        desk.speaks();
        let said = desk.happened();
        assert!(said.contains("Are you still there?") && !said.contains("Bye"), "{said}");
        desk.wait(1_000);
    }
    let mut desk = answered(of(|detection| detection.interrupt_response = false));
    assert_eq!(after(&mut desk, 8_000), "created");
    for quiet in [of(|detection| detection.create_response = false), by_hand()] {
        let mut desk = Desk::new(Settings { greeting: Some("Hello.".into()), ..quiet });
        desk.call.greet(desk.now);
        desk.drain();
        desk.speaks();
        assert_eq!(desk.call.deadline(), None);
    }
}

#[test]
fn an_answer_that_a_client_wants_takes_the_goodbye_back() {
    let mut desk = answered(silent_after(8_000, 0));
    assert_eq!(after(&mut desk, 8_000), "created");
    desk.speaks();
    assert!(desk.happened().ends_with("said `Bye then.`, audio 450, completed"));
    assert_eq!(desk.ask(Command::CreateResponse(Box::default())), Ok(()));
    desk.thinks("One more thing.").speaks();
    assert!(!after(&mut desk, 7_999).contains("goodbye"));
}
