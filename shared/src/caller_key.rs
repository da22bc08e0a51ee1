//! The key that callers present to a listener that other machines can reach.
//!
//! One rule for nodes and the control plane: beyond loopback, whatever is for callers wants the key, over TLS. It comes as
//! `Authorization: Bearer KEY`, or, where a browser cannot set headers, as a WebSocket subprotocol in the way that clients of the
//! Realtime API do it.

use std::path::Path;
use zeroize::Zeroizing;

/// Fewest bytes of a key: 16 random bytes in base64 are 22.
pub const KEY_BYTES_MIN: usize = 20;

/// Prefix of the WebSocket subprotocol that carries the key.
const KEY_SUBPROTOCOL: &str = "openai-insecure-api-key.";

/// A key that is too short to be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("fewer than {KEY_BYTES_MIN} bytes can be guessed; make a key with `head -c 24 /dev/urandom | base64`")]
pub struct ShortKey;

/// The key. Wiped when dropped; never prints.
pub struct CallerKey(Zeroizing<Vec<u8>>);

impl CallerKey {
    /// The key in what a file holds; white space around it does not count.
    ///
    /// # Errors
    /// When it is short enough to be guessed.
    pub fn new(file: &[u8]) -> Result<Self, ShortKey> {
        let key = file.trim_ascii();
        if key.len() < KEY_BYTES_MIN { Err(ShortKey) } else { Ok(Self(Zeroizing::new(key.to_vec()))) }
    }

    /// Whether a request may come in, by its header `Authorization` and the values of `Sec-WebSocket-Protocol`. Takes the same time
    /// for every wrong key of the right length.
    pub fn admits<'a>(&self, authorization: Option<&'a str>, protocols: impl IntoIterator<Item = &'a str>) -> bool {
        presented(authorization, protocols).is_some_and(|presented| {
            aws_lc_rs::constant_time::verify_slices_are_equal(presented.as_bytes(), &self.0).is_ok()
        })
    }

    /// What to tell the operator of a listener whose key file is missing.
    pub fn missing(path: &Path) -> String {
        let path = path.display();
        format!(
            "{path} is missing; make one with `(umask 077; head -c 24 /dev/urandom | base64 > {path})` and give it to your callers"
        )
    }
}

/// What a request presents as its key: the bearer of `Authorization`, else what stands in the subprotocol for keys.
pub fn presented<'a>(authorization: Option<&'a str>, protocols: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let bearer = authorization.and_then(|value| value.strip_prefix("Bearer "));
    let subprotocol = protocols
        .into_iter()
        .flat_map(|value| value.split(','))
        .find_map(|protocol| protocol.trim().strip_prefix(KEY_SUBPROTOCOL));
    bearer.or(subprotocol).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_taken_as_header_or_subprotocol_and_nothing_else_is() {
        let key = CallerKey::new(b" abcdefghijklmnopqrstuvwx\n").expect("long enough");
        assert!(key.admits(Some("Bearer abcdefghijklmnopqrstuvwx"), []));
        assert!(key.admits(None, ["realtime, openai-insecure-api-key.abcdefghijklmnopqrstuvwx"]));
        assert!(key.admits(None, ["realtime", "openai-insecure-api-key.abcdefghijklmnopqrstuvwx"]));
        for wrong in ["Bearer abcdefghijklmnopqrstuvwy", "Bearer ", "Bearer abcdefghijklmnopqrstuvw", "Basic abc"] {
            assert!(!key.admits(Some(wrong), []), "{wrong}");
        }
        assert!(!key.admits(None, []) && !key.admits(None, ["realtime"]));
    }

    #[test]
    fn a_key_that_can_be_guessed_is_none() {
        assert_eq!(CallerKey::new(b"  short                                ").err(), Some(ShortKey));
        assert_eq!(CallerKey::new(b"").err(), Some(ShortKey));
        assert!(CallerKey::new(&[b'k'; KEY_BYTES_MIN]).is_ok());
    }
}
