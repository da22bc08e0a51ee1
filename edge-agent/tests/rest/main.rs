//! The REST endpoints over real HTTP on loopback, with scripted models.

#[path = "../support/mod.rs"]
mod support;

mod ask;
mod chat;
mod embeddings;
mod models;
mod places;
mod speech;
mod transcriptions;
