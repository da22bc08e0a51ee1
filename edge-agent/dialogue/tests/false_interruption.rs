//! Noises and signs of listening over an answer: it stops, and goes on where the caller had heard it.

mod desk;

use desk::{Desk, FRAME_MS, NOTHING, settings};
use nearfield_dialogue::{
    events::{Command, Found, Input, Output},
    history::{Content, Role},
    ids::ItemId,
    settings::{EndOfTurn, Settings, TurnDetection},
};
use nearfield_shared::pii::Pii;
use proptest::prelude::*;

const ANSWER: &str = "We are open from nine to six. On Sunday we are closed. Come by any time.";

/// A caller who asks and is answered from the assistant's file, until the first phrase has been sent.
fn answered() -> Desk {
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("when are you open").found(Found::Answer(ANSWER.into())).speaks();
    desk.happened();
    desk
}

/// What the assistant said and the caller heard, as one text.
fn heard(desk: &Desk) -> String {
    desk.heard_by_caller().into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_sign_of_listening_stops_an_answer_that_then_says_the_rest() {
    for sign in ["Mm-hm.", "Okay.", "", "I see."] {
        let mut desk = answered();
        desk.wait(700).hears("##..........");
        assert_eq!(
            desk.happened(),
            "started 320, ended: interrupted, interrupted 764, stopped 832, committed, user item"
        );
        desk.transcript(sign);
        assert_eq!(desk.happened(), format!("words `{sign}`, created"), "no question is asked about it");
        desk.speaks();
        let first = desk.happened();
        assert!(first.starts_with("output, said `from nine to six.`, audio "), "{first}");
        let ms: u32 = first.rsplit(' ').next().and_then(|ms| ms.parse().ok()).expect("a number");
        // The phrase is 1,450 ms long, 764 ms of it were heard, and a step back to a quiet moment is 300 ms at most.
        assert!((1450 - 764..=1450 - 764 + 300).contains(&ms), "{ms}");
        desk.speaks().speaks();
        assert!(desk.happened().ends_with("said ` Come by any time.`, audio 850, completed"));
        assert_eq!(heard(&desk), ANSWER);
    }
}

#[test]
fn words_over_an_answer_are_answered_and_the_rest_is_dropped() {
    for words in ["Wait.", "and on Sunday", "no"] {
        let mut desk = answered();
        desk.wait(700).hears("##..........").transcript(words);
        let question = desk.take(|work| match work {
            Output::Match { question, .. } => Some(question.reveal().clone()),
            _ => None,
        });
        assert_eq!(question, words);
        assert!(!desk.work.iter().any(|work| matches!(work, Output::Speak { .. })), "{:?}", desk.work);
    }
    // Long speech wants an answer, whatever its words.
    let mut desk = answered();
    desk.wait(700).hears(&"#".repeat(60)).hears("..........").transcript("okay");
    assert!(desk.work.iter().any(|work| matches!(work, Output::Match { .. })));
}

#[test]
fn a_yes_to_a_question_is_an_answer_and_not_a_sign() {
    let mut desk = Desk::new(settings());
    let asks = Found::Answer("Shall I put you through to a colleague?".into());
    desk.hears("####..........").transcript("help me").found(asks).speaks();
    desk.wait(1_700).hears("##..........").happened();
    desk.transcript("Yes.");
    assert!(desk.happened().ends_with("created"));
    assert!(matches!(desk.work.back(), Some(Output::Match { .. })));
}

#[test]
fn what_the_model_goes_on_thinking_meanwhile_is_said() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("tell me").found(NOTHING);
    let response = desk.take(|work| match work {
        Output::Generate { response, .. } => Some(response.clone()),
        _ => None,
    });
    let text = |piece: &str| Input::Text { response: response.clone(), piece: Pii::new(piece.to_owned()) };
    desk.tell(text("One two three. Four ")).speaks();
    desk.wait(300).hears("##....").tell(text("five six. ")).hears("......");
    assert!(desk.happened().contains("ended: interrupted"));
    desk.transcript("mhm").tell(text("Seven.")).tell(Input::TextDone { response: response.clone(), cut_off: false });
    desk.speaks().speaks().speaks();
    assert!(desk.happened().ends_with("said ` Seven.`, audio 300, completed"));
    assert_eq!(heard(&desk), "One two three. Four five six. Seven.");
    // Nothing is thought on for nobody: words that want an answer stop it.
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("tell me").found(NOTHING);
    desk.hears("##..........").transcript("no");
    assert!(!desk.work.iter().any(|work| matches!(work, Output::Generate { .. })), "{:?}", desk.work);
}

#[test]
fn the_client_knows_better_what_was_heard() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("when").found(Found::Answer("One two three four.".into())).speaks();
    desk.wait(600).hears("##..........");
    assert_eq!(desk.ask(Command::TruncateItem { item: ItemId::from_client("item_t00003"), audio_end_ms: 200 }), Ok(()));
    desk.transcript("").speaks();
    assert_eq!(desk.heard_by_caller(), ["One", "two three four."]);
}

#[test]
fn an_answer_that_was_heard_to_its_end_is_not_taken_up_again() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("when").found(Found::Answer("One.".into())).speaks();
    desk.wait(300).hears("##..........").transcript("okay");
    assert!(matches!(desk.work.back(), Some(Output::Match { .. })), "it is a turn");
}

#[test]
fn where_answers_are_not_interrupted_a_sign_of_listening_is_not_answered_either() {
    let patient = TurnDetection {
        by: EndOfTurn::Silence { silence_ms: 320 },
        interrupt_response: false,
        ..TurnDetection::default()
    };
    let mut desk = Desk::new(Settings { turn_detection: Some(patient), ..settings() });
    desk.hears("####..........").transcript("when").found(Found::Answer("One two. Three four five six.".into()));
    desk.speaks().speaks().happened();
    desk.hears("##..........").transcript("uh-huh");
    assert_eq!(desk.happened(), "started 320, stopped 832, committed, user item, words `uh-huh`");
    desk.wait(5_000).hears("##..........").transcript("okay");
    assert!(desk.happened().ends_with("created"), "after the answer it is a turn");
}

#[test]
fn a_client_that_answers_itself_is_not_spoken_to() {
    let by_client = TurnDetection { create_response: false, ..settings().turn_detection.expect("one") };
    let mut desk = Desk::new(Settings { turn_detection: Some(by_client), ..settings() });
    desk.hears("####..........").transcript("when");
    assert_eq!(desk.ask(Command::CreateResponse(Box::default())), Ok(()));
    desk.found(Found::Answer(ANSWER.into())).speaks();
    desk.wait(300).hears("##..........").transcript("");
    assert!(desk.happened().ends_with("words ``"));
    assert!(desk.work.is_empty(), "{:?}", desk.work);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// However often and whenever an answer is cut by nothing, what was heard of its parts is the whole answer, no word twice.
    #[test]
    fn the_parts_of_an_answer_are_the_answer(
        cuts in prop::collection::vec((0u64..3_000, 2usize..8, prop::sample::select(vec!["", ".", "mhm", "okay"]), 0u8..4), 0..6),
        words in prop::collection::vec("[a-z]{1,8}[.,]?", 1..25),
    ) {
        let answer = format!("{}.", words.join(" ").trim_end_matches(['.', ',']));
        let mut desk = Desk::new(settings());
        desk.hears("####..........").transcript("tell me").found(Found::Answer(answer.clone()));
        for (after_ms, frames, words, phrases) in cuts {
            for _ in 0..phrases {
                if desk.work.iter().any(|work| matches!(work, Output::Speak { .. })) {
                    desk.speaks();
                }
            }
            desk.wait(after_ms);
            let begins = desk.log.len();
            desk.hears(&"#".repeat(frames)).hears("..........");
            let began: Vec<String> = desk.log[begins..].to_vec();
            // What does not cut an answer that was heard is a turn of its own, and no part of this.
            if words.chars().any(char::is_alphabetic) && (!began.iter().any(|line| line.starts_with("interrupted")) || began.contains(&"interrupted 0".into())) {
                desk.transcript("");
            } else {
                desk.transcript(words);
            }
        }
        while desk.work.iter().any(|work| matches!(work, Output::Speak { .. })) {
            desk.speaks();
        }
        prop_assert_eq!(heard(&desk), answer);
        prop_assert_eq!(desk.call.answering(), None);
        let created = desk.log.iter().filter(|line| *line == "created").count();
        let ended = desk.log.iter().filter(|line| *line == "completed" || line.starts_with("ended")).count();
        prop_assert_eq!(created, ended, "each part ends once");
        let spoken = desk.call.history().items().filter(|item| item.role == Role::Assistant);
        prop_assert!(spoken.into_iter().all(|item| matches!(item.content, Content::Spoken(_))));
        prop_assert_eq!(desk.call.deadline(), None, "at {} ms frames", FRAME_MS);
    }
}
