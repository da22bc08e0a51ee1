//! A caller whose language is not spoken: told so, once, before the greeting.

mod desk;

use desk::{Desk, NOTHING, by_hand, settings};
use nearfield_dialogue::{
    events::{Command, Input},
    ledger::AnsweredBy,
    settings::{Settings, Silence},
};

const WORDS: &str = "I only speak English.";

fn stated(settings: Settings) -> Settings {
    Settings { not_spoken: Some(WORDS.into()), greeting: Some("Hello.".into()), ..settings }
}

fn update(desk: &mut Desk, settings: Settings) {
    assert_eq!(desk.ask(Command::Update(Box::new(settings))), Ok(()));
}

#[test]
fn it_comes_after_the_notice_and_before_the_greeting() {
    let mut desk = Desk::new(Settings { notice: Some("This is a computer.".into()), ..stated(settings()) });
    desk.call.greet(desk.now);
    desk.drain();
    desk.speaks().speaks().speaks();
    assert_eq!(
        desk.happened(),
        "created, output, said `This is a computer.`, audio 950, completed, created, output, said `I only speak English.`, audio 1050, \
         completed, created, output, said `Hello.`, audio 300, completed"
    );
    let by: Vec<_> = desk.ledgers.iter().filter_map(|ledger| ledger.answered_by).collect();
    assert_eq!(by, [AnsweredBy::Notice, AnsweredBy::Language, AnsweredBy::Greeting]);
    update(&mut desk, Settings { notice: Some("This is a computer.".into()), ..stated(settings()) });
    assert_eq!(desk.happened(), "", "once");
}

#[test]
fn a_language_that_is_stated_later_is_told_when_nothing_else_is_said() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("tell me").found(NOTHING).thinks("Well.");
    update(&mut desk, stated(settings()));
    desk.happened();
    desk.speaks();
    let happened = desk.happened();
    assert!(happened.ends_with("said `Well.`, audio 250, completed, created"), "{happened}");
    desk.speaks();
    assert_eq!(
        desk.happened(),
        "output, said `I only speak English.`, audio 1050, completed",
        "and no greeting after an answer"
    );
    update(&mut desk, settings());
    update(&mut desk, stated(settings()));
    desk.speaks();
    assert!(desk.happened().contains(WORDS), "stated once more, told once more");
}

#[test]
fn who_says_nothing_to_it_is_asked_whether_they_are_there() {
    let silence = Silence { after_ms: 8_000, ask: "Hello?".into(), times: 1, goodbye: "Bye then.".into() };
    let mut desk = Desk::new(Settings { greeting: None, silence: Some(silence), ..stated(settings()) });
    desk.call.greet(desk.now);
    desk.drain();
    desk.speaks().happened();
    desk.wait(1_050 + 8_000).tell(Input::Tick);
    desk.speaks();
    assert!(desk.happened().contains("said `Hello?`"));
}

#[test]
fn what_a_client_asks_for_meanwhile_comes_after_it() {
    let mut desk = Desk::new(by_hand());
    update(&mut desk, Settings { not_spoken: Some(WORDS.into()), ..by_hand() });
    assert_eq!(desk.ask(Command::CreateResponse(Box::default())), Ok(()));
    assert_eq!(desk.ask(Command::CreateResponse(Box::default())), Err("conversation_already_has_active_response"));
    desk.speaks();
    desk.thinks("Here it is.").speaks();
    let happened = desk.happened();
    assert!(happened.contains(&format!("said `{WORDS}`")) && happened.contains("said `Here it is.`"), "{happened}");
    update(&mut desk, by_hand());
    update(&mut desk, Settings { not_spoken: Some(WORDS.into()), ..by_hand() });
    assert_eq!(desk.ask(Command::CancelResponse(None)), Ok(()), "nobody has to hear it");
}
