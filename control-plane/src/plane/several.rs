//! What is otherwise where several control planes share a store.

use super::Plane;
use crate::{
    audit::Audit,
    control::socket::Transfers,
    fleet::Fleet,
    store::{etcd::Leader, writer::StoreWriter},
};
use std::collections::BTreeMap;

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

    /// Whether a model that is not in this folder has been removed. Where several control planes share a store, it may be in the folder of another.
    pub(super) fn notes_models_gone(&self) -> bool {
        self.leads.is_none()
    }

    /// Models that regions name and whose files are not in this folder, in words. Asks the disk.
    pub fn lacking(&self) -> Vec<String> {
        let named: BTreeMap<_, _> = self.look(|fleet| {
            let manifests = fleet.named_models().filter_map(|signed| signed.verify(&self.signing_public_key).ok());
            manifests.map(|manifest| (manifest.digest, manifest.name.clone())).collect()
        });
        let lacks = |(digest, name)| {
            (!self.dir.artefact(&digest).exists()).then(|| {
                format!("the file of model {name} is not on this control plane; run `control-plane model import {name}` here")
            })
        };
        named.into_iter().filter_map(lacks).collect()
    }
}
