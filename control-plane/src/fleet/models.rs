//! Which imported models the audit has a line about.
//!
//! An import works on files, often while no server runs, so the server compares: what is in the folder and not noted here yet gets its line in the
//! audit, at the start, when `model import` says that it is done, and before a folder of regions is applied. **Invariant:** no state names a
//! model whose import is not in the audit.

use super::{Fleet, digest, records::put};
use crate::{audit::Act, definition::DefinedRegion, registry::Imported, store::Write};
use nearfield_shared::artefact::{Digest, SignedManifest};
use serde::{Deserialize, Serialize};

/// Models that are noted at most. A region names six.
pub const MODELS_MAX: usize = 1_000;

/// A model as the audit knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Its name in the catalogue.
    pub name: String,
    /// Its version.
    pub version: String,
    /// BLAKE3 of its file.
    pub digest: Digest,
    /// Digest of its signed manifest.
    pub manifest: Digest,
}

impl ModelRecord {
    fn of(model: &Imported) -> Self {
        Self {
            name: model.manifest.name.clone(),
            version: model.manifest.version.clone(),
            digest: model.manifest.digest,
            manifest: model.signed.digest(),
        }
    }

    fn key(name: &str) -> String {
        format!("model/{name}")
    }
}

impl Fleet {
    /// Notes a model that was imported, new or anew; nothing where it is noted as it is.
    pub fn note_model(&mut self, model: &Imported) -> (bool, Vec<Write>, Option<Act>) {
        let record = ModelRecord::of(model);
        let before = self.models.get(&record.name);
        if before == Some(&record) {
            return (false, Vec::new(), None);
        }
        let manifest = &model.manifest;
        let act = Act {
            what: "model.import",
            object: ModelRecord::key(&record.name),
            detail: format!(
                "version {} for {}, {}, {}, {} bytes with BLAKE3 {}",
                manifest.version,
                manifest.stage,
                manifest.quantisation,
                manifest.licence,
                manifest.bytes,
                manifest.digest
            ),
            before: before.map(digest),
            after: Some(digest(&record)),
        };
        let writes = vec![put(ModelRecord::key(&record.name), &record)];
        self.models.insert(record.name.clone(), record);
        (true, writes, Some(act))
    }

    /// Manifests that the regions name, and those that a rollout would put back.
    pub fn named_models(&self) -> impl Iterator<Item = &SignedManifest> {
        self.named().flat_map(|defined| defined.models.values())
    }

    /// What the regions are, and what a rollout would put back.
    pub(super) fn named(&self) -> impl Iterator<Item = &DefinedRegion> {
        let before = self.regions().filter_map(|region| region.before.as_ref()).map(|before| &before.defined);
        self.regions().filter_map(|region| region.defined.as_ref()).chain(before)
    }

    /// Names of models that are noted and not in the folder any more.
    pub fn models_gone(&self, there: &[Imported]) -> Vec<String> {
        let gone = |name: &&String| !there.iter().any(|model| model.manifest.name == **name);
        self.models.keys().filter(gone).cloned().collect()
    }

    /// Notes that a model is not in the folder any more.
    pub fn note_gone(&mut self, name: &str) -> (bool, Vec<Write>, Option<Act>) {
        let Some(record) = self.models.remove(name) else { return (false, Vec::new(), None) };
        let key = ModelRecord::key(name);
        let act = Act {
            what: "model.remove",
            object: key.clone(),
            detail: "its manifest or its file is not in the state folder any more".into(),
            before: Some(digest(&record)),
            after: None,
        };
        (true, vec![Write::Delete { key }], Some(act))
    }
}
