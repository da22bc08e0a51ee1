//! The control plane over real QUIC, real HTTP and a real disk. The agent's side is a small client of these tests, so that it can misbehave.

mod agent;
mod artefacts;
mod bad_input;
mod command_line;
mod enrolment;
mod figures;
mod generations;
mod plane;
mod restart;
mod revocation;
mod routes;
