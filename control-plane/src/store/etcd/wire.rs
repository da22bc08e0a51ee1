//! The JSON of etcd's gateway: numbers of 64 bits as text, keys and values in base64, what is zero or empty left out.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value, json};

/// A number that is sent as text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Number(pub i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Number(i64),
        }
        match Either::deserialize(from)? {
            Either::Number(number) => Ok(Self(number)),
            Either::Text(text) => text.parse().map(Self).map_err(D::Error::custom),
        }
    }
}

/// Bytes that are sent in base64.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map(Self).map_err(D::Error::custom)
    }
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// The end of the range of all keys that begin with this text, which ends in `/`.
pub fn after(prefix: &str) -> String {
    format!("{}0", prefix.trim_end_matches('/'))
}

/// One key with its value.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: Number,
    pub lease: Number,
}

/// What every answer begins with.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Header {
    pub revision: Number,
}

/// The answer to a range.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RangeAnswer {
    pub header: Header,
    pub kvs: Vec<KeyValue>,
    pub more: bool,
}

/// The answer to one step of a transaction; only reads have one that is looked at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct StepAnswer {
    pub response_range: RangeAnswer,
}

/// The answer to a transaction.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct TxnAnswer {
    pub header: Header,
    /// Whether everything compared as it should, so that the first list of steps was done.
    pub succeeded: bool,
    pub responses: Vec<StepAnswer>,
}

/// The answer to a grant.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct GrantAnswer {
    #[serde(rename = "ID")]
    pub id: Number,
    #[serde(rename = "TTL")]
    pub ttl: Number,
}

/// The answer to a keepalive: one message of a stream.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct KeepAliveAnswer {
    pub result: KeptAlive,
}

/// A lease that was renewed; without a time where it is gone.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct KeptAlive {
    #[serde(rename = "TTL")]
    pub ttl: Number,
}

/// The answer to a login.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LoginAnswer {
    pub token: String,
}

/// What etcd says when it refuses.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Refusal {
    pub message: String,
    /// As gRPC numbers them.
    pub code: i64,
}

/// What a transaction asks first.
#[derive(Debug, Clone)]
pub enum Compare {
    /// The key is not there.
    Absent(String),
    /// The key was created at this revision, and not again since.
    CreatedAt(String, i64),
    /// The key has this value.
    Is(String, Vec<u8>),
}

impl Compare {
    fn json(&self) -> Value {
        match self {
            Self::Absent(key) => Self::CreatedAt(key.clone(), 0).json(),
            Self::CreatedAt(key, revision) => {
                json!({"key": base64(key), "target": "CREATE", "result": "EQUAL", "create_revision": revision.to_string()})
            }
            Self::Is(key, value) => {
                json!({"key": base64(key), "target": "VALUE", "result": "EQUAL", "value": base64(value)})
            }
        }
    }
}

/// One step of a transaction. No two steps of one transaction may touch the same key.
#[derive(Debug, Clone)]
pub enum Step {
    /// Reads a key.
    Get(String),
    /// Sets a key.
    Put(String, Vec<u8>),
    /// Sets a key that goes away with this lease.
    PutLeased(String, Vec<u8>, i64),
    /// Removes a key.
    Delete(String),
    /// Removes all keys that begin with this text, which ends in `/`.
    DeleteAll(String),
}

impl Step {
    fn json(&self) -> Value {
        match self {
            Self::Get(key) => json!({"request_range": {"key": base64(key)}}),
            Self::Put(key, value) => json!({"request_put": {"key": base64(key), "value": base64(value)}}),
            Self::PutLeased(key, value, lease) => {
                json!({"request_put": {"key": base64(key), "value": base64(value), "lease": lease.to_string()}})
            }
            Self::Delete(key) => json!({"request_delete_range": {"key": base64(key)}}),
            Self::DeleteAll(prefix) => {
                json!({"request_delete_range": {"key": base64(prefix), "range_end": base64(after(prefix))}})
            }
        }
    }
}

/// The body of a transaction: what is compared, what is done where all of it is as it should be, and what otherwise.
pub fn txn(compares: &[Compare], then: &[Step], otherwise: &[Step]) -> Value {
    let steps = |steps: &[Step]| steps.iter().map(Step::json).collect::<Vec<_>>();
    let compares: Vec<_> = compares.iter().map(Compare::json).collect();
    json!({"compare": compares, "success": steps(then), "failure": steps(otherwise)})
}

/// Which keys are read: from the first to before the end, as of a revision, 0 for the newest.
#[derive(Debug, Clone)]
pub struct Range {
    pub from: String,
    pub end: String,
    pub limit: usize,
    pub revision: i64,
    pub keys_only: bool,
}

impl Range {
    /// The body of the request.
    pub fn json(&self) -> Value {
        json!({
            "key": base64(&self.from),
            "range_end": base64(&self.end),
            "limit": self.limit.to_string(),
            "revision": self.revision.to_string(),
            "keys_only": self.keys_only,
        })
    }
}
