//! What a node checks of a state's manifests before it touches a file.

use super::DesiredState;
use crate::{
    artefact::{Manifest, ManifestError, Stage},
    wire::message::{Problem, ProblemKind},
};
use std::collections::BTreeMap;

/// Why a state's manifest is not taken.
#[derive(Debug, Clone, PartialEq)]
pub struct ManifestRefused {
    /// A code with figures, for the control plane.
    pub problem: Problem,
    /// For people on the node.
    pub words: String,
}

impl DesiredState {
    /// Every manifest, after its signature (by this Ed25519 key of 32 bytes), its place and its golden results were checked.
    pub fn verified_models(&self, signing_key: &[u8]) -> Result<BTreeMap<Stage, Manifest>, ManifestRefused> {
        let mut manifests = BTreeMap::new();
        for (stage, signed) in &self.models {
            let refused = |kind, words: String| ManifestRefused { problem: Problem::new(kind).at(*stage), words };
            let manifest = signed.verify(signing_key).map_err(|e| {
                let kind = match e {
                    ManifestError::BadSignature => ProblemKind::BadSignature,
                    ManifestError::Malformed(_) | ManifestError::ChunkCount { .. } => ProblemKind::BadManifest,
                };
                refused(kind, format!("{stage}: {e}"))
            })?;
            if manifest.stage != *stage {
                let words = format!("a manifest for stage {} stands in the place of stage {stage}", manifest.stage);
                return Err(refused(ProblemKind::BadManifest, words));
            }
            if manifest.golden_cases == 0 {
                let words = format!(
                    "{stage} ({} {}): it has no golden results, so nothing could be proven on this device; import it again",
                    manifest.name, manifest.version
                );
                let mut refused = refused(ProblemKind::BadManifest, words);
                refused.problem.artefact = Some(manifest.digest);
                return Err(refused);
            }
            manifests.insert(*stage, manifest);
        }
        Ok(manifests)
    }
}
