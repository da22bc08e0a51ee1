//! What the call does when the work that it waits for is lost, late, or about nothing: every turn comes to its end.

mod desk;

use desk::{Desk, FRAME_MS, NOTHING, settings};
use nearfield_dialogue::{
    call::{DEAF_MAX, STALL_MAX, TRANSCRIBING_MAX, TURN_TIME_MAX, WORK_MAX},
    events::{Fault, Found, Input, Output},
    listen::FRAME,
    settings::{EndOfTurn, Settings, TurnDetection},
};
use std::time::Duration;

/// Audio that comes in real time and that no detector listens to.
fn unheard(desk: &mut Desk, frames: u64) {
    for _ in 0..frames {
        desk.wait(FRAME_MS);
        desk.call.hear(desk.now, FRAME).expect("room");
        desk.drain();
    }
}

/// First and last frame of what is to be transcribed.
fn transcribed(desk: &Desk) -> Vec<(u64, u64)> {
    let ranges = desk.work.iter().filter_map(|work| match work {
        Output::Transcribe { range, .. } => Some((range.start / FRAME, range.end / FRAME)),
        _ => None,
    });
    ranges.collect()
}

fn meaning() -> Settings {
    let by = EndOfTurn::Meaning { silence_ms_max: 960 };
    Settings { turn_detection: Some(TurnDetection { by, ..TurnDetection::default() }), ..settings() }
}

#[test]
fn a_detector_that_goes_silent_in_the_middle_of_a_turn_does_not_hold_it_open() {
    let mut desk = Desk::new(settings());
    desk.hears("####").happened();
    unheard(&mut desk, 1);
    let due = desk.now + DEAF_MAX;
    unheard(&mut desk, 99);
    assert_eq!(desk.call.deadline(), Some(due), "however much audio comes after it");
    let left = ((due - desk.now).as_millis() as u64).div_ceil(FRAME_MS);
    unheard(&mut desk, left);
    desk.tell(Input::Tick);
    assert_eq!(desk.happened(), format!("stopped {}, committed, user item", (4 + 100 + left) * FRAME_MS));
    assert_eq!(transcribed(&desk), [(0, 4 + 100 + left)], "what nobody listened to may hold words");
    desk.transcript("hello").found(NOTHING).thinks("Hi there.").speaks();
    assert!(desk.happened().ends_with("completed"));
    // The detector comes back: what it still tells about that audio is old.
    desk.tell(Input::Frames { from: 4 * FRAME, probabilities: vec![0.9; 100] });
    assert_eq!(desk.happened(), "");
    desk.hears("###");
    assert!(desk.happened().starts_with("started "));
}

#[test]
fn frames_that_come_late_or_twice_change_nothing() {
    let mut late = Desk::new(settings());
    unheard(&mut late, 14);
    late.tell(Input::Frames { from: 0, probabilities: vec![0.9; 3] });
    late.tell(Input::Frames { from: 0, probabilities: vec![0.9; 4] });
    late.tell(Input::Frames { from: 2 * FRAME, probabilities: [[0.9; 2].as_slice(), &[0.05; 10]].concat() });
    assert_eq!(late.happened(), "started 0, stopped 448, committed, user item", "as if each had come once");
    assert_eq!(transcribed(&late), [(0, 10)]);
}

#[test]
fn a_gap_in_a_turn_loses_neither_words_nor_the_end() {
    let mut desk = Desk::new(settings());
    desk.hears("####").happened();
    unheard(&mut desk, 40);
    desk.tell(Input::Frames { from: 44 * FRAME, probabilities: vec![] });
    unheard(&mut desk, 10);
    desk.tell(Input::Frames { from: 44 * FRAME, probabilities: vec![0.05; 9] });
    assert_eq!(desk.happened(), "", "a silence that nobody heard does not count");
    desk.tell(Input::Frames { from: 53 * FRAME, probabilities: vec![0.05; 1] });
    assert!(desk.happened().ends_with("committed, user item"));
    assert_eq!(transcribed(&desk), [(0, 50)]);
}

#[test]
fn a_turn_whose_audio_trickles_in_ends_too() {
    let mut desk = Desk::new(settings());
    desk.hears("##").happened();
    let began = desk.now;
    let pause = STALL_MAX - Duration::from_millis(100);
    while desk.now < began + TURN_TIME_MAX {
        desk.wait(pause.as_millis() as u64 - FRAME_MS).hears("#");
    }
    desk.tell(Input::Tick);
    assert!(desk.happened().contains("committed"));
}

#[test]
fn a_turn_model_that_fails_or_never_answers_leaves_it_to_the_silence() {
    for answer in [None, Some(None), Some(Some(0.1))] {
        let mut desk = Desk::new(meaning());
        desk.hears("####........").happened();
        if let Some(probability) = answer {
            desk.tell(Input::Turn { question: 1, probability });
        }
        desk.hears("......................");
        assert_eq!(desk.happened(), format!("stopped {}, committed, user item", 34 * FRAME_MS), "{answer:?}");
    }
}

#[test]
fn a_noise_that_cuts_an_answer_before_a_word_of_it_was_heard_does_not_cost_the_answer() {
    // Cut before the model is asked.
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("tell me");
    desk.hears("##..........").happened();
    desk.transcript("");
    assert_eq!(desk.happened(), "words ``, created");
    let question = |desk: &mut Desk| {
        desk.take(|work| match work {
            Output::Match { question, .. } => Some(question.reveal().clone()),
            _ => None,
        })
    };
    assert_eq!(question(&mut desk), "tell me");
    // Cut while it is thought: thinking goes on.
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("tell me").found(NOTHING);
    desk.hears("##..........").happened();
    desk.transcript("").thinks("Well.").speaks();
    assert_eq!(desk.happened(), "words ``, created, output, said `Well.`, audio 250, completed");
    // Sent whole, and cut before the loudspeaker began.
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("tell me").found(Found::Answer("One two three four.".into())).speaks();
    desk.hears("##..........").happened();
    desk.transcript(" . ");
    desk.happened();
    desk.speaks();
    assert_eq!(desk.happened(), "output, said `One two three four.`, audio 950, completed");
    // Words go first: one answer, to both.
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("tell me").found(NOTHING);
    desk.hears("##..........").transcript("the time");
    assert_eq!(question(&mut desk), "tell me the time");
    assert_eq!(desk.happened().matches("created").count(), 2);
    desk.hears("##..........").transcript("");
    assert_eq!(desk.happened().matches("created").count(), 1);
}

#[test]
fn a_greeting_that_a_noise_cuts_is_said_again() {
    let mut desk = Desk::new(Settings { greeting: Some("Hello there.".into()), ..settings() });
    desk.call.greet(desk.now);
    desk.drain();
    desk.hears("##..........").transcript("");
    assert!(desk.happened().ends_with("words ``, created"));
    desk.speaks();
    assert_eq!(desk.heard_by_caller(), ["Hello there."]);
}

#[test]
fn words_that_are_not_found_during_another_answer_fail_aloud_after_it() {
    let patient = TurnDetection {
        by: EndOfTurn::Silence { silence_ms: 320 },
        interrupt_response: false,
        ..TurnDetection::default()
    };
    let mut desk = Desk::new(Settings { turn_detection: Some(patient), ..settings() });
    desk.hears("####..........").transcript("tell me").found(NOTHING);
    desk.hears("####..........").happened();
    let (item, attempt) = desk.transcription();
    let fault = Fault { code: "overloaded".into(), message: "busy".into() };
    desk.tell(Input::Transcript { item, attempt, words: Err(fault) });
    assert_eq!(desk.happened(), "no words: overloaded");
    desk.thinks("Well.").speaks();
    assert_eq!(desk.happened(), "output, said `Well.`, audio 250, completed, created, ended: overloaded");
}

#[test]
fn a_turn_too_many_is_answered_with_its_fault() {
    let mut desk = Desk::new(settings());
    for _ in 0..=TRANSCRIBING_MAX {
        desk.hears("##..........");
    }
    assert!(desk.happened().ends_with("no words: overloaded"));
    desk.wait(WORK_MAX.as_millis() as u64).tell(Input::Tick);
    assert!(desk.happened().ends_with("created, ended: overloaded"), "none of them has words");
    let mut desk = Desk::new(settings());
    for _ in 0..=TRANSCRIBING_MAX {
        desk.hears("##..........");
    }
    for _ in 0..TRANSCRIBING_MAX {
        desk.transcript("so");
    }
    assert!(desk.happened().ends_with("created"));
    assert!(matches!(desk.work.back(), Some(Output::Match { .. })), "what was understood is answered");
}

#[test]
fn a_cleared_turn_that_had_cut_an_answer_gives_it_back() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........").transcript("tell me").found(NOTHING);
    desk.hears("##").happened();
    assert_eq!(desk.ask(nearfield_dialogue::Command::Clear), Ok(()));
    assert_eq!(desk.happened(), "cleared, created");
}
