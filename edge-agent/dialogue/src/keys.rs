//! Keys of a telephone (DTMF): digits that belong together become one text, as the model is told of them.

use nearfield_shared::pii::Pii;
use std::{fmt, time::Duration};

/// Without another key for this long, what was typed is whole. Telephone menus wait three to five seconds between two digits.
pub const NEXT_KEY_MAX: Duration = Duration::from_secs(3);

/// Keys that are taken together; then they are whole. The longest numbers that people type, those of accounts, have 34 places.
pub const KEYS_MAX: usize = 40;

/// The key that says that a number is whole.
const LAST: char = '#';

/// One key: `0` to `9`, `*`, `#`, or `A` to `D`. It may be part of a secret number, so it does not print.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key(char);

impl Key {
    /// The key with this sign on it, if there is one.
    pub fn new(sign: char) -> Option<Self> {
        let sign = sign.to_ascii_uppercase();
        matches!(sign, '0'..='9' | '*' | '#' | 'A'..='D').then_some(Self(sign))
    }

    /// The sign on it.
    pub fn sign(self) -> char {
        self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// The keys that were pressed and are not whole yet.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    pressed: Pii<String>,
    last: Duration,
}

impl Keys {
    /// A key was pressed. Says whether what was typed is whole now.
    pub fn press(&mut self, now: Duration, key: Key) -> bool {
        self.pressed = std::mem::take(&mut self.pressed).map(|pressed| pressed + key.0.encode_utf8(&mut [0; 4]));
        self.last = now;
        key.0 == LAST || self.pressed.reveal().len() >= KEYS_MAX
    }

    /// When what was typed is whole although no key says so.
    pub fn whole_at(&self) -> Option<Duration> {
        (!self.pressed.reveal().is_empty()).then(|| self.last + NEXT_KEY_MAX)
    }

    /// What was typed, as the model is told of it: `[keys: 1234#]`. Begins anew.
    pub fn take(&mut self) -> Pii<String> {
        std::mem::take(&mut self.pressed).map(|pressed| format!("[keys: {pressed}]"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_sixteen_keys_and_none_prints() {
        let keys: String = ('\0'..='\u{ff}').filter_map(Key::new).map(Key::sign).collect();
        assert_eq!(keys, "#*0123456789ABCDABCD", "small letters are the same keys");
        assert_eq!(format!("{:?}", Key::new('7')), "Some(Key)");
    }

    #[test]
    fn a_number_is_whole_at_its_end_mark_or_when_it_is_too_long() {
        let mut keys = Keys::default();
        let mut press = |sign| keys.press(Duration::ZERO, Key::new(sign).expect("a key"));
        assert_eq!(
            ["1", "*", "2", "#"].map(|sign| press(sign.chars().next().expect("one"))),
            [false, false, false, true]
        );
        assert_eq!(keys.take().reveal(), "[keys: 1*2#]");
        assert_eq!(keys.whole_at(), None);
        let mut press = |_| keys.press(Duration::from_secs(1), Key::new('5').expect("a key"));
        assert_eq!((0..KEYS_MAX).position(&mut press), Some(KEYS_MAX - 1));
        assert_eq!(keys.whole_at(), Some(Duration::from_secs(1) + NEXT_KEY_MAX));
    }
}
