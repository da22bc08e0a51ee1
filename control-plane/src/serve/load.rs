//! From a store to the state of a server: the fleet, and the audit next to its file.

use crate::{
    audit::{self, Audit, AuditFile, Stored},
    control::socket::Transfers,
    fleet::Fleet,
    plane::Kept,
    state_dir::StateDir,
    store::{
        Store as _, StoreError,
        etcd::{EtcdSettings, EtcdStore, Fence, Leader},
        open::{self, Opened},
        sled_store::SledStore,
        snapshot,
        writer::StoreWriter,
    },
};
use anyhow::Context as _;
use std::fs;

/// The state, and the thread that writes it.
pub(super) struct Loaded {
    pub kept: Kept,
    pub store_thread: std::thread::JoinHandle<()>,
}

/// Opens the store in the state folder, whatever state it is in. The writing thread holds the lock until it has let go of the store.
pub(super) fn own(
    dir: &StateDir,
    now: i64,
    transfers: &Transfers,
    lock: impl Send + 'static,
) -> anyhow::Result<Loaded> {
    if let Ok(moved) = fs::read_to_string(dir.moved()) {
        let moved = StoreError::Moved(moved.trim().to_owned());
        let remedy = format!(
            "set `store` in {}. To go on with what is still here, and without all that was changed there since, remove {}",
            dir.config_path().display(),
            dir.moved().display()
        );
        return Err(anyhow::Error::new(moved).context(remedy));
    }
    let (store, fleet, audit) = open_own(dir, now)?;
    let (store, store_thread) = StoreWriter::start(store, lock)?;
    let kept = Kept { fleet, store, audit, leads: None, transfers: transfers.clone() };
    Ok(Loaded { kept, store_thread })
}

/// Opens a shared store for its leader, and brings the folder's audit up to it. Blocks, and not within a runtime.
pub(super) fn shared(
    dir: &StateDir,
    settings: &EtcdSettings,
    fence: Fence,
    leads: Leader,
    now: i64,
    transfers: &Transfers,
) -> anyhow::Result<Loaded> {
    let mut store = EtcdStore::open(settings, fence)?;
    let path = dir.audit();
    let lines = audit::lines(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let entries = audit::entries_after(&store, lines)?;
    let fleet = Fleet::load(&entries, now)?;
    let stored = Stored::find(&entries).context("the audit's end in the store")?;
    let audit =
        AuditFile::open(&path, stored, false, now).with_context(|| format!("{} cannot be used", path.display()))?;
    tell_problem(&audit);
    if audit.problem.is_some() {
        tracing::error!(
            "etcd has every line: stop this control plane, move {} away, and it is written anew when this one leads",
            path.display()
        );
    }
    if !audit.writes.is_empty() {
        store.write(&audit.writes)?;
    }
    let (store, store_thread) = StoreWriter::start(store, ())?;
    let kept = Kept { fleet, store, audit: Audit::shared(audit), leads: Some(leads), transfers: transfers.clone() };
    Ok(Loaded { kept, store_thread })
}

fn tell_problem(audit: &audit::Opened) {
    if let Some(problem) = &audit.problem {
        tracing::error!(
            problem,
            "audit.log is not as it was left; see `control-plane audit verify`. Changes go on being added to it"
        );
    }
}

fn open_own(dir: &StateDir, now: i64) -> anyhow::Result<(SledStore, Fleet, Audit)> {
    let opened = open::open(&dir.store(), &dir.snapshot(), now)?;
    let (mut store, restored) = match opened {
        Opened::Whole(store) => (store, None),
        Opened::Restored { store, damage, set_aside, exported_unix_s } => {
            let set_aside = set_aside.display();
            match exported_unix_s {
                Some(at) => tracing::error!(
                    damage, %set_aside, exported = crate::api::views::time(at),
                    "the store was damaged and is set aside; its last export was restored. Check nodes enrolled and changes applied since then"
                ),
                None => tracing::error!(
                    damage, %set_aside,
                    "the store was damaged and is set aside; there is no export, so it begins empty. Apply the regions and enrol the nodes again"
                ),
            }
            (store, Some(exported_unix_s))
        }
    };
    let entries = store.scan("")?;
    let mut fleet = Fleet::load(&entries, now)?;
    let stored = Stored::find(&entries).context("the audit's end in the store")?;
    let audit = AuditFile::open(&dir.audit(), stored, restored.is_some(), now)
        .with_context(|| format!("{} cannot be used", dir.audit().display()))?;
    if let Some(exported_unix_s) = restored {
        store.write(&fleet.restored(exported_unix_s.unwrap_or(now), now, &audit.since))?;
    }
    tell_problem(&audit);
    if !audit.writes.is_empty() {
        store.write(&audit.writes)?;
    }
    if restored.is_some() {
        // The new store counts its batches from one, so that the export of the old one would say that it has lost some.
        snapshot::export(&store, &dir.snapshot(), now)?;
    }
    Ok((store, fleet, Audit::new(audit)))
}
