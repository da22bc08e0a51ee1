//! From what is trusted and what was told to what is trusted then: `tough` decides, in a folder of its own that is filled anew each time.

use super::{
    Refusal,
    trusted::{Parts, Trusted},
};
use futures_util::stream;
use nearfield_shared::wire::message::{ProblemKind, REGISTRY_ROOTS_MAX, Registry as Told};
use reqwest::Url;
use std::{collections::HashMap, error::Error as _, fs, future::ready, io, path::Path, sync::Arc};
use tough::{
    Bytes, ExpirationEnforcement, Limits, Repository, RepositoryLoader, Transport, TransportError, TransportErrorKind,
    TransportStream,
    error::Error as TufError,
    schema::{Root, Signed, Snapshot, Targets, Timestamp},
};

/// What metadata may weigh: several times what a control plane writes. That of the targets stands in the signed snapshot; all of it came in one message,
/// which has a bound of its own.
const LIMITS: Limits = Limits {
    max_root_size: 64 << 10,
    max_targets_size: 4 << 20,
    max_timestamp_size: 16 << 10,
    max_snapshot_size: 64 << 10,
    max_root_updates: REGISTRY_ROOTS_MAX as u64 + 1,
};

/// Serves what was told as if it were files.
#[derive(Debug, Clone)]
struct Shelf(Arc<HashMap<String, Bytes>>);

#[tough::async_trait]
impl Transport for Shelf {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let name = url.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default();
        match self.0.get(name) {
            Some(bytes) => Ok(Box::pin(stream::once(ready(Ok(bytes.clone()))))),
            None => Err(TransportError::new(TransportErrorKind::FileNotFound, url)),
        }
    }
}

/// What is trusted after this was told, and whether that was as it should be. Root metadata that follows rightly from the trusted one counts even
/// where the rest does not. `scratch` is a folder that this makes and removes.
pub(super) async fn update(
    before: Option<&Trusted>,
    told: &Told,
    scratch: &Path,
) -> (Option<Trusted>, Result<(), Refusal>) {
    let pinned = match before {
        Some(trusted) => trusted.clone(),
        // The first contact of a node that was enrolled before there was a registry's root: the authority that it has pinned vouches for this one.
        None => match told.roots.values().next_back().map(|root| Trusted::pinned(root)) {
            Some(Ok(pinned)) => pinned,
            Some(Err(why)) => {
                return (None, Err(Refusal::invalid(format!("the registry's root metadata cannot be trusted: {why}"))));
            }
            None => return (None, Ok(())),
        },
    };
    if told.roots.len() > REGISTRY_ROOTS_MAX {
        let words = format!(
            "{} versions of root metadata were told, at most {REGISTRY_ROOTS_MAX} are looked at",
            told.roots.len()
        );
        return (before.cloned(), Err(Refusal::invalid(words)));
    }
    let loaded = load(&pinned, told, scratch).await;
    let root = followed(&pinned, told, scratch);
    // Only a leftover: the next update begins by removing it.
    fs::remove_dir_all(scratch).ok();
    match loaded {
        Ok(parts) => (Some(Trusted { root, parts: Some(parts) }), Ok(())),
        Err(refusal) => {
            let parts = pinned.parts.filter(|parts| stands(&root, parts));
            let trusted = Trusted { root, parts };
            // A root that nothing was verified with yet is not pinned: the next one told may be.
            (if before.is_none() { None } else { Some(trusted) }, Err(refusal))
        }
    }
}

async fn load(pinned: &Trusted, told: &Told, scratch: &Path) -> Result<Parts, Refusal> {
    let disk = |error: io::Error| Refusal::failed(format!("{}: {error}", scratch.display()));
    fill(scratch, pinned.parts.as_ref()).map_err(disk)?;
    let Some(targets) = told.targets.as_ref().or(pinned.parts.as_ref().map(|parts| &parts.targets)) else {
        return Err(Refusal::invalid("the registry's list of models was not told"));
    };
    let text = |text: &String| Bytes::copy_from_slice(text.as_bytes());
    let mut shelf: HashMap<String, Bytes> =
        told.roots.iter().map(|(version, root)| (format!("{version}.root.json"), text(root))).collect();
    shelf.insert("timestamp.json".into(), text(&told.timestamp));
    shelf.insert("snapshot.json".into(), text(&told.snapshot));
    shelf.insert("targets.json".into(), text(targets));
    let base = Url::parse("file:///told/").map_err(|e| Refusal::failed(e.to_string()))?;
    let loaded = RepositoryLoader::new(&pinned.root, base.clone(), base)
        .transport(Shelf(Arc::new(shelf)))
        .limits(LIMITS)
        .datastore(scratch)
        // When it ends is judged by the plane's time, each time that a model is asked for.
        .expiration_enforcement(ExpirationEnforcement::Unsafe)
        .load()
        .await;
    let repository: Repository = loaded.map_err(refused)?;
    if repository.root().signed.consistent_snapshot {
        return Err(Refusal::invalid(
            "the registry's root metadata wants consistent snapshots, which this agent does not read",
        ));
    }
    Ok(Parts { timestamp: told.timestamp.clone(), snapshot: told.snapshot.clone(), targets: targets.clone() })
}

/// A folder for `tough` with what is trusted, under the names that it looks for.
fn fill(scratch: &Path, parts: Option<&Parts>) -> io::Result<()> {
    match fs::remove_dir_all(scratch) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => fs::create_dir(scratch)?,
    }
    let Some(Parts { timestamp, snapshot, targets }) = parts else { return Ok(()) };
    [("timestamp.json", timestamp), ("snapshot.json", snapshot), ("targets.json", targets)]
        .into_iter()
        .try_for_each(|(name, text)| fs::write(scratch.join(name), text))
}

/// The newest root metadata that `tough` has verified, as it was told.
fn followed(pinned: &Trusted, told: &Told, scratch: &Path) -> String {
    let verified = fs::read(scratch.join("root.json")).ok();
    let version = verified.and_then(|bytes| serde_json::from_slice::<Signed<Root>>(&bytes).ok());
    let version = version.map(|root| root.signed.version.get());
    let is_newer = |version: &u64| {
        serde_json::from_str::<Signed<Root>>(&pinned.root).is_ok_and(|root| root.signed.version.get() < *version)
    };
    let newer = version.filter(is_newer).and_then(|version| told.roots.get(&version));
    newer.unwrap_or(&pinned.root).clone()
}

/// Whether the root metadata's keys have signed all of this.
fn stands(root: &str, parts: &Parts) -> bool {
    let Ok(root) = serde_json::from_str::<Signed<Root>>(root) else { return false };
    let root = root.signed;
    let Parts { timestamp, snapshot, targets } = parts;
    serde_json::from_str::<Signed<Timestamp>>(timestamp).is_ok_and(|signed| root.verify_role(&signed).is_ok())
        && serde_json::from_str::<Signed<Snapshot>>(snapshot).is_ok_and(|signed| root.verify_role(&signed).is_ok())
        && serde_json::from_str::<Signed<Targets>>(targets).is_ok_and(|signed| root.verify_role(&signed).is_ok())
}

fn refused(error: TufError) -> Refusal {
    let kind = match &error {
        TufError::OlderMetadata { .. }
        | TufError::OlderSnapshotInTimestamp { .. }
        | TufError::SnapshotRoleMissing { .. }
        | TufError::SnapshotRoleRollback { .. } => ProblemKind::RegistryRollback,
        TufError::DatastoreCreate { .. } | TufError::DatastoreOpen { .. } | TufError::DatastoreRemove { .. } => {
            ProblemKind::Failed
        }
        _ => ProblemKind::RegistryInvalid,
    };
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        source = cause.source();
    }
    Refusal::new(kind, words)
}
