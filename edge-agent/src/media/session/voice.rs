//! The voice of a session: there is one, that of the assistant.
//!
//! A speech model is one voice, and a node has one speech model live, so a name chooses nothing. Clients name voices of other houses all
//! the same, and whole sessions again and again, so a name is taken and the session shows the voice that is in use. As in the OpenAI API
//! a voice cannot be changed once the caller has heard it; who names the same one again changes nothing.

use super::fields::WireError;

/// The voice of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voice {
    in_use: String,
    /// What the client called it last.
    named: Option<String>,
    heard: bool,
}

impl Voice {
    /// The voice of an assistant, which nobody has heard yet.
    pub fn new(name: &str) -> Self {
        Self { in_use: name.to_owned(), named: None, heard: false }
    }

    /// The voice that speaks.
    pub fn in_use(&self) -> &str {
        &self.in_use
    }

    /// Audio of it was sent.
    pub fn was_heard(&mut self) {
        self.heard = true;
    }

    /// The client names a voice. `at` is the field in which it does.
    ///
    /// # Errors
    /// When it is another one than before, and the caller has heard the voice.
    pub fn choose(&mut self, name: &str, at: impl Fn() -> String) -> Result<(), WireError> {
        if name == self.in_use || self.named.as_deref() == Some(name) {
            return Ok(());
        }
        if self.heard {
            return Err(WireError {
                code: "cannot_update_voice",
                message: format!(
                    "the voice cannot be changed once its audio was sent; leave {} out, or begin another session",
                    at()
                ),
                param: Some(at()),
            });
        }
        self.named = Some(name.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_until_the_voice_was_heard_and_then_only_again() {
        let mut voice = Voice::new("heart");
        let mut choose = |heard: bool, name: &str| {
            if heard {
                voice.was_heard();
            }
            let chosen = voice.choose(name, || "session.audio.output.voice".into());
            assert_eq!(voice.in_use(), "heart");
            chosen.map_err(|error| (error.code, error.param))
        };
        let refused = Err(("cannot_update_voice", Some("session.audio.output.voice".to_owned())));
        assert_eq!(choose(false, "alloy"), Ok(()));
        assert_eq!(choose(false, "marin"), Ok(()));
        assert_eq!(choose(true, "marin"), Ok(()), "again");
        assert_eq!(choose(true, "heart"), Ok(()), "the one in use");
        assert_eq!(choose(true, "alloy"), refused);
    }
}
