//! The models in this control plane's folder, next to what the fleet knows of them.

use super::Plane;
use crate::{
    audit::Actor,
    fleet::models::MODELS_MAX,
    registry::{self, Imported, shelf::copying::elsewhere_path},
    store::StoreError,
};
use std::{collections::BTreeMap, io};

impl Plane {
    /// Models that were imported. Reads files, so it blocks.
    pub fn imported(&self) -> io::Result<Vec<Imported>> {
        let imported = registry::list(&registry::Store::from(&self.dir), &self.signing_public_key)?;
        if imported.len() > MODELS_MAX {
            let (found, folder) = (imported.len(), self.dir.models());
            let message = format!(
                "{found} models are in {}, at most {MODELS_MAX} can be; remove manifests of those that no region names",
                folder.display()
            );
            return Err(io::Error::other(message));
        }
        Ok(imported)
    }

    /// Adds a line to the audit for each model that has come, changed or gone since the last time; returns how many.
    pub async fn note_models(&self, actor: &Actor, imported: &[Imported]) -> Result<usize, StoreError> {
        let mut noted = 0;
        for model in imported {
            noted += usize::from(self.change(actor, |fleet| fleet.note_model(model)).await?);
        }
        let gone = self.notes_models_gone().then(|| self.look(|fleet| fleet.models_gone(imported)));
        for name in gone.unwrap_or_default() {
            noted += usize::from(self.change(actor, |fleet| fleet.note_gone(&name)).await?);
        }
        Ok(noted)
    }

    /// Whether a model that is not in this folder has been removed. Where several control planes share a store, it may be in the folder of another.
    fn notes_models_gone(&self) -> bool {
        self.leads.is_none()
    }

    /// Models that regions name and whose files are not in this folder, in words. Asks the disk.
    pub fn lacking(&self) -> Vec<String> {
        let named: BTreeMap<_, _> = self.look(|fleet| {
            let manifests = fleet.named_models().filter_map(|signed| signed.verify(&self.signing_public_key).ok());
            manifests.map(|manifest| (manifest.digest, manifest.name.clone())).collect()
        });
        let lacks = |(digest, name)| {
            let path = self.dir.artefact(&digest);
            (!path.exists() && !elsewhere_path(&path).exists()).then(|| {
                format!("the file of model {name} is not on this control plane; run `control-plane model import {name}` here")
            })
        };
        named.into_iter().filter_map(lacks).collect()
    }
}
