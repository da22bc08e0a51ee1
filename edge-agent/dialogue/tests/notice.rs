//! The notice that the law demands: before anything else, and to its end.

mod desk;

use desk::{Desk, FRAME_MS, NOTHING, by_hand, settings};
use nearfield_dialogue::{
    events::{Command, Fault, Input, Output},
    ids::ResponseId,
    ledger::AnsweredBy,
    settings::Settings,
};
use std::time::Duration;

fn demanded(settings: Settings) -> Settings {
    let notice = Some("You speak with a computer. This call is recorded.".into());
    Settings { notice, greeting: Some("Hello.".into()), ..settings }
}

/// Until all of the notice was sent: 1,300 and 1,100 ms.
fn told(desk: &mut Desk) {
    desk.speaks().speaks();
    let said =
        "output, said `You speak with a computer.`, audio 1300, said ` This call is recorded.`, audio 1100, completed";
    let happened = desk.happened();
    assert!(happened.starts_with(&format!("created, {said}")), "{happened}");
}

fn greet(desk: &mut Desk) {
    desk.call.greet(desk.now);
    desk.drain();
}

#[test]
fn it_comes_before_the_greeting_and_stays_out_of_the_conversation() {
    let mut desk = Desk::new(demanded(settings()));
    greet(&mut desk);
    told(&mut desk);
    assert_eq!(desk.ledgers[0].answered_by, Some(AnsweredBy::Notice));
    assert!(desk.heard_by_caller().is_empty());
    desk.speaks();
    assert_eq!(desk.happened(), "output, said `Hello.`, audio 300, completed");
    greet(&mut desk);
    assert_eq!(desk.happened(), "", "once");
}

#[test]
fn whoever_speaks_meanwhile_is_heard_afterwards() {
    let mut desk = Desk::new(Settings { greeting: None, ..demanded(settings()) });
    greet(&mut desk);
    told(&mut desk);
    let until = desk.now + Duration::from_millis(2_400);
    desk.hears("....########..........");
    assert_eq!(desk.happened(), "", "no speech is told that would make a client drop its audio");
    assert_eq!(desk.call.deadline(), Some(until));
    desk.now = until;
    desk.tell(Input::Tick);
    assert_eq!(desk.call.listens_from(), Some(0), "from the first sample");
    let frames = [vec![0.05; 4], vec![0.9; 8], vec![0.05; 10]].concat();
    desk.tell(Input::Frames { from: 0, probabilities: frames });
    assert_eq!(desk.happened(), format!("started 0, stopped {}, committed, user item", 22 * FRAME_MS));
    desk.transcript("hello").found(NOTHING).thinks("Hi there.").speaks();
    assert!(desk.happened().ends_with("completed"));
}

#[test]
fn nobody_skips_it_and_what_a_client_asks_for_comes_after_it() {
    let mut desk = Desk::new(demanded(by_hand()));
    assert_eq!(desk.ask(Command::CreateResponse(Box::default())), Ok(()));
    assert_eq!(desk.ask(Command::CreateResponse(Box::default())), Err("conversation_already_has_active_response"));
    assert_eq!(desk.ask(Command::CancelResponse(None)), Err("notice_cannot_be_skipped"));
    assert_eq!(desk.ask(Command::CancelResponse(Some(ResponseId::from_client("x")))), Err("notice_cannot_be_skipped"));
    assert_eq!(desk.ask(Command::StopPlayback), Err("notice_cannot_be_skipped"));
    told(&mut desk);
    assert_eq!(desk.ask(Command::StopPlayback), Err("notice_cannot_be_skipped"), "while it is heard, too");
    assert!(desk.call.answering().is_some());
    desk.speaks();
    assert!(desk.happened().ends_with("said `Hello.`, audio 300, completed"), "the answer that was asked for");
    desk.wait(2_500).tell(Input::Tick);
    assert_eq!(desk.ask(Command::StopPlayback), Ok(()));
}

#[test]
fn keys_and_commands_begin_it_too() {
    let mut desk = Desk::new(demanded(settings()));
    desk.presses("1#");
    assert!(desk.happened().starts_with("key 1, "));
    assert!(matches!(desk.work.make_contiguous(), [Output::Speak { .. }]), "{:?}", desk.work);
    desk.speaks().speaks();
    desk.found(NOTHING).thinks("One.").speaks();
    let happened = desk.happened();
    assert!(happened.ends_with("completed, created, output, said `One.`, audio 200, completed"), "{happened}");
}

#[test]
fn a_notice_that_cannot_be_said_is_the_end_of_the_call() {
    let mut desk = Desk::new(demanded(settings()));
    greet(&mut desk);
    for _ in 0..3 {
        let response = desk.call.answering().expect("it is tried again").clone();
        desk.tell(Input::Failed { response, fault: Fault { code: "broken".into(), message: "broken".into() } });
    }
    let happened = desk.happened();
    assert_eq!(happened.matches("ended: broken").count(), 3);
    assert!(happened.ends_with("no notice, ended: broken"), "{happened}");
    assert_eq!(desk.call.answering(), None);
    assert_eq!(desk.ask(Command::CreateResponse(Box::default())), Ok(()));
    assert_eq!(desk.happened(), "", "nothing is said without it");
}
