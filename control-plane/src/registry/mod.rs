//! Models: the catalogue, fetching and checking their files, converting them to GGUF, signing them.

pub mod convert;
