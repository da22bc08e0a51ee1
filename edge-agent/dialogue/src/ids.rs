//! Names of items and responses.

use std::{fmt, sync::Arc};

/// Characters of the longest id a client may choose, as in the OpenAI API.
pub const ID_CHARS_MAX: usize = 64;

/// The name of a conversation item.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemId(Arc<str>);

/// The name of a response.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResponseId(Arc<str>);

impl ItemId {
    /// An id that a client chose. Its length is checked where the item is created.
    pub fn from_client(id: &str) -> Self {
        Self(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ResponseId {
    /// An id as a client gives it back.
    pub fn from_client(id: &str) -> Self {
        Self(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ResponseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes ids that are unique across calls, from a seed that the shell draws once: the machine itself knows no chance.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    seed: Arc<str>,
    made: u32,
}

impl Ids {
    pub fn new(seed: &str) -> Self {
        Self { seed: seed.into(), made: 0 }
    }

    pub fn item(&mut self) -> ItemId {
        self.made += 1;
        ItemId(format!("item_{}{:05}", self.seed, self.made).into())
    }

    /// A name for a call of a function.
    pub fn call(&mut self) -> String {
        self.made += 1;
        format!("call_{}{:05}", self.seed, self.made)
    }

    pub fn response(&mut self) -> ResponseId {
        self.made += 1;
        ResponseId(format!("resp_{}{:05}", self.seed, self.made).into())
    }
}
