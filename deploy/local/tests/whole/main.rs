//! The whole system as a user starts it: real processes, real models, real QUIC, real speech.

mod control_plane_lost;
mod egress;
mod first_call;
mod support;
mod tap;
