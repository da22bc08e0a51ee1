//! The registry's metadata for people and programs.

use super::{Metadata, TufError, roles};
use serde::Serialize;
use serde_json::Value;
use tough::schema::{RoleType, Root, Snapshot, Target, Targets, Timestamp};

/// What stands in the metadata.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct View {
    /// Its roles, from the root down.
    pub roles: Vec<RoleView>,
    /// The models that are listed, by name and version.
    pub targets: Vec<TargetView>,
}

/// One role.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoleView {
    /// `root`, `targets`, `snapshot` or `timestamp`.
    pub role: String,
    /// The number of its metadata.
    pub version: u64,
    /// When that ends, seconds since 1970.
    pub expires_unix_s: i64,
    /// The id of its key, hex.
    pub key: String,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct TargetView {
    /// Its name.
    pub model: String,
    /// Its version.
    pub version: String,
    /// The size of its file.
    pub bytes: u64,
    /// The BLAKE3 of its file, hex.
    pub digest: String,
}

impl View {
    /// Of metadata whose signatures hold.
    pub fn of(metadata: &Metadata) -> Result<Self, TufError> {
        let root = metadata.root()?.signed;
        let role = |role: RoleType, (version, expires_unix_s): (u64, i64)| RoleView {
            role: role.to_string(),
            version,
            expires_unix_s,
            key: root.roles.get(&role).and_then(|keys| keys.keyids.first()).map_or_else(String::new, hex),
        };
        let targets = roles::read::<Targets>(&metadata.targets)?.signed;
        let text = |target: &Target, field: &str| {
            target.custom.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let mut listed: Vec<TargetView> = targets
            .targets
            .iter()
            .map(|(name, target)| TargetView {
                model: text(target, "model"),
                version: text(target, "version"),
                bytes: target.length,
                digest: name.raw().to_owned(),
            })
            .collect();
        listed.sort();
        Ok(Self {
            roles: vec![
                role(RoleType::Root, roles::stands::<Root>(&root, metadata.root_text().unwrap_or_default())?),
                role(RoleType::Targets, roles::stands::<Targets>(&root, &metadata.targets)?),
                role(RoleType::Snapshot, roles::stands::<Snapshot>(&root, &metadata.snapshot)?),
                role(RoleType::Timestamp, roles::stands::<Timestamp>(&root, &metadata.timestamp)?),
            ],
            targets: listed,
        })
    }
}

fn hex(bytes: &tough::schema::decoded::Decoded<tough::schema::decoded::Hex>) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
