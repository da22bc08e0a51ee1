//! What a client may ask for, and what it is told when that is not possible.

use super::{Call, TRANSCRIBING_MAX, answer::Material, beside::BESIDE_MAX, notice::Held, samples_to_ms};
use crate::{
    events::{Command, Event, Given, Place, Refusal, Status, Wish},
    history::{Content, ITEM_BYTES_MAX, Item, Role},
    ids::{ID_CHARS_MAX, ItemId, ResponseId},
    ledger::{AnsweredBy, Moments},
    settings::Settings,
    tools::{ToolError, ToolResult},
};
use std::time::Duration;

/// The least audio that can be committed, as in the OpenAI API.
const COMMIT_MS_MIN: u64 = 100;

impl Call {
    /// Follows a command, or says why not and changes nothing. Follow it with [`Call::poll_output`] until that
    /// returns `None`.
    pub fn command(&mut self, now: Duration, command: Command) -> Result<(), Refusal> {
        let is_update = matches!(command, Command::Update(_));
        match command {
            Command::Update(settings) => self.update(now, *settings),
            Command::Commit => self.commit_by_client(now)?,
            Command::Clear => self.clear(now),
            Command::Press(key) => self.press(now, key),
            Command::CreateItem { id, place, given } => self.create_item(now, id, place, given)?,
            Command::DeleteItem(id) => self.delete_item(id)?,
            Command::TruncateItem { item, audio_end_ms } => self.truncate_item(item, audio_end_ms)?,
            Command::CreateResponse(wish) => self.create_response(now, *wish)?,
            Command::CancelResponse(id) => self.cancel_response(now, id)?,
            Command::EndHandOver(end) => self.end_hand_over(end)?,
            Command::Resume => self.resume(now)?,
            Command::StopPlayback => self.stop_playback(now)?,
        }
        if !is_update {
            // A client that is at work has said how it wants its audio.
            self.notice_goes_first(now);
        }
        self.settle(now);
        Ok(())
    }

    fn update(&mut self, now: Duration, settings: Settings) {
        match (&self.settings.turn_detection, &settings.turn_detection) {
            (Some(_), None) => {
                // What was heard of a turn in progress stays, for the client to commit.
                self.buffer_from = self.buffer_from.max(self.needed_from());
                self.listener.forget(self.buffer_from);
                self.listener.skip_to(self.arrived);
                self.throw_away(now);
                self.turn_item = None;
                self.asked_turn_model = None;
                self.unheard = false;
            }
            (None, Some(_)) => {
                self.listener.forget(self.arrived);
                self.listener.skip_to(self.arrived);
            }
            _ => {}
        }
        let before = std::mem::replace(&mut self.settings, settings);
        if self.is_deaf() {
            self.pass_over(now);
        }
        self.note_notice();
        self.note_language(before.not_spoken);
    }

    fn commit_by_client(&mut self, now: Duration) -> Result<(), Refusal> {
        self.unless_deaf()?;
        let from = self.needed_from().max(self.buffer_from);
        let ms = samples_to_ms(self.arrived - from.min(self.arrived));
        if ms < COMMIT_MS_MIN {
            return Err(Refusal {
                code: "input_audio_buffer_commit_empty",
                message: format!(
                    "the input audio buffer holds {ms} ms, {COMMIT_MS_MIN} ms is the least that can be committed; append audio first"
                ),
                param: None,
            });
        }
        let item = self.turn_item.take().unwrap_or_else(|| self.ids.item());
        // Whoever commits asks for the answer, too.
        self.unheard = false;
        let range = from..self.arrived;
        self.listener.forget(range.end);
        self.asked_turn_model = None;
        let moments = Moments { speech_end: self.arrival_of(range.end), owed: now, ..Moments::default() };
        self.commit(now, item, range, moments, false);
        Ok(())
    }

    fn clear(&mut self, now: Duration) {
        self.throw_away(now);
        self.listener.forget(self.arrived);
        self.buffer_from = self.arrived;
        if self.turn_item.take().is_some() {
            self.turn_came_to_nothing(Moments { owed: now, ..Moments::default() });
        }
        self.asked_turn_model = None;
        self.emit(Event::Cleared);
    }

    fn create_item(
        &mut self,
        now: Duration,
        id: Option<ItemId>,
        place: Option<Place>,
        given: Given,
    ) -> Result<(), Refusal> {
        let wrong = |code, message: String, param| Err(Refusal { code, message, param: Some(param) });
        if let Some(id) = &id {
            let chars = id.as_str().chars().count();
            if chars == 0 || chars > ID_CHARS_MAX {
                return wrong(
                    "invalid_value",
                    format!("an item id has 1 to {ID_CHARS_MAX} characters, this one has {chars}"),
                    "item.id",
                );
            }
            if self.history.get(id).is_some() {
                let message = "an item with this id is already in the conversation; choose another or leave it out";
                return wrong("item_already_exists", message.into(), "item.id");
            }
        }
        let audio = match &given {
            Given::Audio(samples) => Some(samples.clone()),
            _ => None,
        };
        if audio.is_some() && self.transcribing.len() >= TRANSCRIBING_MAX {
            let message =
                format!("the words of {TRANSCRIBING_MAX} items are being found; wait until they are transcribed");
            return Err(Refusal { code: "rate_limit_exceeded", message, param: None });
        }
        let id = id.unwrap_or_else(|| self.ids.item());
        let item = self.item_of(id, given, &[])?;
        let previous = match place {
            None => self.history.push(item.clone()),
            Some(Place::Beginning) => self.history.insert(None, item.clone()).unwrap_or_default(),
            Some(Place::After(after)) => match self.history.insert(Some(&after), item.clone()) {
                Ok(previous) => previous,
                Err(_) => return Err(no_such_item("previous_item_id")),
            },
        };
        self.greeted = true;
        self.quiet_since = None;
        self.caller_is_there();
        let (id, ms) = (item.id.clone(), item.heard_ms());
        self.emit(Event::ItemAdded { item, previous });
        if let Some(samples) = audio {
            // No turn was heard, so nothing is known of when its speech ended.
            self.last_speech_end = None;
            self.find_given_words(now, id, ms, samples);
        }
        Ok(())
    }

    /// What a client gave as an item. `earlier` are items that it gave with it.
    fn item_of(&self, id: ItemId, given: Given, earlier: &[Item]) -> Result<Item, Refusal> {
        let (role, content) = match given {
            Given::Message(message) => (message.role, Content::Text(message.text)),
            Given::Call(call) => (Role::Assistant, Content::Called(call)),
            Given::Result { call_id, output } => {
                let name_of = |item: &Item| match &item.content {
                    Content::Called(call) if call.call_id == call_id => Some(call.name.clone()),
                    _ => None,
                };
                let name = earlier.iter().chain(self.history.items()).find_map(name_of).ok_or_else(|| Refusal {
                    code: "invalid_tool_call_id",
                    message:
                        "no call with this call_id is in the conversation; send the call_id of its function_call item"
                            .into(),
                    param: Some("item.call_id"),
                })?;
                (Role::System, Content::Returned(ToolResult { call_id, name, output }))
            }
            Given::Audio(samples) => {
                let ms = samples_to_ms(samples.reveal().len() as u64);
                if ms < COMMIT_MS_MIN {
                    return Err(Refusal {
                        code: "invalid_value",
                        message: format!(
                            "the audio is {ms} ms long, {COMMIT_MS_MIN} ms is the least in which words are found"
                        ),
                        param: Some("item.content"),
                    });
                }
                (Role::User, Content::Heard { transcript: None, ms: u32::try_from(ms).unwrap_or(u32::MAX) })
            }
            Given::Reference(of) => return self.history.get(&of).cloned().ok_or_else(|| no_such_item("input")),
        };
        let bytes = match &content {
            Content::Text(text) => text.reveal().len(),
            Content::Called(call) => call.arguments.reveal().len(),
            Content::Returned(result) => result.output.reveal().len(),
            Content::Heard { .. } | Content::Spoken(_) => 0,
        };
        if bytes > ITEM_BYTES_MAX {
            return Err(Refusal {
                code: "string_above_max_length",
                message: format!("an item holds at most {ITEM_BYTES_MAX} bytes of text; send a shorter one"),
                param: Some("item.content"),
            });
        }
        Ok(Item { id, role, content, complete: true })
    }

    fn delete_item(&mut self, item: ItemId) -> Result<(), Refusal> {
        if !self.history.remove(&item) {
            return Err(no_such_item("item_id"));
        }
        self.emit(Event::ItemDeleted { item });
        Ok(())
    }

    fn truncate_item(&mut self, item: ItemId, audio_end_ms: u32) -> Result<(), Refusal> {
        let found = self.history.get_mut(&item).ok_or_else(|| no_such_item("item_id"))?;
        let Content::Spoken(speech) = &mut found.content else {
            return Err(Refusal {
                code: "invalid_value",
                message: "only a spoken item of the assistant can be truncated".into(),
                param: Some("item_id"),
            });
        };
        let ms = speech.ms();
        if audio_end_ms > ms {
            return Err(Refusal {
                code: "invalid_value",
                message: format!("audio_end_ms is {audio_end_ms}, but the item's audio is {ms} ms long"),
                param: Some("audio_end_ms"),
            });
        }
        speech.heard_ms = Some(audio_end_ms);
        speech.heard_by_client = true;
        self.emit(Event::ItemTruncated { item, audio_end_ms });
        Ok(())
    }

    fn create_response(&mut self, now: Duration, mut wish: Wish) -> Result<(), Refusal> {
        let beside = self.runs_beside(&wish);
        let waits = self.notice_goes_first(now) || (!beside && self.language_is_told());
        if wish.out_of_band && self.are_beside() >= BESIDE_MAX {
            return Err(Refusal {
                code: "rate_limit_exceeded",
                message: format!(
                    "{BESIDE_MAX} responses outside of the conversation are in progress or wait; ask for more when one has ended"
                ),
                param: None,
            });
        }
        // On one track an answer beside the conversation is heard behind the one in progress, and behind those that wait.
        let in_line = wish.out_of_band && !beside && (self.answer.is_some() || !self.held.is_empty());
        let holds = wish.out_of_band || (waits && self.held.iter().all(|held| held.wish.out_of_band));
        let waits = waits || in_line;
        if let Some(active) = self.answering().filter(|_| !holds) {
            return Err(Refusal {
                code: "conversation_already_has_active_response",
                message: format!(
                    "response {} is still in progress; wait until it has ended or cancel it",
                    active.as_str()
                ),
                param: None,
            });
        }
        if waits && !holds {
            // Nothing is in progress, because the notice cannot be said.
            self.unless_notice_is_on()?;
        }
        // The speech that this answers is that of the latest audio, unless something typed came after it.
        let heard_last = self.history.items().next_back().is_some_and(|i| matches!(i.content, Content::Heard { .. }));
        let speech_end = self.last_speech_end.filter(|_| heard_last);
        let tools = self.settings.tools.with(wish.tools.take(), wish.tool_choice.take()).map_err(|error| Refusal {
            code: "invalid_value",
            message: error.to_string(),
            param: Some(if error == ToolError::NoSuchTool { "response.tool_choice" } else { "response.tools" }),
        })?;
        let mut input = None;
        if let Some(given) = wish.input.take() {
            let mut items = Vec::with_capacity(given.len());
            for given in given {
                if matches!(given, Given::Audio(_)) {
                    return Err(Refusal {
                        code: "unsupported_value",
                        message: "audio is not taken as input of one response; create an item of it and refer to that"
                            .into(),
                        param: Some("response.input"),
                    });
                }
                // They have no name, because nobody can ask for them.
                items.push(self.item_of(ItemId::from_client(""), given, &items)?);
            }
            input = Some(items);
        }
        // What this node does goes on by itself, in the conversation; an answer beside it could not.
        let own = input.is_none() && !wish.out_of_band;
        let material = Material { input, tools: if own { tools } else { tools.of_client() } };
        let moments = Moments { owed: now, speech_end, ..Moments::default() };
        if waits {
            self.held.push_back(Held { wish, material, moments });
        } else if beside {
            self.begin_beside(now, wish, material, moments);
        } else {
            self.begin_answer(now, wish, material, moments);
        }
        Ok(())
    }

    /// Without a name this is about the answer of the conversation.
    fn cancel_response(&mut self, now: Duration, id: Option<ResponseId>) -> Result<(), Refusal> {
        if let Some(id) = id.as_ref().filter(|id| self.is_beside(id)) {
            self.end(now, id, Status::Cancelled);
            return Ok(());
        }
        if self.answer.as_ref().is_some_and(|answer| answer.source == Some(AnsweredBy::Notice)) {
            self.unless_notice_is_on()?;
        }
        let active = self.answering().filter(|active| id.as_ref().is_none_or(|id| id == *active));
        if active.is_none() {
            return Err(Refusal {
                code: "response_cancel_not_active",
                message: "no such response is in progress, so nothing was cancelled".into(),
                param: None,
            });
        }
        self.end_answer(now, Status::Cancelled);
        Ok(())
    }

    fn stop_playback(&mut self, now: Duration) -> Result<(), Refusal> {
        self.unless_notice_is_on()?;
        let cut = self.history.cut_playback(now);
        self.playback.stop(now);
        self.end_answer(now, Status::Cancelled);
        self.quiet_since = self.quiet_since.map(|_| now);
        // Nothing of it is to be taken up again.
        self.unheard = false;
        self.forget_interrupted();
        for (item, audio_end_ms) in cut {
            self.emit(Event::ItemTruncated { item, audio_end_ms });
        }
        Ok(())
    }
}

fn no_such_item(param: &'static str) -> Refusal {
    Refusal {
        code: "item_not_found",
        message: "no item with this id is in the conversation".into(),
        param: Some(param),
    }
}
