//! Moving a stopped control plane's store: from the state folder to etcd, and back.
//!
//! FAILURE LADDER. Nothing is written where anything is already. What was written is read back and compared before the source is marked as moved; a move that
//! was cut off before that leaves the source as it was, and a target that says that it is not empty. The mark is all that changes at the source: its
//! data stays, and a control plane that is started on it says where the data is now.

use super::{
    Contents, Store as _, StoreError, Write,
    etcd::{self, Client, EtcdError, EtcdSettings, EtcdStore, Leader, Leadership},
    open::attempt,
    sled_store::SledStore,
    snapshot,
};
use crate::{
    audit::{self, Stored},
    state_dir::StateDir,
};
use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Why nothing was moved. The source is as it was.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// Something is there.
    #[error(
        "{0} is not empty; nothing is ever replaced. Name another prefix (etcd://HOST:2379/PREFIX), or remove what is there if it is of a move that was cut off"
    )]
    NotEmpty(String),
    /// A control plane leads there.
    #[error("{0} leads a fleet in this store; stop every control plane that uses it first")]
    Led(String),
    /// The folder's own store is in the way.
    #[error("{store} is there already; move it away first, for example to {store}.old", store = .0.display())]
    StoreIsThere(PathBuf),
    /// What was read back is not what was written.
    #[error("what was read back from {0} is not what was written; use neither, and check its disk")]
    Differs(String),
    /// The store says no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// etcd says no.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// The disk says no.
    #[error("{path}: {error}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk says.
        error: io::Error,
    },
}

/// What was moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Values.
    pub values: usize,
    /// Lines of the audit.
    pub audit_lines: usize,
    /// What is wrong with the audit, if something is; it is moved as it is.
    pub audit_problem: Option<String>,
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> MigrateError + '_ {
    move |error| MigrateError::Io { path: path.to_owned(), error }
}

fn stored(entries: &[(String, String)]) -> Result<Stored, StoreError> {
    Stored::find(entries).map_err(|e| StoreError::Damaged { key: "audit/head".into(), detail: e.to_string() })
}

/// The leadership, for as long as data is moved, so that nobody else writes.
fn lead(settings: &EtcdSettings, url: &str, now: i64) -> Result<Leadership, MigrateError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| EtcdError::Settings(format!("no runtime: {e}")))?;
    let client = Client::new(settings)?;
    let me = Leader {
        name: format!("`control-plane migrate` on {}", settings.name()),
        agents: "-".into(),
        pid: std::process::id(),
        since_unix_s: now,
    };
    runtime.block_on(async {
        match etcd::campaign(&client, settings, &me).await? {
            Some(leadership) => Ok(leadership),
            None => {
                let leader = etcd::who_leads(&client, settings).await?;
                Err(MigrateError::Led(leader.map_or_else(|| format!("somebody at {url}"), |leader| leader.name)))
            }
        }
    })
}

/// Moves the store of a state folder, whose lock the caller holds, to etcd. Blocks, and not within a runtime.
pub fn to_etcd(dir: &StateDir, settings: &EtcdSettings, url: &str, now: i64) -> Result<Moved, MigrateError> {
    if let Ok(to) = fs::read_to_string(dir.moved()) {
        return Err(StoreError::Moved(to.trim().to_owned()).into());
    }
    let contents = Contents::of(&attempt(&dir.store())?)?;
    let (lines, audit_problem) = stored(&contents.entries)?.whole(&dir.audit()).map_err(io_error(&dir.audit()))?;
    let audit_lines = lines.len();
    let mut wanted: Vec<(String, String)> =
        contents.entries.into_iter().filter(|(key, _)| !audit::is_line(key)).chain(lines).collect();
    wanted.sort();
    let writes: Vec<Write> =
        wanted.iter().map(|(key, value)| Write::Put { key: key.clone(), value: value.clone() }).collect();
    let leadership = lead(settings, url, now)?;
    let result = (|| {
        let mut target = match EtcdStore::open(settings, leadership.fence()) {
            Err(StoreError::Moved(_)) => return Err(MigrateError::NotEmpty(url.to_owned())),
            opened => opened?,
        };
        if target.batches() > 0 {
            return Err(MigrateError::NotEmpty(url.to_owned()));
        }
        target.write(&writes)?;
        if etcd::contents(settings)?.entries != wanted {
            return Err(MigrateError::Differs(url.to_owned()));
        }
        mark(&dir.moved(), url).map_err(io_error(&dir.moved()))
    })();
    leadership.resign();
    result?;
    Ok(Moved { values: wanted.len() - audit_lines, audit_lines, audit_problem })
}

/// Moves what is in etcd into the store of a state folder, whose lock the caller holds. Blocks, and not within a runtime.
pub fn to_sled(dir: &StateDir, settings: &EtcdSettings, url: &str, now: i64) -> Result<Moved, MigrateError> {
    if fs::exists(dir.store()).map_err(io_error(&dir.store()))? {
        return Err(MigrateError::StoreIsThere(dir.store()));
    }
    let leadership = lead(settings, url, now)?;
    let result = fill(dir, settings, &leadership, now);
    leadership.resign();
    result
}

fn fill(dir: &StateDir, settings: &EtcdSettings, leadership: &Leadership, now: i64) -> Result<Moved, MigrateError> {
    // Opened as whoever leads does it, so that a change that was cut off is applied to its end.
    let contents = Contents::of(&EtcdStore::open(settings, leadership.fence())?)?;
    let known = audit::lines(&dir.audit()).map_err(io_error(&dir.audit()))?;
    let audit_problem = stored(&contents.entries)?.holds(&dir.audit(), false).map_err(io_error(&dir.audit()))?.1;
    let audit_lines = contents.entries.iter().filter(|(key, _)| audit::is_line(key)).count();
    // Lines that the file has are not needed twice.
    let wanted: Vec<(String, String)> =
        contents.entries.into_iter().filter(|(key, _)| !audit::is_line_within(key, known)).collect();
    let writes: Vec<Write> =
        wanted.iter().map(|(key, value)| Write::Put { key: key.clone(), value: value.clone() }).collect();
    let target = dir.store();
    SledStore::open(&target)?.write(&writes)?;
    let store = attempt(&target)?;
    if store.scan("")? != wanted {
        return Err(MigrateError::Differs(target.display().to_string()));
    }
    snapshot::export(&store, &dir.snapshot(), now)?;
    etcd::mark_moved(settings, &leadership.fence(), &dir.root().display().to_string())?;
    match fs::remove_file(dir.moved()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&dir.moved())(error)),
        _ => {}
    }
    let values = wanted.iter().filter(|(key, _)| !audit::is_line(key)).count();
    Ok(Moved { values, audit_lines, audit_problem })
}

fn mark(path: &Path, to: &str) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    writeln!(file, "{to}")?;
    file.sync_all()?;
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}
