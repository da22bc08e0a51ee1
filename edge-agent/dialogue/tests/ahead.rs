//! Work that is done before the caller has certainly finished: what it gains, and that nobody can tell it from work done after.

mod desk;

use desk::{Desk, FRAME_MS, NOTHING, settings};
use nearfield_dialogue::{
    call::Call,
    events::{Event, Found, Given, Input, Output, Status, Uttered},
    history::{Content, Message, Role},
    ids::ResponseId,
    ledger::AnsweredBy,
    listen::FRAME,
    settings::{EndOfTurn, Settings, TurnDetection},
};
use nearfield_shared::pii::Pii;
use proptest::prelude::*;
use std::{collections::BTreeMap, time::Duration};

/// What is asked for and not done yet, in short.
fn asked(desk: &Desk) -> Vec<String> {
    let show = |work: &Output| match work {
        Output::Transcribe { range, partial, .. } => {
            let kind = if *partial { "part" } else { "whole" };
            Some(format!("{kind} {}..{}", range.start / FRAME, range.end / FRAME))
        }
        Output::Match { question, .. } => Some(format!("match `{}`", question.reveal())),
        Output::Generate { prompt, .. } => Some(format!("think `{}`", prompt.last().expect("a prompt").text.reveal())),
        Output::Speak { text, .. } => Some(format!("speak `{}`", text.reveal())),
        _ => None,
    };
    desk.work.iter().filter_map(show).collect()
}

#[test]
fn words_are_told_while_the_caller_speaks_as_far_as_they_are_certain() {
    let mut desk = Desk::new(settings());
    desk.hears("############").happened();
    assert_eq!(asked(&desk), ["part 0..12"], "320 ms behind the onset");
    desk.hears("##########");
    assert_eq!(asked(&desk), ["part 0..12"], "one at a time");
    desk.transcript("when");
    assert_eq!(desk.happened(), "", "nothing confirms it yet");
    desk.hears("#").transcript("when are");
    assert_eq!(desk.happened(), "part `when`");
    desk.hears("##########").transcript("when are you");
    assert_eq!(desk.happened(), "part ` are`");
    desk.hears("..........");
    assert_eq!(desk.happened(), "stopped 1376, committed, user item");
    desk.transcript("when are you open");
    assert_eq!(desk.happened(), "words `when are you open`, created");
    let mut quiet = Desk::new(Settings { partial_words: false, ..settings() });
    quiet.hears("##############################");
    assert!(quiet.work.is_empty(), "a client that wants no transcripts is not worth the work");
}

#[test]
fn the_words_of_the_whole_turn_are_found_in_the_silence_that_ends_it() {
    let mut desk = Desk::new(settings());
    desk.hears("####......");
    assert_eq!(asked(&desk), ["whole 0..10"], "192 ms of silence: what the turn will be if no more comes");
    desk.wait(20).transcript("hello there");
    desk.found(NOTHING).happened();
    desk.hears("....");
    assert_eq!(desk.happened(), "stopped 448, committed, user item, words `hello there`, created");
    assert_eq!(asked(&desk), ["think `hello there`"], "nothing is asked for twice");
    desk.wait(10).thinks("Hi.").wait(10).speaks();
    let ledger = &desk.ledgers[0];
    assert_eq!((ledger.transcribe_ms, ledger.match_ms, ledger.first_text_ms), (Some(0), Some(0), Some(10)));
    assert_eq!((ledger.begun_ahead_ms, ledger.speculative_waste_ms), (Some(4 * FRAME_MS as u32 + 20), 0));
    assert_eq!(ledger.commit_to_first_audio_ms, Some(20));
}

#[test]
fn words_that_come_only_after_the_commit_are_waited_for_and_not_asked_for_again() {
    let mut desk = Desk::new(settings());
    desk.hears("####..........").happened();
    assert_eq!(asked(&desk), ["whole 0..10"]);
    desk.wait(30).transcript("hello");
    assert_eq!(desk.happened(), "words `hello`, created");
    desk.found(NOTHING).thinks("Hi.").speaks();
    assert_eq!((desk.ledgers[0].transcribe_ms, desk.ledgers[0].begun_ahead_ms), (Some(30), Some(128)));
}

#[test]
fn an_answer_thought_ahead_leaves_at_the_commit_and_nothing_of_it_before() {
    let mut desk = Desk::new(settings());
    desk.hears("####......").transcript("tell me").happened();
    desk.found(NOTHING).thinks("One two three. Four five six. Seven.");
    assert_eq!(asked(&desk), ["speak `One two three.`"], "the first phrase, no more");
    desk.speaks();
    assert_eq!(desk.happened(), "");
    assert!(desk.call.answering().is_none() && desk.call.history().is_empty());
    desk.hears("....");
    assert_eq!(
        desk.happened(),
        "stopped 448, committed, user item, words `tell me`, created, output, said `One two three.`, audio 700"
    );
    assert_eq!(asked(&desk), ["speak `Four five six.`"]);
    desk.speaks().speaks();
    assert_eq!(desk.ledgers[0].commit_to_first_audio_ms, Some(0));
    assert_eq!(desk.ledgers[0].answered_by, Some(AnsweredBy::Model));
    assert_eq!(desk.heard_by_caller(), ["One two three. Four five six. Seven."]);
}

#[test]
fn a_caller_who_goes_on_is_heard_whole_and_what_was_begun_is_counted_as_waste() {
    let mut desk = Desk::new(settings());
    desk.hears("####......").wait(5).transcript("when do you").found(NOTHING);
    assert_eq!(asked(&desk), ["think `when do you`"]);
    desk.wait(7).hears("#");
    assert!(asked(&desk).is_empty(), "the answer to half a question is not thought to its end: {:?}", asked(&desk));
    assert_eq!(desk.happened(), "started 0");
    desk.hears("##......").transcript("when do you open");
    desk.hears("....");
    let told = "part `when do you`, stopped 736, committed, user item, words `when do you open`, created";
    assert_eq!(desk.happened(), told, "the first half was heard twice, so it is certain");
    desk.found(Found::Answer("At nine.".into())).speaks();
    // 5 ms of hearing, and the 7 ms and one frame in which an answer was thought.
    assert_eq!(desk.ledgers[0].speculative_waste_ms, 5 + 7 + FRAME_MS as u32);
    assert_eq!(desk.heard_by_caller(), ["At nine."]);
    desk.hears("####..........").transcript("thanks").found(NOTHING).thinks("Bye.").speaks();
    assert_eq!(desk.ledgers[1].speculative_waste_ms, 0, "counted once");
}

#[test]
fn the_more_waits_for_the_device_the_less_is_done_ahead() {
    let speech = "####################";
    let check = |backlog_ms: u64, expect: &[&str]| {
        let mut desk = Desk::new(settings());
        desk.call.note_backlog(Duration::from_millis(backlog_ms));
        desk.hears(speech);
        let mut seen = asked(&desk);
        desk.hears("......");
        seen.extend(asked(&desk));
        if seen.iter().any(|work| work.starts_with("whole")) {
            desk.transcript("yes");
            seen.extend(asked(&desk));
        }
        assert_eq!(seen, expect, "{backlog_ms} ms");
    };
    check(0, &["part 0..12", "whole 0..26", "match `yes`"]);
    check(200, &["part 0..12", "whole 0..26", "match `yes`"]);
    check(250, &["part 0..12", "whole 0..26"]);
    check(251, &["whole 0..26"]);
    check(601, &[]);
}

#[test]
fn a_transcript_that_fails_ahead_is_asked_for_at_the_commit() {
    let mut desk = Desk::new(settings());
    desk.hears("####......");
    let (item, attempt) = desk.transcription();
    let fault = nearfield_dialogue::events::Fault { code: "overloaded".into(), message: "busy".into() };
    desk.tell(Input::Transcript { item, attempt, words: Err(fault) }).hears("....");
    assert_eq!(asked(&desk), ["whole 0..10"]);
    desk.transcript("hello");
    assert!(desk.happened().ends_with("words `hello`, created"));
}

#[test]
fn an_answer_on_a_conversation_that_changed_meanwhile_is_thought_again() {
    let mut desk = Desk::new(settings());
    desk.hears("####......").transcript("tell me").found(NOTHING);
    let typed = nearfield_dialogue::Command::CreateItem {
        id: None,
        place: None,
        given: Given::Message(Message { role: Role::System, text: Pii::new("Whisper.".to_owned()) }),
    };
    assert_eq!(desk.ask(typed), Ok(()));
    desk.hears("....").found(NOTHING);
    let instructions = desk.work.iter().find_map(|work| match work {
        Output::Generate { prompt, .. } => Some(prompt[0].text.reveal().clone()),
        _ => None,
    });
    assert_eq!(instructions.as_deref(), Some("Be kind.\nWhisper."));
    assert_eq!(asked(&desk).len(), 1, "the other one was stopped: {:?}", asked(&desk));
}

/// A caller, and workers that do everything right after a while: words are named by their audio, answers quote the prompt.
struct World {
    call: Call,
    now: Duration,
    work: Vec<(Duration, Output)>,
    in_turn: bool,
    committed: Vec<String>,
    quoted: BTreeMap<ResponseId, String>,
    answered: usize,
}

impl World {
    fn new(backlog: Duration, by: EndOfTurn) -> Self {
        let turn_detection = Some(TurnDetection { by, ..TurnDetection::default() });
        let mut call = Call::new(Settings { turn_detection, ..Settings::default() }, "w");
        call.note_backlog(backlog);
        let (work, quoted) = (vec![], BTreeMap::new());
        Self { call, now: Duration::ZERO, work, in_turn: false, committed: vec![], quoted, answered: 0 }
    }

    fn frame(&mut self, speech: bool, delays: &[u8]) {
        self.now += Duration::from_millis(FRAME_MS);
        self.call.hear(self.now, FRAME).expect("room");
        let from = self.call.listens_from().expect("it listens");
        self.call.handle(self.now, Input::Frames { from, probabilities: vec![if speech { 0.9 } else { 0.1 }] });
        self.drain(delays);
        while let Some(at) = self.work.iter().position(|(due, _)| *due <= self.now) {
            let (_, work) = self.work.remove(at);
            self.finish(work, delays);
        }
    }

    fn finish(&mut self, work: Output, delays: &[u8]) {
        let inputs = match work {
            // The turn model finds that every second question is one to the end.
            Output::AskTurn { question, range, .. } => {
                let finished = (range.end / FRAME).is_multiple_of(2);
                vec![Input::Turn { question, probability: Some(if finished { 0.9 } else { 0.1 }) }]
            }
            Output::Transcribe { item, attempt, range, .. } => {
                let words = Pii::new(format!("from {} to {}", range.start / FRAME, range.end / FRAME));
                vec![Input::Transcript { item, attempt, words: Ok(words) }]
            }
            Output::Match { response, question, .. } => {
                let found = match question.reveal().len() % 4 {
                    0 => Found::Answer(format!("Known: {}.", question.reveal())),
                    _ => Found::Nothing { facts: vec!["a fact".into()] },
                };
                vec![Input::Matched { response, found }]
            }
            Output::Generate { response, prompt, .. } => {
                let last = prompt.last().expect("a prompt").text.reveal().clone();
                let piece = |text: String| Input::Text { response: response.clone(), piece: Pii::new(text) };
                vec![
                    piece(format!("Thought: {last}. ")),
                    piece("Short one. ".into()),
                    Input::TextDone { response: response.clone(), cut_off: false },
                ]
            }
            Output::Speak { response, phrase, .. } => {
                vec![Input::Rendered { response, phrase, samples: vec![0.0; 2_400] }]
            }
            _ => vec![],
        };
        for input in inputs {
            self.call.handle(self.now, input);
            self.drain(delays);
        }
    }

    fn drain(&mut self, delays: &[u8]) {
        while let Some(output) = self.call.poll_output() {
            match output {
                Output::Event(event) => self.event(&event),
                Output::Cancel { response } => self.work.retain(|(_, work)| of(work) != Some(&response)),
                Output::GiveUpWords { item } => {
                    self.work.retain(|(_, work)| !matches!(work, Output::Transcribe { item: i, .. } if *i == item));
                }
                Output::Audio { .. } | Output::Release { .. } | Output::StopGenerating { .. } => {}
                work => {
                    let n = self.work.len() + self.now.as_millis() as usize;
                    let delay = Duration::from_millis(delays[n % delays.len()].into());
                    self.work.push((self.now + delay, work));
                }
            }
        }
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::SpeechStarted { .. } => self.in_turn = true,
            Event::SpeechStopped { .. } => self.in_turn = false,
            Event::ResponseCreated(_) => assert!(!self.in_turn, "nothing is told of an answer before the commit"),
            Event::Transcribed { words, .. } => self.committed.push(words.reveal().clone()),
            Event::Said { about, words, .. } => {
                assert!(!self.in_turn, "nothing is said before the commit");
                self.quoted.entry(about.response.clone()).or_default().push_str(words.reveal());
            }
            Event::ResponseEnded(ended) if ended.status == Status::Completed => {
                let Uttered { item, words: said, .. } = ended.output.as_ref().expect("something was said");
                let before: Vec<_> = self.call.history().items().take_while(|i| i.id != *item).collect();
                let turns =
                    before.iter().rev().take_while(|i| i.role == Role::User || i.words().is_none_or(|w| w.is_empty()));
                let mut asked: Vec<String> =
                    turns.filter(|i| matches!(i.content, Content::Heard { .. })).filter_map(|i| i.words()).collect();
                asked.reverse();
                let asked = asked.join(" ");
                assert!(said.reveal().contains(&format!(": {asked}.")), "`{}` answers to `{asked}`", said.reveal());
                self.answered += 1;
            }
            _ => {}
        }
    }
}

fn of(work: &Output) -> Option<&ResponseId> {
    match work {
        Output::Match { response, .. } | Output::Generate { response, .. } | Output::Speak { response, .. } => {
            Some(response)
        }
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_done_ahead_changes_when_things_happen_and_not_what(
        runs in prop::collection::vec((1u8..30, 1u8..40), 1..20),
        delays in prop::collection::vec(0u8..250, 1..9),
        by_silence in any::<bool>(),
    ) {
        let by = if by_silence { EndOfTurn::Silence { silence_ms: 400 } } else { EndOfTurn::Meaning { silence_ms_max: 700 } };
        let [ahead, after] = [Duration::ZERO, Duration::from_secs(9)].map(|backlog| {
            let mut world = World::new(backlog, by);
            for (speech, silence) in &runs {
                (0..*speech).for_each(|_| world.frame(true, &delays));
                (0..*silence).for_each(|_| world.frame(false, &delays));
            }
            (0..300).for_each(|_| world.frame(false, &delays));
            world
        });
        // Where the turn model decides, its delay decides, too: then the turns themselves may differ.
        if by_silence {
            prop_assert_eq!(&ahead.committed, &after.committed);
        }
        for world in [&ahead, &after] {
            prop_assert_eq!(world.committed.is_empty(), world.answered == 0);
        }
        prop_assert!(ahead.call.deadline().is_none() && after.call.deadline().is_none());
    }
}
