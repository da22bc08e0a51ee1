//! `turn_detection`: how the end of a turn is found, as the wire states it.

use super::fields::{WireError, boolean, number, round, unknown};
use nearfield_dialogue::settings::{EndOfTurn, TurnDetection};
use serde_json::{Value, json};

/// Turn detection as the wire states it.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    eagerness: Option<Eagerness>,
    detection: TurnDetection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Eagerness {
    Low,
    Medium,
    High,
    Auto,
}

impl Eagerness {
    const ALL: [(Eagerness, &'static str); 4] =
        [(Eagerness::Low, "low"), (Eagerness::Medium, "medium"), (Eagerness::High, "high"), (Eagerness::Auto, "auto")];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(eagerness, _)| *eagerness == self).map_or("auto", |(_, name)| name)
    }

    /// How much of the silence that the caller's own pauses suggest is waited for.
    fn percent(self) -> u32 {
        match self {
            Eagerness::Low => 150,
            Eagerness::Medium | Eagerness::Auto => ADAPTS_PERCENT,
            Eagerness::High => 60,
        }
    }

    /// The silence that, before anything is known about the caller, ends a turn although the turn model says no. OpenAI names 8, 4 and 2 s as the most; on a
    /// telephone that is dead air, and our turn model is wrong about one finished utterance in four.
    fn silence_ms_max(self) -> u32 {
        match self {
            Eagerness::Low => 2_500,
            Eagerness::Medium | Eagerness::Auto => 1_500,
            Eagerness::High => 800,
        }
    }
}

/// Of the silence that a caller's own pauses suggest, all is waited for where the client names none itself.
const ADAPTS_PERCENT: u32 = 100;

impl Detection {
    /// What a session begins with: the turn model at each pause, a silence that follows the caller's pauses where it says no.
    pub fn semantic() -> Self {
        let mut detection = Self { eagerness: None, detection: TurnDetection::default() };
        detection.be(Eagerness::Auto);
        detection
    }

    /// What a transcription session begins with: silence alone ends a turn.
    pub fn silence() -> Self {
        let adapts_percent = Some(ADAPTS_PERCENT);
        Self { eagerness: None, detection: TurnDetection { adapts_percent, ..TurnDetection::default() } }
    }

    fn be(&mut self, eagerness: Eagerness) {
        self.eagerness = Some(eagerness);
        self.detection.by = EndOfTurn::Meaning { silence_ms_max: eagerness.silence_ms_max() };
        self.detection.adapts_percent = Some(eagerness.percent());
    }

    /// What the conversation is told of this.
    pub fn settings(&self) -> TurnDetection {
        self.detection.clone()
    }

    pub(super) fn show(&self) -> Value {
        let common = (self.detection.create_response, self.detection.interrupt_response);
        match (self.eagerness, self.detection.by) {
            (None, EndOfTurn::Silence { silence_ms }) => json!({
                "type": "server_vad",
                "threshold": round(self.detection.threshold),
                "prefix_padding_ms": self.detection.prefix_padding_ms,
                "silence_duration_ms": silence_ms,
                "idle_timeout_ms": self.detection.idle_timeout_ms,
                "create_response": common.0,
                "interrupt_response": common.1,
            }),
            (eagerness, _) => json!({
                "type": "semantic_vad",
                "eagerness": eagerness.unwrap_or(Eagerness::Auto).name(),
                "create_response": common.0,
                "interrupt_response": common.1,
            }),
        }
    }

    /// Lays a client's object over what is in force. Another `type` begins from the defaults of that type.
    pub(super) fn merged(current: Option<&Self>, update: &Value) -> Result<Option<Self>, WireError> {
        const AT: &str = "session.audio.input.turn_detection";
        let object = match update {
            Value::Null => return Ok(None),
            Value::Object(object) => object,
            _ => return Err(WireError::at(AT, "turn_detection is an object, or null to decide about turns yourself")),
        };
        let semantic = match object.get("type").and_then(Value::as_str) {
            Some("server_vad") => false,
            Some("semantic_vad") => true,
            None if current.is_some() && !object.contains_key("type") => current.is_some_and(|c| c.eagerness.is_some()),
            _ => return Err(WireError::at(format!("{AT}.type"), "turn_detection.type is server_vad or semantic_vad")),
        };
        let mut new = match current {
            Some(current) if current.eagerness.is_some() == semantic => current.clone(),
            _ if semantic => Self::semantic(),
            _ => Self::silence(),
        };
        for (key, value) in object {
            let at = || format!("{AT}.{key}");
            match (key.as_str(), semantic) {
                ("type", _) => {}
                ("create_response", _) => new.detection.create_response = boolean(value, true, at)?,
                ("interrupt_response", _) => new.detection.interrupt_response = boolean(value, true, at)?,
                ("threshold", false) => new.detection.threshold = number(value, 0.0, 1.0, 0.5, at)?,
                ("prefix_padding_ms", false) => {
                    new.detection.prefix_padding_ms = number(value, 0.0, 5_000.0, 300.0, at)? as u32;
                }
                ("silence_duration_ms", false) => {
                    let silence_ms = number(value, 100.0, 10_000.0, 500.0, at)? as u32;
                    new.detection.by = EndOfTurn::Silence { silence_ms };
                    // A silence that the client names is kept exactly.
                    new.detection.adapts_percent = value.is_null().then_some(ADAPTS_PERCENT);
                }
                ("idle_timeout_ms", false) if value.is_null() => new.detection.idle_timeout_ms = None,
                ("idle_timeout_ms", false) => {
                    new.detection.idle_timeout_ms = Some(number(value, 5_000.0, 30_000.0, 5_000.0, at)? as u32);
                }
                ("eagerness", true) => {
                    let name = value.as_str().unwrap_or("auto");
                    let eagerness = Eagerness::ALL.iter().find(|(_, n)| *n == name).map(|(eagerness, _)| *eagerness);
                    let eagerness = eagerness
                        .filter(|_| value.is_null() || value.is_string())
                        .ok_or_else(|| WireError::at(at(), "eagerness is low, medium, high or auto"))?;
                    new.be(eagerness);
                }
                _ => return Err(unknown(at())),
            }
        }
        Ok(Some(new))
    }
}
