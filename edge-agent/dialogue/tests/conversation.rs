//! Whole conversations, told as scripts: what the caller and the models do, and what the client is told.

mod desk;

use desk::{Desk, NOTHING, by_hand, frames, settings};
use nearfield_dialogue::{
    call::{STALL_MAX, WORK_MAX},
    events::{Command, Fault, Found, Given, Input, Output, Place, Wish},
    history::{Content, Message, Role},
    ids::ItemId,
    ledger::AnsweredBy,
    settings::{EndOfTurn, Settings, TurnDetection},
};
use nearfield_shared::pii::Pii;

#[test]
fn a_question_to_the_model() {
    let mut desk = Desk::new(settings());
    desk.hears("..####..........");
    assert_eq!(desk.happened(), "started 0, stopped 512, committed, user item");
    desk.wait(80).transcript("where are you").wait(10).found(NOTHING);
    assert_eq!(desk.happened(), "words `where are you`, created");
    desk.wait(100).thinks("We are in the old town. Come by.");
    assert_eq!(desk.happened(), "", "no word before its audio");
    desk.wait(50).speaks().speaks();
    assert_eq!(
        desk.happened(),
        "output, said `We are in the old town.`, audio 1150, said ` Come by.`, audio 400, completed"
    );
    let ledger = &desk.ledgers[0];
    assert_eq!(ledger.answered_by, Some(AnsweredBy::Model));
    assert_eq!(ledger.endpoint_ms, Some(320));
    assert_eq!((ledger.transcribe_ms, ledger.match_ms, ledger.first_text_ms), (Some(80), Some(10), Some(100)));
    assert_eq!((ledger.first_phrase_ms, ledger.first_render_ms), (Some(0), Some(50)));
    assert_eq!(ledger.commit_to_first_audio_ms, Some(240));
    assert_eq!(ledger.speech_end_to_first_audio_ms, Some(560));
    assert_eq!(desk.call.deadline(), None, "nothing is left to wait for");
}

#[test]
fn a_known_question_is_spoken_from_its_answer_and_may_be_kept() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........")
        .transcript("when do you open")
        .found(Found::Answer("We open at nine. Come in.".into()));
    assert!(matches!(desk.work.front(), Some(Output::Speak { keep: true, .. })));
    desk.speaks().speaks();
    assert_eq!(desk.ledgers[0].answered_by, Some(AnsweredBy::KnownQuestion));
    assert_eq!(desk.heard_by_caller(), ["We open at nine. Come in."]);
}

#[test]
fn a_phrase_is_due_when_what_was_sent_before_it_has_been_played() {
    let mut desk = Desk::new(Settings { greeting: Some("Hello there.".into()), ..settings() });
    let due = |desk: &Desk| match desk.work.back() {
        Some(Output::Speak { due, .. }) => due.saturating_sub(desk.now).as_millis(),
        other => panic!("{other:?}"),
    };
    desk.call.greet(desk.now);
    desk.drain();
    assert_eq!(due(&desk), 500, "a greeting is not urgent");
    desk.speaks().wait(600).hears("####..........");
    desk.transcript("tell me").found(NOTHING).thinks("One two three. Four five six. Seven.");
    assert_eq!(due(&desk), 0, "the caller waits for the first phrase");
    desk.wait(80).speaks();
    assert_eq!(due(&desk), 700, "`One two three.` is 700 ms long");
    desk.wait(300).speaks();
    assert_eq!(due(&desk), 400 + 700);
    desk.wait(5_000).speaks();
    assert_eq!(desk.call.answering(), None, "late is not lost");
}

#[test]
fn asking_for_a_person_is_told_and_said() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("a person please").found(Found::HandOver("One moment.".into())).speaks();
    assert!(desk.happened().ends_with("created, handed over, output, said `One moment.`, audio 550, completed"));
}

#[test]
fn speech_over_an_answer_stops_it_and_keeps_only_what_was_heard() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("tell me").found(NOTHING).thinks("One two three. Four five six. Seven.");
    desk.speaks(); // 700 ms of audio
    desk.happened();
    desk.wait(280).hears("##"); // two frames to detect: 344 ms were played
    assert_eq!(desk.happened(), "started 320, ended: interrupted, interrupted 344");
    assert!(desk.work.is_empty(), "no phrase is rendered for nobody: {:?}", desk.work);
    assert_eq!(desk.heard_by_caller(), ["One"], "`two` ends after 400 of 700 ms");
    desk.hears("..........").transcript("stop").found(NOTHING);
    let prompt = desk.work.iter().find_map(|work| match work {
        Output::Generate { prompt, .. } => Some(prompt.iter().map(|m| m.text.reveal().clone()).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(prompt.expect("asked"), ["Be kind.", "tell me", "One", "stop"]);
}

#[test]
fn a_client_that_stops_the_playback_has_heard_what_was_played() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("tell me").found(NOTHING).thinks("One two three. Four five six. Seven.");
    desk.speaks(); // 700 ms of audio
    desk.happened();
    desk.wait(280);
    assert_eq!(desk.ask(Command::StopPlayback), Ok(()));
    assert_eq!(desk.happened(), "ended: cancelled, truncated 280");
    assert_eq!(desk.heard_by_caller(), ["One"]);
    assert_eq!(desk.ask(Command::StopPlayback), Ok(()), "with nothing to stop nothing happens");
    assert_eq!(desk.happened(), "");
}

#[test]
fn speech_over_an_answer_that_is_sent_but_not_played_cuts_the_history_too() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("tell me").found(Found::Answer("One two three four.".into())).speaks();
    assert!(desk.happened().ends_with("completed"));
    desk.hears("##");
    assert_eq!(desk.happened(), "started 320, interrupted 64");
    assert_eq!(desk.heard_by_caller(), [""]);
    assert_eq!(desk.ask(Command::TruncateItem { item: ItemId::from_client("item_t00003"), audio_end_ms: 400 }), Ok(()));
    assert_eq!(desk.heard_by_caller(), ["One two"], "the client knows better than the estimate");
    desk.hears("..........##");
    assert_eq!(desk.heard_by_caller(), ["One two"], "and keeps knowing better");
}

#[test]
fn a_recording_sent_faster_than_speech_did_not_interrupt_anybody() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("tell me").found(Found::Answer("One two three four.".into())).speaks();
    for loud in [true, false] {
        for _ in 0..12 {
            desk.call.hear(desk.now, 512).expect("room");
            let frame = frames(&desk.call, if loud { 0.9 } else { 0.05 });
            desk.tell(frame);
        }
    }
    assert_eq!(desk.heard_by_caller(), ["One two three four."]);
    let question = desk.transcript("and now").take(|work| match work {
        Output::Match { question, .. } => Some(question.reveal().clone()),
        _ => None,
    });
    assert_eq!(question, "and now");
}

#[test]
fn a_caller_who_goes_on_is_answered_once_to_all_of_it() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........####");
    desk.transcript("when do you");
    assert_eq!(desk.happened(), "started 0, stopped 448, committed, user item, started 320, words `when do you`");
    desk.hears("..........").transcript("open tomorrow");
    let question = desk.take(|work| match work {
        Output::Match { question, .. } => Some(question.reveal().clone()),
        _ => None,
    });
    assert_eq!(question, "when do you open tomorrow");
    assert_eq!(desk.happened().matches("created").count(), 1);
}

#[test]
fn noise_without_words_gets_no_answer() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript(" ");
    assert_eq!(desk.happened(), "started 0, stopped 448, committed, user item, words ` `");
    assert!(desk.work.is_empty());
    let mut desk = Desk::new(by_hand());
    desk.hears("####");
    assert_eq!((desk.ask(Command::Commit), desk.ask(Command::CreateResponse(Box::default()))), (Ok(()), Ok(())));
    desk.transcript("").speaks();
    assert!(desk.happened().contains("said `Sorry, I did not catch that.`"), "but who asks for one gets one");
}

#[test]
fn the_turn_model_ends_a_turn_before_the_silence_does() {
    let by = EndOfTurn::Meaning { silence_ms_max: 1500 };
    let mut desk =
        Desk::new(Settings { turn_detection: Some(TurnDetection { by, ..TurnDetection::default() }), ..settings() });
    desk.hears("####........");
    let question = desk.take(|work| match work {
        Output::AskTurn { question, range, due } => Some((*question, range.clone(), due.as_millis())),
        _ => None,
    });
    assert_eq!(question, (1, 0..12 * 512, 128), "wanted since the last speech came in");
    desk.happened();
    desk.wait(90).tell(Input::Turn { question: 1, probability: Some(0.9) });
    assert_eq!(desk.happened(), "stopped 384, committed, user item");
    desk.transcript("yes").found(NOTHING).thinks("Good.").speaks();
    assert_eq!((desk.ledgers[0].turn_model_ms, desk.ledgers[0].endpoint_ms), (Some(90), Some(346)));
}

#[test]
fn a_client_that_decides_itself() {
    let mut desk = Desk::new(by_hand());
    assert_eq!(desk.ask(Command::Commit), Err("input_audio_buffer_commit_empty"));
    desk.hears("####");
    assert_eq!(desk.ask(Command::Clear), Ok(()));
    assert_eq!(desk.ask(Command::Commit), Err("input_audio_buffer_commit_empty"));
    desk.hears("####");
    assert_eq!(desk.ask(Command::Commit), Ok(()));
    assert!(matches!(&desk.work[0], Output::Transcribe { range, .. } if *range == (2048..4096)));
    assert_eq!(desk.ask(Command::CreateResponse(Box::default())), Ok(()));
    assert_eq!(desk.happened(), "cleared, committed, user item, created");
    assert_eq!(desk.ask(Command::CreateResponse(Box::default())), Err("conversation_already_has_active_response"));
    desk.wait(70).transcript("hello").found(NOTHING).thinks("Hello.").speaks();
    assert!(desk.happened().ends_with("completed"));
    assert_eq!((desk.ledgers[0].transcribe_ms, desk.ledgers[0].commit_to_first_audio_ms), (Some(70), Some(70)));
    assert_eq!(desk.ask(Command::CancelResponse(None)), Err("response_cancel_not_active"));
}

#[test]
fn typed_items_and_answers_in_text_alone() {
    let mut desk = Desk::new(Settings { spoken: false, ..by_hand() });
    let typed = |id: &str, place, words: &str| Command::CreateItem {
        id: Some(ItemId::from_client(id)),
        place,
        given: Given::Message(Message { role: Role::User, text: Pii::new(words.to_owned()) }),
    };
    assert_eq!(desk.ask(typed("b", None, "second")), Ok(()));
    assert_eq!(desk.ask(typed("a", Some(Place::Beginning), "first")), Ok(()));
    assert_eq!(desk.ask(typed("a", None, "again")), Err("item_already_exists"));
    assert_eq!(desk.ask(typed("c", Some(Place::After(ItemId::from_client("x"))), "lost")), Err("item_not_found"));
    assert_eq!(desk.ask(typed("", None, "x")), Err("invalid_value"));
    assert_eq!(desk.ask(typed("long", None, &"x".repeat(20_000))), Err("string_above_max_length"));
    assert_eq!(desk.ask(Command::DeleteItem(ItemId::from_client("x"))), Err("item_not_found"));
    desk.happened();
    assert_eq!(desk.ask(Command::CreateResponse(Box::default())), Ok(()));
    desk.found(NOTHING).thinks("Fine, thanks.");
    assert_eq!(desk.happened(), "created, output, said `Fine, `, said `thanks.`, completed");
    let items: Vec<_> = desk.call.history().items().filter_map(|i| i.words()).collect();
    assert_eq!(items, ["first", "second", "Fine, thanks."]);
}

#[test]
fn an_answer_out_of_band_leaves_no_trace_in_the_conversation() {
    let mut desk = Desk::new(by_hand());
    let wish = Wish { out_of_band: true, instructions: Some("Sum up.".into()), ..Wish::default() };
    assert_eq!(desk.ask(Command::CreateResponse(Box::new(wish))), Ok(()));
    desk.thinks("All is well.").speaks();
    assert!(desk.happened().ends_with("completed"));
    assert!(desk.call.history().is_empty());
}

#[test]
fn a_long_spoken_answer_ends_with_a_whole_sentence() {
    let mut desk = Desk::new(Settings { spoken_chars_max: 30, ..settings() });
    desk.hears("####..........")
        .transcript("tell me")
        .found(NOTHING)
        .thinks("One two three. Four five six seven. Eight nine. Ten.");
    assert!(desk.work.iter().any(|work| matches!(work, Output::StopGenerating { .. })));
    desk.speaks().speaks();
    assert!(desk.happened().ends_with("said ` Four five six seven.`, audio 1000, completed"));
}

#[test]
fn the_greeting_comes_first_and_only_once() {
    let greeting = Settings { greeting: Some("Hello, this is the front desk.".into()), ..settings() };
    let mut desk = Desk::new(greeting.clone());
    desk.call.greet(desk.now);
    desk.drain();
    desk.speaks();
    assert!(desk.happened().ends_with("completed"));
    desk.call.greet(desk.now);
    desk.drain();
    assert_eq!(desk.happened(), "");
    let mut desk = Desk::new(Settings { turn_detection: None, ..greeting });
    assert_eq!(desk.ask(Command::CreateResponse(Box::default())), Ok(()));
    desk.speaks();
    assert_eq!(desk.happened(), "created, output, said `Hello, this is the front desk.`, audio 1500, completed");
}

#[test]
fn failures_end_the_answer_aloud_and_the_call_goes_on() {
    let mut desk = Desk::new(settings());
    let fault = || Fault { code: "worker_died".into(), message: "the worker died".into() };
    desk.hears("####..........").happened();
    let (item, attempt) = desk.transcription();
    desk.tell(Input::Transcript { item, attempt, words: Err(fault()) });
    assert_eq!(desk.happened(), "no words: worker_died, created, ended: worker_died");
    desk.hears("####..........").transcript("hello").found(NOTHING);
    desk.happened();
    let response = desk.call.answering().expect("in progress").clone();
    desk.tell(Input::Failed { response: response.clone(), fault: fault() });
    desk.tell(Input::Failed { response, fault: fault() });
    assert_eq!(desk.happened(), "ended: worker_died");
    desk.hears("####..........").transcript("hello").found(NOTHING).thinks("Hi there.").speaks();
    assert!(desk.happened().ends_with("completed"));
}

#[test]
fn work_that_never_comes_back_is_given_up() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........").happened();
    assert_eq!(desk.call.deadline(), Some(desk.now + WORK_MAX));
    desk.wait(WORK_MAX.as_millis() as u64).tell(Input::Tick);
    assert_eq!(desk.happened(), "no words: timeout, created, ended: timeout");
    desk.hears("####..........").transcript("hello").found(NOTHING).happened();
    let due = desk.call.deadline().expect("a deadline");
    desk.now = due;
    desk.tell(Input::Tick);
    assert_eq!(desk.happened(), "ended: timeout");
    assert_eq!(desk.call.deadline(), None);
}

#[test]
fn a_client_that_stops_sending_in_the_middle_of_a_turn_has_finished() {
    let mut desk = Desk::new(settings());
    desk.hears("######").happened();
    assert_eq!(desk.call.deadline(), Some(desk.now + STALL_MAX));
    desk.wait(STALL_MAX.as_millis() as u64).tell(Input::Tick);
    assert_eq!(desk.happened(), "stopped 192, committed, user item");
}

#[test]
fn turning_detection_off_keeps_what_was_said_for_a_commit() {
    let mut desk = Desk::new(settings());
    desk.hears("......####");
    assert_eq!(desk.ask(Command::Update(Box::new(by_hand()))), Ok(()));
    desk.hears("####");
    assert_eq!(desk.ask(Command::Commit), Ok(()));
    assert!(
        matches!(&desk.work[0], Output::Transcribe { range, .. } if range.end == 14 * 512 && range.start < 6 * 512)
    );
    assert!(matches!(desk.call.history().items().last().map(|i| &i.content), Some(Content::Heard { .. })));
}
