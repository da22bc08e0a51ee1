//! The first 16 bytes of a control stream, in both directions. They never change, so that any two versions can at least
//! tell each other what they speak.

/// Bytes of a hello.
pub const HELLO_BYTES: usize = 16;

/// The first 12 bytes of every hello. The line ends and the zero catch transports that are not eight-bit clean.
pub const HELLO_MAGIC: [u8; 12] = *b"nearfield\r\n\0";

/// The lowest version of the control protocol that this build speaks.
pub const VERSION_MIN: u16 = 1;

/// The highest version of the control protocol that this build speaks.
pub const VERSION_MAX: u16 = 2;

/// The first version in which a state names its manifests instead of carrying them.
pub const VERSION_NAMES_MANIFESTS: u16 = 2;

/// The range of protocol versions that one side speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Lowest version spoken.
    pub min: u16,
    /// Highest version spoken.
    pub max: u16,
}

/// Why a control stream ended at its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The magic is missing.
    #[error(
        "the other side does not speak the Nearfield control protocol; check that the address is a control plane's"
    )]
    NotNearfield,
    /// Lowest above highest.
    #[error("the other side states an empty range of versions ({min} to {max})")]
    EmptyRange {
        /// Lowest version stated.
        min: u16,
        /// Highest version stated.
        max: u16,
    },
    /// Nothing in common.
    #[error(
        "the other side speaks versions {their_min} to {their_max}, this one {our_min} to {our_max}; upgrade the older one"
    )]
    NoCommonVersion {
        /// Our lowest.
        our_min: u16,
        /// Our highest.
        our_max: u16,
        /// Their lowest.
        their_min: u16,
        /// Their highest.
        their_max: u16,
    },
}

impl Hello {
    /// What this build speaks.
    pub const OURS: Hello = Hello { min: VERSION_MIN, max: VERSION_MAX };

    /// The 16 bytes: magic, lowest and highest version as big-endian `u16`.
    pub fn to_bytes(self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..12].copy_from_slice(&HELLO_MAGIC);
        bytes[12..14].copy_from_slice(&self.min.to_be_bytes());
        bytes[14..].copy_from_slice(&self.max.to_be_bytes());
        bytes
    }

    /// Reads the other side's 16 bytes.
    pub fn from_bytes(bytes: &[u8; HELLO_BYTES]) -> Result<Self, HelloError> {
        if bytes[..12] != HELLO_MAGIC {
            return Err(HelloError::NotNearfield);
        }
        let hello =
            Self { min: u16::from_be_bytes([bytes[12], bytes[13]]), max: u16::from_be_bytes([bytes[14], bytes[15]]) };
        if hello.min > hello.max {
            return Err(HelloError::EmptyRange { min: hello.min, max: hello.max });
        }
        Ok(hello)
    }

    /// The version to speak with someone who said `theirs`: the highest that both know.
    pub fn agree(self, theirs: Hello) -> Result<u16, HelloError> {
        let version = self.max.min(theirs.max);
        if version < self.min.max(theirs.min) {
            return Err(HelloError::NoCommonVersion {
                our_min: self.min,
                our_max: self.max,
                their_min: theirs.min,
                their_max: theirs.max,
            });
        }
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hello_bytes_are_frozen() {
        // Never edit this literal: a deployed agent sends exactly these bytes.
        assert_eq!(
            Hello { min: 1, max: 1 }.to_bytes(),
            [0x6e, 0x65, 0x61, 0x72, 0x66, 0x69, 0x65, 0x6c, 0x64, 0x0d, 0x0a, 0x00, 0x00, 0x01, 0x00, 0x01]
        );
        assert_eq!((super::super::ALPN, super::super::ENROL_ALPN), (&b"nearfield/1"[..], &b"nearfield-enrol/1"[..]));
    }

    #[test]
    fn the_highest_common_version_is_spoken() {
        let check = |a: (u16, u16), b: (u16, u16), expect: Option<u16>| {
            let (a, b) = (Hello { min: a.0, max: a.1 }, Hello { min: b.0, max: b.1 });
            assert_eq!(a.agree(b).ok(), expect, "{a:?} {b:?}");
            assert_eq!(b.agree(a).ok(), expect, "{b:?} {a:?}");
        };
        check((1, 1), (1, 1), Some(1));
        check((1, 3), (2, 5), Some(3));
        check((1, 2), (3, 4), None);
        check((3, 3), (1, 9), Some(3));
    }

    #[test]
    fn other_bytes_are_named_for_what_they_are() {
        assert_eq!(Hello::from_bytes(b"GET / HTTP/1.1\r\n"), Err(HelloError::NotNearfield));
        let backwards = Hello { min: 2, max: 1 }.to_bytes();
        assert_eq!(Hello::from_bytes(&backwards), Err(HelloError::EmptyRange { min: 2, max: 1 }));
        assert_eq!(Hello::from_bytes(&Hello::OURS.to_bytes()), Ok(Hello::OURS));
    }
}
