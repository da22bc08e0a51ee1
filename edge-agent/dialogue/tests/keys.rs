//! Keys of a telephone: collected, told to the model as one text, and answered.

mod desk;

use desk::{Desk, NOTHING, by_hand, settings};
use nearfield_dialogue::{
    events::{Found, Input, Output},
    keys::NEXT_KEY_MAX,
    settings::{Settings, TurnDetection},
};

fn question(desk: &mut Desk) -> String {
    desk.take(|work| match work {
        Output::Match { question, .. } => Some(question.reveal().clone()),
        _ => None,
    })
}

#[test]
fn a_number_that_ends_with_a_hash_is_answered_at_once() {
    let mut desk = Desk::new(settings());
    desk.presses("1234");
    assert_eq!(desk.happened(), "key 1, key 2, key 3, key 4");
    desk.presses("#");
    assert_eq!(desk.happened(), "key #, user item, created");
    desk.found(NOTHING).thinks("Thank you.").speaks();
    assert!(desk.happened().ends_with("said `Thank you.`, audio 500, completed"));
}

#[test]
fn a_number_without_an_end_is_whole_after_a_pause_and_is_asked_about_together_with_words() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("my number is").presses("42");
    assert!(
        desk.happened().ends_with("ended: interrupted, interrupted 0, key 2"),
        "an answer begun too soon is not given"
    );
    assert_eq!(desk.call.deadline(), Some(desk.now + NEXT_KEY_MAX));
    desk.wait(NEXT_KEY_MAX.as_millis() as u64).tell(Input::Tick);
    assert_eq!(desk.happened(), "user item, created");
    assert_eq!(question(&mut desk), "my number is [keys: 42]");
}

#[test]
fn a_key_stops_an_answer_as_speech_does_where_that_is_wanted() {
    let answer = |desk: &mut Desk| {
        desk.hears("####..........").transcript("tell me").found(Found::Answer("One two. Three four.".into())).speaks();
        desk.happened();
        desk.presses("1");
        desk.happened()
    };
    assert_eq!(answer(&mut Desk::new(settings())), "key 1, ended: interrupted, interrupted 200");
    let detection = TurnDetection { interrupt_response: false, ..settings().turn_detection.expect("one") };
    let mut patient = Desk::new(Settings { turn_detection: Some(detection), ..settings() });
    assert_eq!(answer(&mut patient), "key 1");
    patient.speaks();
    assert!(patient.happened().ends_with("completed"), "and the number is answered when it is whole");
    patient.presses("#");
    assert_eq!(patient.happened(), "key #, user item, created");
}

#[test]
fn a_client_that_decides_itself_gets_the_item_alone() {
    let mut desk = Desk::new(by_hand());
    desk.presses("7#");
    assert_eq!(desk.happened(), "key 7, key #, user item");
    assert!(desk.work.is_empty() && desk.call.deadline().is_none());
    assert_eq!(desk.ask(nearfield_dialogue::Command::CreateResponse(Box::default())), Ok(()));
    assert_eq!(question(&mut desk), "[keys: 7#]");
}
