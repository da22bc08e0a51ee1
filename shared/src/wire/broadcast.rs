//! What is told to many nodes in the same words: its frame is made once, when it is first sent, and shared by all links.

use super::frame::{Frame, FrameError, Limit};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    ops::Deref,
    sync::{Arc, OnceLock},
};

/// The body of a message, and its frame once there is one. Clones share both.
pub struct Broadcast<T>(Arc<Inner<T>>);

struct Inner<T> {
    body: T,
    frame: OnceLock<Result<Bytes, FrameError>>,
}

impl<T> From<T> for Broadcast<T> {
    fn from(body: T) -> Self {
        Self(Arc::new(Inner { body, frame: OnceLock::new() }))
    }
}

impl<T> Clone for Broadcast<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Broadcast<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.body
    }
}

impl<T: PartialEq> PartialEq for Broadcast<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || **self == **other
    }
}

impl<T: fmt::Debug> fmt::Debug for Broadcast<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Serialize + DeserializeOwned> Broadcast<T> {
    /// The frame's bytes. A body goes out as one kind only, so the first call decides.
    pub(super) fn frame(&self, kind: u8, limit: Limit) -> Result<Bytes, FrameError> {
        self.0.frame.get_or_init(|| Frame::encode(kind, &self.0.body, limit).map(Bytes::from)).clone()
    }

    pub(super) fn read(frame: &Frame) -> Result<Self, FrameError> {
        frame.json::<T>().map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_is_made_once_and_shared() {
        let words = Broadcast::from("hello".to_owned());
        let (first, second) = (words.frame(9, Limit(10)).unwrap(), words.clone().frame(9, Limit(10)).unwrap());
        assert_eq!(&first[..], b"\0\0\0\x08\x09\"hello\"");
        assert_eq!(first.as_ptr(), second.as_ptr());
        let large = Broadcast::from("far too large".to_owned());
        assert_eq!(large.frame(9, Limit(10)), Err(FrameError::TooLarge { bytes: 15, limit: 10 }));
    }
}
