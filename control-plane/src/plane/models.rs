//! The models and programs in this control plane's folder, next to what the fleet knows of them.

use super::Plane;
use crate::{
    audit::Actor,
    fleet::models::MODELS_MAX,
    registry::{
        self, Imported, Imports,
        programs::{self, PROGRAMS_MAX},
        shelf::copying::elsewhere_path,
    },
    store::StoreError,
};
use nearfield_shared::release::ProgramManifest;
use std::{collections::BTreeMap, io};

impl Plane {
    /// What was imported. Reads files, so it blocks.
    pub fn imported(&self) -> io::Result<Imports> {
        let programs = programs::imported(&self.dir, &self.signing_public_key)?;
        if programs.len() > PROGRAMS_MAX {
            let (found, folder) = (programs.len(), self.dir.agents());
            let message = format!(
                "{found} programs are in {}, at most {PROGRAMS_MAX} can be; remove manifests of those that no region names",
                folder.display()
            );
            return Err(io::Error::other(message));
        }
        Ok(Imports { models: self.imported_models()?, programs })
    }

    fn imported_models(&self) -> io::Result<Vec<Imported>> {
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

    /// Adds a line to the audit for each model and program that has come, changed or gone since the last time; returns how many.
    pub async fn note_imports(
        &self,
        actor: &Actor,
        Imports { models, programs }: &Imports,
    ) -> Result<usize, StoreError> {
        let mut noted = 0;
        for program in programs {
            noted += usize::from(self.change(actor, |fleet| fleet.note_program(program)).await?);
        }
        for model in models {
            noted += usize::from(self.change(actor, |fleet| fleet.note_model(model)).await?);
        }
        if self.notes_what_is_gone() {
            for key in self.look(|fleet| fleet.programs_gone(programs)) {
                noted += usize::from(self.change(actor, |fleet| fleet.note_program_gone(&key)).await?);
            }
            for name in self.look(|fleet| fleet.models_gone(models)) {
                noted += usize::from(self.change(actor, |fleet| fleet.note_gone(&name)).await?);
            }
        }
        Ok(noted)
    }

    /// Whether what is not in this folder has been removed. Where several control planes share a store, it may be in the folder of another.
    fn notes_what_is_gone(&self) -> bool {
        self.leads.is_none()
    }

    /// Models and programs that regions name and whose files are not in this folder, in words. Asks the disk.
    pub fn lacking(&self) -> Vec<String> {
        let named: BTreeMap<_, _> = self.look(|fleet| {
            let manifests = fleet.named_models().filter_map(|signed| signed.verify(&self.signing_public_key).ok());
            manifests.map(|manifest| (manifest.digest, manifest.name.clone())).collect()
        });
        let programs: BTreeMap<_, _> = self.look(|fleet| {
            let signed = fleet.named_programs();
            let manifests = signed.filter_map(|signed| ProgramManifest::verify(signed, &self.signing_public_key).ok());
            manifests.map(|manifest| (manifest.digest, (manifest.version, manifest.target))).collect()
        });
        let models = named.into_iter().map(|(digest, name)| {
            let words = format!(
                "the file of model {name} is not on this control plane; run `control-plane model import {name}` here"
            );
            (digest, words)
        });
        let programs = programs.into_iter().map(|(digest, (version, target))| {
            let words = format!(
                "the file of agent {version} for {target} is not on this control plane; run `control-plane agent import FILE --version {version}` here"
            );
            (digest, words)
        });
        let lacks = |(digest, words)| {
            let path = self.dir.artefact(&digest);
            (!path.exists() && !elsewhere_path(&path).exists()).then_some(words)
        };
        models.chain(programs).filter_map(lacks).collect()
    }
}
