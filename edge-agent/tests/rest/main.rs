//! The REST endpoints over real HTTP on loopback, with scripted models.

#[path = "../support/mod.rs"]
mod support;

mod ask;
mod embeddings;
mod models;
mod places;
