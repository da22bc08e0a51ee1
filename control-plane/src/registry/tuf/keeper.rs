//! Makes the registry's metadata, lists what was imported, and signs everything anew in time, as far as the keys are here.

use super::{
    Lifetimes, TufError,
    file::{self, Metadata},
    keys,
    roles::{self, Listed, Named},
};
use crate::{
    registry::Store,
    state_dir::{StateDir, StateDirError},
};
use aws_lc_rs::signature::Ed25519KeyPair;
use nearfield_shared::{
    artefact::{Digest, Manifest, SignedManifest},
    wire::message::REGISTRY_ROOTS_MAX,
};
use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};
use tough::schema::{Root, Snapshot, Targets, Timestamp};

/// What the metadata is kept with.
#[derive(Debug, Clone)]
pub struct Keeper<'a> {
    /// The state folder.
    pub dir: &'a StateDir,
    /// How long metadata is good.
    pub lifetimes: Lifetimes,
    /// Seconds since 1970.
    pub now: i64,
    /// The root key, where it is kept elsewhere.
    pub root_key: Option<PathBuf>,
    /// The signing key, where it is kept elsewhere.
    pub signing_key: Option<PathBuf>,
    /// How far above the time the numbers of what is signed begin, seconds.
    pub above_s: i64,
}

/// The metadata as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brought {
    /// All of it.
    pub metadata: Metadata,
    /// Whether any of it was signed now.
    pub changed: bool,
    /// What a person has to do, each with the command for it.
    pub to_do: Vec<String>,
}

/// Numbers are times, but for what was signed within the same second: an hour is room for 3,600 of those.
const ABOVE_S: i64 = 3_600;

/// Whether what ends then has to be signed anew: at half of its time, or where it ends so late that a clock must have been wrong.
fn is_due(expires: i64, lifetime_s: i64, now: i64) -> bool {
    let left = expires.saturating_sub(now);
    left < lifetime_s / 2 || left > lifetime_s.saturating_mul(2)
}

/// Whether a person should be told that it ends.
fn is_urgent(expires: i64, lifetime_s: i64, now: i64) -> bool {
    expires.saturating_sub(now) < lifetime_s / 3
}

/// SHA-256 of a model's file.
fn sha256_of(dir: &StateDir, digest: Digest) -> io::Result<Vec<u8>> {
    let hex = Store::from(dir).sha256(digest)?;
    let byte = |at: usize| hex.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
    bytes.filter(|bytes| bytes.len() == 32).ok_or_else(|| io::Error::other("it is not noted what its SHA-256 is"))
}

impl<'a> Keeper<'a> {
    /// With the keys of the state folder.
    pub fn new(dir: &'a StateDir, lifetimes: Lifetimes, now: i64) -> Self {
        Self { dir, lifetimes, now, root_key: None, signing_key: None, above_s: 0 }
    }

    /// Where the root key is expected.
    pub(super) fn root_key_path(&self) -> PathBuf {
        self.root_key.clone().unwrap_or_else(|| self.dir.root_key())
    }

    /// The key that signs models; `None` where it is not here.
    fn signing(&self) -> Result<Option<Ed25519KeyPair>, TufError> {
        match &self.signing_key {
            Some(path) => Ok(Some(self.dir.signing_key_from(path)?)),
            None => match self.dir.signing_key() {
                Ok(key) => Ok(Some(key)),
                Err(StateDirError::KeyElsewhere(_)) => Ok(None),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// A key of the daemon's.
    pub(super) fn online(path: &Path, wanted: &tough::schema::key::Key) -> Result<Ed25519KeyPair, TufError> {
        keys::named(path, wanted)?.ok_or_else(|| TufError::OtherOnlineKey(path.to_owned()))
    }

    /// Makes what is missing, lists these models, and signs anew what is due. Models that were taken out stay out unless they are `imported` now.
    /// Reads and writes files, so it blocks.
    pub fn bring_up_to_date(
        &self,
        models: &[(Manifest, SignedManifest)],
        imported: &BTreeSet<String>,
    ) -> Result<Brought, TufError> {
        self.change(|listed, withdrawn, missing| {
            for (manifest, signed) in models {
                let (hex, digest) = (manifest.digest.to_hex(), signed.digest());
                if imported.contains(&hex) {
                    withdrawn.remove(&hex);
                }
                if !withdrawn.contains(&hex) && !listed.holds(manifest, digest) {
                    missing.push((manifest.clone(), digest));
                }
            }
            Ok(())
        })
    }

    /// Signs the list of models anew even where that is not due, with numbers above all that nodes may have seen of a folder that was lost.
    pub fn sign_again(&self, models: &[(Manifest, SignedManifest)]) -> Result<Brought, TufError> {
        let Brought { to_do, .. } = self.bring_up_to_date(models, &BTreeSet::new())?;
        if self.signing()?.is_none() {
            return Err(StateDirError::KeyElsewhere(self.dir.root().join("signing.key")).into());
        }
        let _lock = file::lock(self.dir)?;
        let mut metadata = Metadata::load(self.dir)?.ok_or(TufError::NotMade)?;
        let root = metadata.root()?.signed;
        let above = Self { above_s: ABOVE_S, ..self.clone() };
        above.renew_targets(&mut metadata, &root)?;
        above.renew_online(&mut metadata, &root, true)?;
        metadata.store(self.dir)?;
        Ok(Brought { metadata, changed: true, to_do })
    }

    /// Signs anew whatever can be, above what another control plane with the same keys may have told nodes.
    pub fn take_over(&self, models: &[(Manifest, SignedManifest)]) -> Result<Brought, TufError> {
        if self.signing()?.is_some() {
            return self.sign_again(models);
        }
        let Brought { to_do, .. } = self.bring_up_to_date(models, &BTreeSet::new())?;
        let _lock = file::lock(self.dir)?;
        let mut metadata = Metadata::load(self.dir)?.ok_or(TufError::NotMade)?;
        let root = metadata.root()?.signed;
        Self { above_s: ABOVE_S, ..self.clone() }.renew_online(&mut metadata, &root, true)?;
        metadata.store(self.dir)?;
        Ok(Brought { metadata, changed: true, to_do })
    }

    /// Takes models out of the list, by name or by the beginning of a digest; returns their digests.
    pub fn withdraw(&self, what: &str) -> Result<(Brought, BTreeSet<String>), TufError> {
        if self.signing()?.is_none() {
            return Err(StateDirError::KeyElsewhere(self.dir.root().join("signing.key")).into());
        }
        let mut out = BTreeSet::new();
        let brought = self.change(|listed, withdrawn, _| {
            out = listed.take_out(what);
            withdrawn.extend(out.iter().cloned());
            if out.is_empty() { Err(TufError::NotListed(what.to_owned())) } else { Ok(()) }
        })?;
        Ok((brought, out))
    }

    fn change(
        &self,
        edit: impl FnOnce(&mut Listed, &mut BTreeSet<String>, &mut Vec<(Manifest, Digest)>) -> Result<(), TufError>,
    ) -> Result<Brought, TufError> {
        let _lock = file::lock(self.dir)?;
        let before = Metadata::load(self.dir)?;
        let mut metadata = match &before {
            Some(metadata) => metadata.clone(),
            None => self.make()?,
        };
        let mut to_do = Vec::new();
        let root = self.renew_root(&mut metadata, &mut to_do)?;
        let signing = self.signing()?;
        let mut listed = Listed(roles::read::<Targets>(&metadata.targets)?.signed.targets);
        let (as_listed, mut missing) = (listed.clone(), Vec::new());
        edit(&mut listed, &mut metadata.withdrawn, &mut missing)?;
        if signing.is_some() {
            for (manifest, digest) in missing.drain(..) {
                let path = self.dir.artefact(&manifest.digest);
                match sha256_of(self.dir, manifest.digest) {
                    Ok(sha256) => listed.add(&manifest, digest, sha256)?,
                    Err(error) => to_do.push(format!(
                        "{} is not listed, because {} cannot be read: {error}; import it again",
                        manifest.name,
                        path.display()
                    )),
                }
            }
        }
        for (manifest, _) in &missing {
            to_do.push(format!(
                "{} is imported and not listed, so nodes do not take it; run `control-plane registry sign --signing-key FILE`",
                manifest.name
            ));
        }
        let lifetime = self.lifetimes.targets_s();
        let stands = roles::stands::<Targets>(&root, &metadata.targets);
        let due = stands.as_ref().map_or(true, |(_, expires)| is_due(*expires, lifetime, self.now));
        if signing.is_some() && (listed != as_listed || due) {
            self.sign_targets(&mut metadata, &root, &listed)?;
        } else if stands.map_or(true, |(_, expires)| is_urgent(expires, lifetime, self.now)) {
            to_do.push(
                "the list of models ends soon, and then nodes take no new one; run `control-plane registry sign --signing-key FILE`"
                    .into(),
            );
        }
        self.renew_online(&mut metadata, &root, false)?;
        let changed = before.as_ref() != Some(&metadata);
        if changed {
            metadata.store(self.dir)?;
        }
        Ok(Brought { metadata, changed, to_do })
    }

    /// All of it for the first time, with nothing listed.
    fn make(&self) -> Result<Metadata, TufError> {
        let signing = self.signing()?.ok_or(TufError::NotMade)?;
        let root = keys::read_or_make(&self.root_key_path())?;
        let snapshot = keys::read_or_make(&self.dir.snapshot_key())?;
        let timestamp = keys::read_or_make(&self.dir.timestamp_key())?;
        let named = Named {
            root: roles::public(&root),
            targets: roles::public(&signing),
            snapshot: roles::public(&snapshot),
            timestamp: roles::public(&timestamp),
        };
        let of_root = roles::root(1, self.now + self.lifetimes.root_s(), &named, &[&root])?;
        let version = roles::next_version(None, self.now);
        let targets = roles::targets(version, self.now + self.lifetimes.targets_s(), &Listed::default(), &signing)?;
        let of_snapshot = roles::snapshot(version, self.now + self.lifetimes.snapshot_s(), &targets, &snapshot)?;
        let of_timestamp =
            roles::timestamp(version, self.now + self.lifetimes.timestamp_s(), &of_snapshot, &timestamp)?;
        Ok(Metadata {
            roots: [(1, of_root)].into(),
            targets,
            snapshot: of_snapshot,
            timestamp: of_timestamp,
            withdrawn: BTreeSet::new(),
        })
    }

    /// Signs root metadata anew where that is due and its key is here. Returns the newest.
    fn renew_root(&self, metadata: &mut Metadata, to_do: &mut Vec<String>) -> Result<Root, TufError> {
        let root = metadata.root()?.signed;
        let named = roles::named(&root)?;
        if named.targets != roles::of_public(&self.dir.signing_public_key()?) {
            return Err(TufError::OtherSigningKey);
        }
        let (expires, lifetime) = (root.expires.as_second(), self.lifetimes.root_s());
        if !is_due(expires, lifetime, self.now) {
            return Ok(root);
        }
        let Some(key) = keys::named(&self.root_key_path(), &named.root)? else {
            if is_urgent(expires, lifetime, self.now) {
                to_do.push(
                    "the registry's root metadata ends soon, and then nodes take no new model; run `control-plane registry sign --root-key FILE`"
                        .into(),
                );
            }
            return Ok(root);
        };
        let version = root.version.get() + 1;
        let text = roles::root(version, self.now + lifetime, &named, &[&key])?;
        self.add_root(metadata, version, text);
        Ok(metadata.root()?.signed)
    }

    /// Adds root metadata; the oldest go, where there are more than nodes are told.
    pub(super) fn add_root(&self, metadata: &mut Metadata, version: u64, text: String) {
        metadata.roots.insert(version, text);
        while metadata.roots.len() > REGISTRY_ROOTS_MAX {
            metadata.roots.pop_first();
        }
    }

    fn next_version(&self, before: u64) -> u64 {
        roles::next_version(Some(before), self.now.saturating_add(self.above_s))
    }

    fn renew_targets(&self, metadata: &mut Metadata, root: &Root) -> Result<(), TufError> {
        let listed = Listed(roles::read::<Targets>(&metadata.targets)?.signed.targets);
        self.sign_targets(metadata, root, &listed)
    }

    fn sign_targets(&self, metadata: &mut Metadata, root: &Root, listed: &Listed) -> Result<(), TufError> {
        let signing = self.signing()?.ok_or(TufError::NotMade)?;
        if roles::named(root)?.targets != roles::public(&signing) {
            return Err(TufError::OtherSigningKey);
        }
        let before = roles::read::<Targets>(&metadata.targets)?.signed.version.get();
        let version = self.next_version(before);
        metadata.targets = roles::targets(version, self.now + self.lifetimes.targets_s(), listed, &signing)?;
        Ok(())
    }

    /// Signs snapshot and timestamp anew: always, or where they are due or do not belong to what is above them.
    pub(super) fn renew_online(&self, metadata: &mut Metadata, root: &Root, always: bool) -> Result<(), TufError> {
        let named = roles::named(root)?;
        let together = roles::belong_together(metadata)?;
        let before = roles::read::<Snapshot>(&metadata.snapshot)?.signed.version.get();
        let lifetime = self.lifetimes.snapshot_s();
        let stands = roles::stands::<Snapshot>(root, &metadata.snapshot);
        let snapshot = always || !together || stands.map_or(true, |(_, ends)| is_due(ends, lifetime, self.now));
        if snapshot {
            let key = Self::online(&self.dir.snapshot_key(), &named.snapshot)?;
            let version = self.next_version(before);
            metadata.snapshot = roles::snapshot(version, self.now + lifetime, &metadata.targets, &key)?;
        }
        let before = roles::read::<Timestamp>(&metadata.timestamp)?.signed.version.get();
        let lifetime = self.lifetimes.timestamp_s();
        let stands = roles::stands::<Timestamp>(root, &metadata.timestamp);
        if snapshot || stands.map_or(true, |(_, ends)| is_due(ends, lifetime, self.now)) {
            let key = Self::online(&self.dir.timestamp_key(), &named.timestamp)?;
            let version = self.next_version(before);
            metadata.timestamp = roles::timestamp(version, self.now + lifetime, &metadata.snapshot, &key)?;
        }
        Ok(())
    }
}
