//! What crosses the wire, is signed, or stands in `regions/`: the vocabulary that the control plane
//! and the edge agents share. Pure: no runtime, no disk store, no inference.

pub mod artefact;
pub mod assistant;
pub mod caller_key;
pub mod clock;
pub mod desired;
pub mod exposition;
pub mod gguf;
pub mod golden;
pub mod link;
pub mod panic_words;
pub mod pii;
pub mod policy;
pub mod region;
pub mod release;
pub mod report;
pub mod rollout;
pub mod routing;
pub mod table;
pub mod tls;
pub mod trial;
pub mod wire;
