//! `Pii<T>`: what a caller said or what could name them.
//!
//! The wrapper has no `Serialize`, no `Display`, and a `Debug` that prints a mark instead of the value, so content
//! cannot slip into a log line, an error, or a message to the control plane. Taking the value out is a visible act:
//! [`Pii::reveal`] is what a reviewer searches for.

use std::fmt;

/// A value that belongs to a caller. Never prints, never serialises.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Pii<T>(T);

impl<T> Pii<T> {
    /// Wraps a caller's value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// Looks at the value. Use only on the way to the caller, to a model, or into the vault under a permit.
    pub fn reveal(&self) -> &T {
        &self.0
    }

    /// Takes the value out, under the same rule as [`Pii::reveal`].
    pub fn into_inner(self) -> T {
        self.0
    }

    /// Applies a function to the value and keeps the result wrapped.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Pii<U> {
        Pii(f(self.0))
    }
}

impl<T> From<T> for Pii<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T> fmt::Debug for Pii<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pii(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_value() {
        let said = Pii::new("my number is 4711".to_owned());
        let nested = format!("{:?}", Some(vec![said.clone()]));
        assert!(!nested.contains("4711"), "{nested}");
        assert_eq!(said.reveal(), "my number is 4711");
    }
}
