//! Names on the wire. Each is a newtype with a narrow character set and a bound, checked when it is made and when it is read.
//!
//! They are the only text that an agent can send besides the closed sets, and each is made from configuration or hardware
//! before any call exists.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                let check: fn(&str) -> bool = $check;
                if check(s) { Ok(Self(s.to_owned())) } else { Err(format!("`{}` {}", s.escape_debug(), $rule)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(s: String) -> Result<Self, Self::Error> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

name!(
    /// The name of a node: 1 to 40 of `a-z`, `0-9` and `-`, for example `fra-1`.
    NodeName,
    |s| {
        (1..=40).contains(&s.len())
            && !s.starts_with('-')
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    },
    "is not a node name: use 1 to 40 of a-z, 0-9 and -, not starting with -"
);

name!(
    /// A program's version, for example `0.1.0`.
    VersionName,
    |s| (1..=32).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)),
    "is not a version: use 1 to 32 letters, digits and + - ."
);

name!(
    /// What a program was built for, as Rust's target triples say it, for example `x86_64-unknown-linux-gnu`.
    TargetName,
    |s| {
        (1..=64).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.".contains(&b))
            && s.as_bytes()[0].is_ascii_lowercase()
    },
    "is not a target: use a triple such as x86_64-unknown-linux-gnu"
);

name!(
    /// The name of a compute device, as its driver states it.
    DeviceName,
    |s| (1..=80).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_graphic() || b == b' '),
    "is not a device name: use 1 to 80 printable ASCII characters"
);

name!(
    /// The base URL of a node's caller API: `http` or `https`, a host, perhaps a port; no path, query or user.
    PublicUrl,
    |s| {
        let host = s.strip_prefix("https://").or_else(|| s.strip_prefix("http://"));
        s.len() <= 200
            && host.is_some_and(|host| {
                !host.is_empty()
                    && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
                    && host.bytes().any(|b| b.is_ascii_alphanumeric())
            })
    },
    "is not a base URL: use http:// or https://, a host and perhaps a port, without a path"
);

impl DeviceName {
    /// A device name from whatever a driver states: other characters become `?`, the rest is cut off.
    pub fn from_driver(text: &str) -> Self {
        let name: String =
            text.trim().chars().take(80).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect();
        Self(if name.is_empty() { "unnamed".to_owned() } else { name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_their_rules() {
        fn check<T: FromStr<Err = String>>(good: &[&str], bad: &[&str]) {
            for text in good {
                assert!(text.parse::<T>().is_ok(), "{text}");
            }
            for text in bad {
                assert!(text.parse::<T>().is_err(), "{text:?}");
            }
        }
        check::<NodeName>(&["fra-1", "a"], &["", "-a", "Fra", "a b", "ä", &"a".repeat(41)]);
        check::<VersionName>(&["0.1.0", "1.0.0-rc.1+x"], &["", "1 0", &"1".repeat(33)]);
        check::<TargetName>(&["x86_64-unknown-linux-gnu"], &["", "../x", "-x", "X86", "a b", &"a".repeat(65)]);
        check::<DeviceName>(&["NVIDIA H200", "llvmpipe (LLVM 15.0.6, 256 bits)"], &["", "a\nb", "ä"]);
        check::<PublicUrl>(
            &["https://fra1.example.net", "http://127.0.0.1:8080", "http://[::1]:8080"],
            &["", "fra1", "ftp://x", "https://", "https://x/path", "https://u@x", "https://x?q", "https://:"],
        );
    }

    #[test]
    fn a_driver_can_say_what_it_likes() {
        let check = |text: &str, expect: &str| assert_eq!(DeviceName::from_driver(text).as_str(), expect);
        check(" Radeon™ 780M ", "Radeon? 780M");
        check("", "unnamed");
        check(&"x".repeat(100), &"x".repeat(80));
    }

    #[test]
    fn a_bad_name_is_refused_when_read() {
        assert!(serde_json::from_str::<NodeName>("\"Fra 1\"").is_err());
        assert_eq!(serde_json::to_string(&"fra-1".parse::<NodeName>().unwrap()).unwrap(), "\"fra-1\"");
    }
}
