//! Client secrets: keys that last some minutes, for callers to whom nobody would give the node's own key.
//!
//! `POST /v1/realtime/client_secrets` makes one, bound to the session that it opens. It opens calls and nothing else, any number
//! of them until it expires, and lives in this process only: another node does not know it, nor does this one after a restart.

use super::session::{WireError, object};
use aws_lc_rs::rand;
use base64::Engine as _;
use serde_json::{Map, Value};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Secrets that live at once. One is some hundred bytes, its session at most [`BODY_BYTES_MAX`].
pub const SECRETS_MAX: usize = 1_024;

/// Bytes of the request for one.
pub const BODY_BYTES_MAX: usize = 32 * 1024;

/// How every secret begins, as OpenAI's do.
pub const PREFIX: &str = "ek_";

/// Seconds that a secret lasts: the least, the most, and where nothing is said, as in the OpenAI API.
const LASTS_S: (u64, u64, u64) = (10, 7_200, 600);

/// Why there is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoSecret {
    /// Too many live ones.
    #[error(
        "{SECRETS_MAX} client secrets are in force, which is the most; make them shorter-lived, or try again later"
    )]
    Full,
    /// The system gives no random numbers.
    #[error("no random numbers are to be had from this system")]
    NoRandom,
}

/// The secrets in force on a node. Cheap to clone.
#[derive(Clone, Default)]
pub struct ClientSecrets(Arc<Mutex<Vec<Secret>>>);

struct Secret {
    /// Of the secret, which is not kept.
    digest: blake3::Hash,
    expires: Instant,
    session: Arc<Map<String, Value>>,
}

impl ClientSecrets {
    /// Makes a secret for this session.
    ///
    /// # Errors
    /// When [`SECRETS_MAX`] are in force.
    pub fn make(&self, session: Map<String, Value>, lasts: Duration) -> Result<String, NoSecret> {
        let mut bytes = [0u8; 32];
        rand::fill(&mut bytes).map_err(|_| NoSecret::NoRandom)?;
        let value = format!("{PREFIX}{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes));
        let now = Instant::now();
        let mut secrets = self.lock();
        secrets.retain(|secret| secret.expires > now);
        if secrets.len() >= SECRETS_MAX {
            return Err(NoSecret::Full);
        }
        let digest = blake3::hash(value.as_bytes());
        secrets.push(Secret { digest, expires: now + lasts, session: Arc::new(session) });
        Ok(value)
    }

    /// The session that this secret opens, while it lasts.
    pub fn find(&self, presented: &str) -> Option<Arc<Map<String, Value>>> {
        if !presented.starts_with(PREFIX) {
            return None;
        }
        let (digest, now) = (blake3::hash(presented.as_bytes()), Instant::now());
        let secrets = self.lock();
        // Digests are compared in constant time, and all of them, so that time tells nothing about a secret.
        let mut found = None;
        for secret in secrets.iter().filter(|secret| secret.expires > now) {
            if secret.digest == digest {
                found = Some(Arc::clone(&secret.session));
            }
        }
        found
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Secret>> {
        // Every change is whole before anything that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is asked for: a session, and how long the secret lasts.
#[derive(Debug, PartialEq)]
pub struct Wanted {
    /// The client's `session` object; empty where there is none.
    pub session: Map<String, Value>,
    /// How long the secret lasts.
    pub lasts: Duration,
}

/// Reads the body of a request.
pub fn read(body: &[u8]) -> Result<Wanted, WireError> {
    let value = if body.is_empty() { Value::Object(Map::new()) } else { parsed(body)? };
    let mut wanted = Wanted { session: Map::new(), lasts: Duration::from_secs(LASTS_S.2) };
    for (key, value) in object(&value, || "body".into())? {
        match key.as_str() {
            "session" if value.is_null() => {}
            "session" => wanted.session = object(value, || "session".into())?.clone(),
            "expires_after" if value.is_null() => {}
            "expires_after" => wanted.lasts = lasts(object(value, || "expires_after".into())?)?,
            _ => return Err(super::session::unknown(key.clone())),
        }
    }
    Ok(wanted)
}

fn parsed(body: &[u8]) -> Result<Value, WireError> {
    serde_json::from_slice(body).map_err(|e| WireError {
        code: "invalid_json",
        message: format!("the body is not JSON (line {}, column {})", e.line(), e.column()),
        param: None,
    })
}

fn lasts(after: &Map<String, Value>) -> Result<Duration, WireError> {
    if after.get("anchor").is_some_and(|anchor| anchor != "created_at") {
        return Err(WireError::at("expires_after.anchor", "expires_after.anchor is created_at"));
    }
    let (least, most, usual) = LASTS_S;
    let seconds = after.get("seconds").map_or(Some(usual), Value::as_u64).filter(|s| (least..=most).contains(s));
    seconds.map(Duration::from_secs).ok_or_else(|| {
        WireError::at(
            "expires_after.seconds",
            format!("expires_after.seconds is a whole number from {least} to {most}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(model: &str) -> Map<String, Value> {
        Map::from_iter([("model".to_owned(), Value::from(model))])
    }

    #[test]
    fn a_secret_opens_its_session_until_it_expires() {
        let secrets = ClientSecrets::default();
        let a = secrets.make(session("a"), Duration::from_secs(60)).expect("made");
        let b = secrets.make(session("b"), Duration::ZERO).expect("made");
        assert!(a.starts_with(PREFIX) && a.len() == 46 && a != b);
        assert_eq!(secrets.find(&a).as_deref(), Some(&session("a")));
        assert_eq!(secrets.find(&b), None, "expired");
        for wrong in ["", PREFIX, &a[..a.len() - 1], &format!("{a}x"), "sk-else"] {
            assert_eq!(secrets.find(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn there_is_a_most_and_expired_ones_make_room() {
        let secrets = ClientSecrets::default();
        (0..SECRETS_MAX - 1).for_each(|_| drop(secrets.make(Map::new(), Duration::from_secs(60)).expect("room")));
        secrets.make(Map::new(), Duration::ZERO).expect("room");
        secrets.make(Map::new(), Duration::from_secs(60)).expect("in the place of the expired one");
        assert_eq!(secrets.make(Map::new(), Duration::from_secs(60)), Err(NoSecret::Full));
    }

    #[test]
    fn what_is_asked_for_is_read() {
        let read = |body: &str| super::read(body.as_bytes());
        assert_eq!(read("").map(|wanted| wanted.lasts), Ok(Duration::from_secs(600)));
        let whole = read(r#"{"session": {"model": "x"}, "expires_after": {"anchor": "created_at", "seconds": 30}}"#);
        assert_eq!(whole, Ok(Wanted { session: session("x"), lasts: Duration::from_secs(30) }));
        let param = |body: &str| read(body).expect_err(body).param;
        assert_eq!(param(r#"{"expires_after": {"seconds": 5}}"#).as_deref(), Some("expires_after.seconds"));
        assert_eq!(param(r#"{"expires_after": {"anchor": "later"}}"#).as_deref(), Some("expires_after.anchor"));
        assert_eq!(param(r#"{"session": 5}"#).as_deref(), Some("session"));
        assert_eq!(param(r#"{"sesion": {}}"#).as_deref(), Some("sesion"));
        assert_eq!(param("{").as_deref(), None);
    }
}
