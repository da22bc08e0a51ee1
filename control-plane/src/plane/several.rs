//! What is otherwise where several control planes share a store.

use super::Plane;
use crate::{
    audit::Audit,
    control::socket::Transfers,
    fleet::Fleet,
    store::{etcd::Leader, writer::StoreWriter},
};

/// What a server keeps, as it was read from its store.
pub struct Kept {
    /// What is known.
    pub fleet: Fleet,
    /// Where changes go.
    pub store: StoreWriter,
    /// What was changed, and by whom.
    pub audit: Audit,
    /// How this control plane leads, where several share the store.
    pub leads: Option<Leader>,
    /// Models that are being sent now.
    pub transfers: Transfers,
}

impl Plane {
    /// Whether the store is exported after changes, for the case that it breaks. etcd keeps copies of its own.
    pub fn exports_by_itself(&self) -> bool {
        self.leads.is_none()
    }
}
