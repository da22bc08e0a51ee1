//! One thread writes; everyone else hands it changes and waits until they are on the disk.
//!
//! BACKPRESSURE: [`QUEUE_MAX`] jobs wait at most; one more is refused with `Overloaded`. Jobs that wait together are
//! written together, so that a thousand agents that come back at once cost a few syncs of the disk and not a thousand.

use super::{Store, StoreError, Write, open::message, snapshot};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::mpsc,
    thread,
};
use tokio::sync::oneshot;

/// Jobs that wait at most: one for each of 20,000 agents would mean a disk that is minutes behind.
pub const QUEUE_MAX: usize = 4096;

enum Job {
    Write(Vec<Write>, oneshot::Sender<Result<(), StoreError>>),
    Export { path: PathBuf, unix_s: i64, done: oneshot::Sender<Result<(), StoreError>> },
}

/// Hands changes to the writing thread. The thread ends when the last handle is gone.
#[derive(Debug, Clone)]
pub struct StoreWriter {
    jobs: mpsc::SyncSender<Job>,
}

impl StoreWriter {
    /// Starts the thread. It holds `lock` until it has let go of the store, so that nobody opens it in between.
    pub fn start(
        store: impl Store + 'static,
        lock: impl Send + 'static,
    ) -> std::io::Result<(Self, thread::JoinHandle<()>)> {
        let (jobs, queue) = mpsc::sync_channel(QUEUE_MAX);
        let thread = thread::Builder::new().name("store".into()).spawn(move || {
            run(store, &queue);
            drop(lock);
        })?;
        Ok((Self { jobs }, thread))
    }

    /// Hands changes over, in the order of the calls; the returned future ends when they are on the disk.
    pub fn write(&self, writes: Vec<Write>) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (done, wait) = oneshot::channel();
        let queued = if writes.is_empty() {
            done.send(Ok(())).ok();
            Ok(())
        } else {
            self.queue(Job::Write(writes, done))
        };
        finish(queued, wait)
    }

    /// Exports the whole store to a file.
    pub fn export(&self, path: PathBuf, unix_s: i64) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (done, wait) = oneshot::channel();
        finish(self.queue(Job::Export { path, unix_s, done }), wait)
    }

    fn queue(&self, job: Job) -> Result<(), StoreError> {
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => StoreError::Overloaded,
            mpsc::TrySendError::Disconnected(_) => StoreError::Engine("its thread has ended".into()),
        })
    }
}

async fn finish(
    queued: Result<(), StoreError>,
    wait: oneshot::Receiver<Result<(), StoreError>>,
) -> Result<(), StoreError> {
    queued?;
    wait.await.unwrap_or_else(|_| Err(StoreError::Engine("its thread has ended".into())))
}

fn run(mut store: impl Store, queue: &mpsc::Receiver<Job>) {
    let mut next = queue.recv().ok();
    while let Some(job) = next.take() {
        match job {
            Job::Write(mut batch, done) => {
                let mut waiting = vec![done];
                while batch.len() < store.batch_max() {
                    match queue.try_recv() {
                        Ok(Job::Write(writes, done)) if batch.len() + writes.len() <= store.batch_max() => {
                            batch.extend(writes);
                            waiting.push(done);
                        }
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                let result = guarded(|| store.write(&batch));
                for done in waiting {
                    // Whoever asked may have gone away; the change is made all the same.
                    done.send(result.clone()).ok();
                }
            }
            Job::Export { path, unix_s, done } => {
                let result = guarded(|| snapshot::export(&store, &path, unix_s));
                done.send(result).ok();
            }
        }
        if next.is_none() {
            next = queue.recv().ok();
        }
    }
}

fn guarded(act: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
    catch_unwind(AssertUnwindSafe(act))
        .unwrap_or_else(|panic| Err(StoreError::Engine(format!("it panicked: {}", message(&*panic)))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sled_store::SledStore;

    fn put(key: String) -> Vec<Write> {
        vec![Write::Put { key, value: "1".into() }]
    }

    #[tokio::test]
    async fn many_writers_share_syncs_and_all_are_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (writer, thread) = StoreWriter::start(SledStore::open(dir.path()).unwrap(), ()).unwrap();
        let waits: Vec<_> = (0..1000).map(|i| writer.write(put(format!("k/{i:04}")))).collect();
        for wait in waits {
            wait.await.unwrap();
        }
        drop(writer);
        thread.join().unwrap();
        assert_eq!(SledStore::open(dir.path()).unwrap().scan("k/").unwrap().len(), 1000);
    }

    struct Failing;

    impl Store for Failing {
        fn get(&self, _: &str) -> Result<Option<String>, StoreError> {
            Ok(None)
        }
        fn scan(&self, _: &str) -> Result<Vec<(String, String)>, StoreError> {
            Ok(vec![])
        }
        fn write(&mut self, batch: &[Write]) -> Result<(), StoreError> {
            match batch[0].key() {
                "panics" => panic!("on request"),
                "fails" => Err(StoreError::Engine("disk full".into())),
                _ => Ok(()),
            }
        }
        fn batches(&self) -> u64 {
            0
        }
    }

    #[tokio::test]
    async fn a_failing_disk_is_told_and_the_thread_lives_on() {
        let (writer, _thread) = StoreWriter::start(Failing, ()).unwrap();
        let error = writer.write(put("panics".into())).await.unwrap_err().to_string();
        assert!(error.contains("on request"), "{error}");
        assert!(writer.write(put("fails".into())).await.unwrap_err().to_string().contains("disk full"));
        assert!(writer.write(put("works".into())).await.is_ok());
    }
}
