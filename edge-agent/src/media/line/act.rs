//! Does what the conversation wants, and tells the client.

use super::Line;
use crate::{
    assistants::{PhraseKey, digest},
    control::unix_now_s,
    hand_over::Notice,
    media::{
        client_event::Dialect,
        codec::Format,
        ear,
        jobs::{Wanted, fault},
        outbox::Overflow,
        phrase::{KeepIn, Phrase},
        server_event::{self, DELTA_MS, Usage},
        session::WireError,
        transport::{Goodbye, code},
    },
    speech::SPOKEN_HZ,
};
use base64::Engine as _;
use nearfield_dialogue::{
    events::{Event, Fault, HandOverEnd, HandOverReason, Output, Status},
    ids::{ItemId, ResponseId},
};
use nearfield_shared::artefact::Stage;
use serde_json::{Value, json};
use std::time::Instant;
use uuid::Uuid;

impl Line {
    /// Does what the conversation wants, until it wants nothing more.
    pub(super) fn pump(&mut self) -> Result<(), Overflow> {
        loop {
            while let Some(output) = self.call.poll_output() {
                self.act(output)?;
            }
            let Some(from) = self.call.listens_from() else { return Ok(()) };
            let noticed = self.ear.listen(from, &self.heard, &mut self.jobs);
            if !self.noticed(noticed)? {
                return Ok(());
            }
        }
    }

    /// Passes on what the ear noticed; says whether the conversation heard of it.
    pub(super) fn noticed(&mut self, noticed: ear::Noticed) -> Result<bool, Overflow> {
        if let Some(trouble) = &noticed.trouble {
            self.send(server_event::server_error(&fault(trouble)))?;
        }
        let Some(input) = noticed.input else { return Ok(false) };
        self.call.handle(self.now(), input);
        Ok(true)
    }

    fn act(&mut self, output: Output) -> Result<(), Overflow> {
        match output {
            Output::AskTurn { question, range, due } => {
                self.jobs.ask_turn(question, self.heard.part(range), self.began + due);
            }
            Output::Transcribe { item, attempt, range, partial } => {
                self.jobs.transcribe(item, attempt, self.heard.part(range), partial);
            }
            Output::TranscribeGiven { item, attempt, samples } => {
                self.jobs.transcribe(item, attempt, samples.into_inner(), false);
            }
            Output::GiveUpWords { item } => self.jobs.give_up(&item),
            // The detector never needs anything from before where the conversation listens.
            Output::Release { before } => self.heard.release(before),
            Output::Match { response, question, due, beside } => {
                self.jobs.find(response, question, Wanted { due: self.began + due, beside });
            }
            Output::Generate { response, prompt, tokens_max, due, beside } => {
                let chars = prompt.iter().map(|m| m.text.reveal().chars().count()).sum();
                self.prompt_chars.insert(response.clone(), chars);
                self.jobs.generate(response, prompt, tokens_max, Wanted { due: self.began + due, beside });
            }
            Output::StopGenerating { response } => self.jobs.stop_generating(&response),
            Output::Speak { response, phrase, text, keep, due, beside } => {
                // Models may have been swapped since the call began.
                let served = || digest(&self.start.services.serving.borrow(), Stage::Tts);
                let model = self.jobs.candidate_voice(&response).or_else(served);
                let keep = keep.then(|| KeepIn {
                    assistants: self.start.assistants.clone(),
                    key: PhraseKey {
                        model,
                        voice: self.session.voice.in_use().to_owned(),
                        speed_permille: (self.session.speed * 1000.0).round() as u32,
                        text: text.reveal().clone(),
                    },
                });
                let of = Phrase { response, phrase, wanted: Wanted { due: self.began + due, beside } };
                self.jobs.speak(of, text, self.session.speed, keep);
            }
            Output::Audio { response, item, samples, format, opens } => {
                // The API knows no words before the client's first, after which clients still choose their voice.
                if !opens {
                    self.session.voice.was_heard();
                }
                let format = format.and_then(Format::named).unwrap_or(self.session.output);
                self.send_audio(&response, &item, &samples, format)?;
            }
            Output::Cancel { response } => {
                self.jobs.cancel(&response);
                self.out.outbox.take_back(&response);
                self.prompt_chars.remove(&response);
            }
            Output::Hush { response } => {
                self.jobs.hush(&response);
                self.out.outbox.take_back(&response);
            }
            Output::CallFunction(call) => self.jobs.call_function(call),
            Output::PutThrough => self.jobs.put_through(self.start.put_through.clone()),
            Output::Event(event) => self.tell(&event)?,
        }
        Ok(())
    }

    fn tell(&mut self, event: &Event) -> Result<(), Overflow> {
        self.jobs.note(event);
        self.figures.note(event);
        let mut usage = Usage::default();
        match event {
            Event::Transcribed { ms, .. } => {
                self.heard_ms = self.heard_ms.saturating_add(*ms);
                if self.session.transcription.is_none() {
                    return Ok(());
                }
            }
            Event::TranscriptionFailed { .. } if self.session.transcription.is_none() => return Ok(()),
            Event::ResponseEnded(ended) => {
                let heard_ms = if ended.about.in_conversation { std::mem::take(&mut self.heard_ms) } else { 0 };
                let prompt_chars = self.prompt_chars.remove(&ended.about.response).unwrap_or_default();
                usage = Usage { prompt_chars, heard_ms };
                if let Status::Failed(Fault { code, message }) = &ended.status {
                    tracing::warn!(call = %self.id, code, message, "an answer failed");
                }
            }
            _ => {}
        }
        self.tell_track(event);
        for shown in self.wire().events(event, usage) {
            self.send(shown)?;
        }
        if let Event::Interrupted { item: Some(item), heard_ms } = event
            && self.out.track.is_some()
        {
            // Whoever plays the audio knows what was heard of it, and tells the other side.
            let cut = Event::ItemTruncated { item: item.clone(), audio_end_ms: *heard_ms };
            self.wire().events(&cut, usage).into_iter().try_for_each(|shown| self.send(shown))?;
        }
        match event {
            Event::HandedOver { reason, .. } => self.hand_over(*reason),
            Event::ResponseCreated(_) => self.send_limits()?,
            Event::HandOverEnded { end: HandOverEnd::Transferred } => {
                self.over = Goodbye::some(code::NORMAL, "the caller is put through to a person");
            }
            Event::Goodbye => self.over = Goodbye::some(code::NORMAL, "the caller said nothing any more"),
            Event::NoticeFailed => {
                tracing::error!(call = %self.id, "the notice that this region demands cannot be spoken; the call is ended");
                let reason =
                    "this node cannot speak the notice that its region demands; ask for another one at /v1/route";
                self.over = Goodbye::some(code::GOING_AWAY, reason);
            }
            _ => {}
        }
        Ok(())
    }

    /// Tells whoever finds a person, where the assistant's file names them.
    fn hand_over(&mut self, reason: HandOverReason) {
        let rules = &self.start.desk.assistant.hand_over;
        let Some(hook) = rules.webhook.clone() else { return };
        let id = Uuid::new_v4();
        let notice = Notice {
            id,
            call: self.id,
            node: &self.start.services.node,
            assistant: &self.start.desk.assistant.name,
            reason,
            consent: self.session.consent,
            history: self.call.history(),
        };
        let now_unix_s = unix_now_s().max(0).unsigned_abs();
        let shown = notice.show(&self.start.serving, now_unix_s);
        self.jobs.hand_over(hook, id, shown, Instant::now() + rules.wait());
    }

    /// Audio that plays by itself is stopped here; a client that plays events stops them itself.
    fn tell_track(&mut self, event: &Event) {
        let Some(track) = &mut self.out.track else { return };
        match event {
            Event::Interrupted { .. } => track.clear(),
            Event::ResponseEnded(ended) => {
                let response = &ended.about.response;
                match ended.status {
                    Status::Interrupted | Status::Cancelled if ended.about.in_conversation => track.clear(),
                    Status::Interrupted | Status::Cancelled => track.take_back(response),
                    Status::Completed | Status::CutOff | Status::Failed(_) => track.end(response),
                }
            }
            _ => {}
        }
    }

    /// `rate_limits.updated`: the calls that this node takes are the one limit there is.
    fn send_limits(&mut self) -> Result<(), Overflow> {
        let calls = &self.start.services.calls;
        let remaining = calls.calls_max().saturating_sub(calls.inside());
        self.send(json!({
            "type": "rate_limits.updated",
            "rate_limits": [
                { "name": "requests", "limit": calls.calls_max(), "remaining": remaining, "reset_seconds": 0.0 },
            ],
        }))
    }

    fn send_audio(
        &mut self,
        response: &ResponseId,
        item: &ItemId,
        samples: &[f32],
        format: Format,
    ) -> Result<(), Overflow> {
        if let Some(track) = &mut self.out.track {
            return track.play(response, samples);
        }
        let samples = if format.rate_hz() == SPOKEN_HZ {
            samples.to_vec()
        } else {
            // Each phrase is converted whole: phrases are cut in silence, where nothing has to be carried over.
            crate::media::resample::resample(samples, SPOKEN_HZ, format.rate_hz()).unwrap_or_default()
        };
        let per_delta = (format.rate_hz() * DELTA_MS / 1000) as usize;
        for chunk in samples.chunks(per_delta) {
            let base64 = base64::engine::general_purpose::STANDARD.encode(format.encode(chunk));
            let delta = server_event::audio_delta(response.as_str(), item, &base64);
            self.send_as(delta, Some(response.clone()))?;
        }
        Ok(())
    }

    pub(super) fn refuse(&mut self, error: &WireError, client_event_id: Option<&str>) -> Result<(), Overflow> {
        self.send(server_event::error(error, client_event_id))
    }

    pub(super) fn send(&mut self, event: Value) -> Result<(), Overflow> {
        self.send_as(event, None)
    }

    fn send_as(&mut self, mut event: Value, audio_of: Option<ResponseId>) -> Result<(), Overflow> {
        if self.start.dialect == Dialect::Beta {
            match server_event::beta::translate(event) {
                Some(translated) => event = translated,
                None => return Ok(()),
            }
        }
        self.events_sent += 1;
        event["event_id"] = json!(format!("event_{}{:07}", &self.id.simple().to_string()[..16], self.events_sent));
        self.out.outbox.push(event.to_string(), audio_of)
    }
}
