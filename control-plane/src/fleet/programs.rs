//! Which imported programs of the agent the audit has a line about; the same as [`super::models`] for models.
//!
//! **Invariant:** no state names a release whose import is not in the audit (`control-plane/tests/e2e/agent_releases.rs`).

use super::{Fleet, digest, records::put};
use crate::{audit::Act, registry::programs::ImportedProgram, store::Write};
use nearfield_shared::{
    artefact::{Digest, SignedManifest},
    wire::{TargetName, VersionName},
};
use serde::{Deserialize, Serialize};

/// A program as the audit knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramRecord {
    /// Its release.
    pub version: VersionName,
    /// What it was built for.
    pub target: TargetName,
    /// BLAKE3 of its file.
    pub digest: Digest,
    /// Digest of its signed manifest.
    pub manifest: Digest,
}

impl ProgramRecord {
    fn of(program: &ImportedProgram) -> Self {
        Self {
            version: program.manifest.version.clone(),
            target: program.manifest.target.clone(),
            digest: program.manifest.digest,
            manifest: program.signed.digest(),
        }
    }

    /// Under which it is stored, and by which the audit calls it.
    pub(super) fn key(&self) -> String {
        format!("agent/{}/{}", self.version, self.target)
    }
}

impl Fleet {
    /// Notes a program that was imported, new or anew; nothing where it is noted as it is.
    pub fn note_program(&mut self, program: &ImportedProgram) -> (bool, Vec<Write>, Option<Act>) {
        let record = ProgramRecord::of(program);
        let key = record.key();
        let before = self.programs.get(&key);
        if before == Some(&record) {
            return (false, Vec::new(), None);
        }
        let act = Act {
            what: "agent.import",
            object: key.clone(),
            detail: format!("{} bytes with BLAKE3 {}", program.manifest.bytes, record.digest),
            before: before.map(digest),
            after: Some(digest(&record)),
        };
        let writes = vec![put(key.clone(), &record)];
        self.programs.insert(key, record);
        (true, writes, Some(act))
    }

    /// Manifests of programs that the regions name, and those that a rollout would put back.
    pub fn named_programs(&self) -> impl Iterator<Item = &SignedManifest> {
        self.named().filter_map(|defined| defined.agent.as_ref()).flat_map(|release| release.programs.values())
    }

    /// Keys of programs that are noted and not in the folder any more.
    pub fn programs_gone(&self, there: &[ImportedProgram]) -> Vec<String> {
        let there: Vec<String> = there.iter().map(|program| ProgramRecord::of(program).key()).collect();
        self.programs.keys().filter(|key| !there.contains(key)).cloned().collect()
    }

    /// Notes that a program is not in the folder any more.
    pub fn note_program_gone(&mut self, key: &str) -> (bool, Vec<Write>, Option<Act>) {
        let Some(record) = self.programs.remove(key) else { return (false, Vec::new(), None) };
        let act = Act {
            what: "agent.remove",
            object: key.to_owned(),
            detail: "its manifest or its file is not in the state folder any more".into(),
            before: Some(digest(&record)),
            after: None,
        };
        (true, vec![Write::Delete { key: key.to_owned() }], Some(act))
    }
}
