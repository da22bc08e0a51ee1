//! Whether trusted metadata lets a model in, as of a time that is passed in. Pure.

use super::trusted::Trusted;
use nearfield_shared::{
    artefact::{Digest, Manifest},
    wire::message::{Problem, ProblemKind},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::HashMap;
use tough::{
    TargetName,
    schema::{Role, RoleType, Root, Signed, Snapshot, Target, Targets, Timestamp},
};

/// Why a new model is not let in: a code with figures for the control plane, and words for this node's log and `status`.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// For the control plane.
    pub problem: Problem,
    /// For people on this node.
    pub words: String,
}

impl Refusal {
    pub(super) fn new(kind: ProblemKind, words: impl Into<String>) -> Self {
        Self { problem: Problem::new(kind), words: words.into() }
    }

    pub(super) fn invalid(words: impl Into<String>) -> Self {
        Self::new(ProblemKind::RegistryInvalid, words)
    }

    pub(super) fn damaged(words: &str) -> Self {
        Self::new(ProblemKind::RegistryDamaged, words)
    }

    pub(super) fn failed(words: impl Into<String>) -> Self {
        Self::new(ProblemKind::Failed, words)
    }

    /// This one, which is behind that one.
    pub(super) fn about(self, that: Self) -> Self {
        let words = format!("{}; the newest metadata was refused: {}", that.words, self.words);
        let problem = Problem { stage: that.problem.stage, artefact: that.problem.artefact, ..self.problem };
        Self { problem, words }
    }
}

/// Trusted metadata, read.
pub(super) struct Judged {
    /// When each role's metadata ends, seconds since 1970.
    ends: [(RoleType, i64); 4],
    timestamp_version: u64,
    targets: HashMap<TargetName, Target>,
}

fn read<T: DeserializeOwned + Role>(text: &str) -> Result<T, Refusal> {
    let signed: Signed<T> = serde_json::from_str(text)
        .map_err(|e| Refusal::damaged(&format!("trusted {} metadata cannot be read: {e}", T::TYPE)))?;
    Ok(signed.signed)
}

impl Judged {
    pub fn of(trusted: &Trusted) -> Result<Self, Refusal> {
        let Some(parts) = &trusted.parts else {
            let words =
                "the control plane has not told which models its registry lists; see `control-plane registry show`";
            return Err(Refusal::new(ProblemKind::NotInRegistry, words));
        };
        let root: Root = read(&trusted.root)?;
        let timestamp: Timestamp = read(&parts.timestamp)?;
        let snapshot: Snapshot = read(&parts.snapshot)?;
        let targets: Targets = read(&parts.targets)?;
        Ok(Self {
            ends: [
                (RoleType::Timestamp, timestamp.expires.as_second()),
                (RoleType::Snapshot, snapshot.expires.as_second()),
                (RoleType::Targets, targets.expires.as_second()),
                (RoleType::Root, root.expires.as_second()),
            ],
            timestamp_version: timestamp.version.get(),
            targets: targets.targets,
        })
    }

    /// The timestamp's number, and when the first of all ends.
    pub fn shown(&self) -> (u64, i64) {
        (self.timestamp_version, self.ends.iter().map(|(_, ends)| *ends).min().unwrap_or_default())
    }

    /// Whether a model with this signed manifest may be installed at this time, which is the plane's.
    pub fn permits(&self, manifest: &Manifest, signed: Digest, now: Option<i64>) -> Result<(), Refusal> {
        self.is_fresh(now).and_then(|()| self.lists(manifest, signed)).map_err(|refusal| Refusal {
            problem: Problem { stage: Some(manifest.stage), artefact: Some(manifest.digest), ..refusal.problem },
            words: format!("{} ({} {}): {}", manifest.stage, manifest.name, manifest.version, refusal.words),
        })
    }

    fn is_fresh(&self, now: Option<i64>) -> Result<(), Refusal> {
        let Some(now) = now else {
            let words =
                "the control plane's time is not known yet, so nobody can say whether the registry's metadata is fresh";
            return Err(Refusal::new(ProblemKind::RegistryExpired, words));
        };
        let Some((role, ends)) = self.ends.iter().find(|(_, ends)| *ends <= now) else { return Ok(()) };
        let words = format!(
            "the registry's {role} metadata ended {} s ago, so nobody can say that the model is still wanted; see `control-plane registry show`",
            now - ends
        );
        let mut refusal = Refusal::new(ProblemKind::RegistryExpired, words);
        (refusal.problem.found, refusal.problem.wanted) = (Some(*ends as f64), Some(now as f64));
        Err(refusal)
    }

    fn lists(&self, manifest: &Manifest, signed: Digest) -> Result<(), Refusal> {
        let not_listed = |words: &str| Refusal::new(ProblemKind::NotInRegistry, words);
        let hex = manifest.digest.to_hex();
        let target = TargetName::new(hex.as_str()).ok().and_then(|name| self.targets.get(&name));
        let Some(target) = target else {
            return Err(not_listed(
                "the registry does not list its file; import it again, or see whether it was withdrawn, with `control-plane registry show`",
            ));
        };
        let blake3 = target.hashes._extra.get("blake3").and_then(Value::as_str);
        if blake3 != Some(hex.as_str()) || target.length != manifest.bytes {
            return Err(not_listed("the registry lists its file with another digest or length; import it again"));
        }
        let manifests = target.custom.get("manifests").and_then(Value::as_array);
        let signed = signed.to_hex();
        if !manifests.into_iter().flatten().any(|listed| listed.as_str() == Some(signed.as_str())) {
            return Err(not_listed("the registry lists its file with another manifest; import it again"));
        }
        Ok(())
    }
}
