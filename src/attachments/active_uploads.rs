//! Registers the uploads in progress, at most one per attachment.
//!
//! A client whose connection broke retries on a new connection while the server still waits on the
//! old one. So a newer upload replaces one that has stalled. If the older upload still makes
//! progress, the newer one waits for it, and fails if that takes too long. The registry covers one
//! process only: behind several servers, each may receive one upload of an attachment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::id::AttachmentId;

#[derive(Clone, Debug, Default)]
pub(super) struct ActiveUploads(Arc<Mutex<HashMap<AttachmentId, Entry>>>);

/// An upload in progress, as other uploads of the same attachment see it.
#[derive(Clone, Debug)]
struct Entry {
    progress: Arc<Progress>,
    /// Channel that is closed when the upload ends.
    ended: watch::Receiver<()>,
}

#[derive(Debug)]
struct Progress {
    /// Time at which the last chunk arrived; `None` once the body is complete.
    last_chunk: Mutex<Option<Instant>>,
    replaced: Notify,
}

/// Guard of an attachment's active upload; dropping it lets the next upload start.
#[derive(Debug)]
pub(super) struct ActiveUpload {
    uploads: ActiveUploads,
    id: AttachmentId,
    progress: Arc<Progress>,
    _ended: watch::Sender<()>,
}

/// Error: another upload of the attachment is making progress.
#[derive(Debug)]
pub(super) struct Busy;

impl ActiveUploads {
    /// Starts an upload, after waiting for any other upload of the attachment. Replaces the other
    /// upload if it makes no progress for `stall`; fails after that time if it does make progress.
    pub(super) async fn begin(
        &self,
        id: AttachmentId,
        stall: Duration,
    ) -> Result<ActiveUpload, Busy> {
        let deadline = Instant::now() + stall;
        loop {
            let mut other = match self.try_begin(id) {
                Ok(upload) => return Ok(upload),
                Err(other) => other,
            };
            let stalls_at = other.progress.last_chunk().map(|last| last + stall);
            tokio::select! {
                // `changed` fails once the sender is dropped, that is, when the other upload has
                // ended.
                _ = other.ended.changed() => continue,
                () = sleep_until(stalls_at.unwrap_or(deadline).min(deadline)) => {}
            }
            let now = Instant::now();
            if other
                .progress
                .last_chunk()
                .is_some_and(|last| last + stall <= now)
            {
                other.progress.replaced.notify_one();
                let _ = other.ended.changed().await;
            } else if now >= deadline {
                return Err(Busy);
            }
        }
    }

    fn try_begin(&self, id: AttachmentId) -> Result<ActiveUpload, Entry> {
        let mut uploads = self.lock();
        if let Some(other) = uploads.get(&id) {
            return Err(other.clone());
        }
        let progress = Arc::new(Progress {
            last_chunk: Mutex::new(Some(Instant::now())),
            replaced: Notify::new(),
        });
        let (sender, ended) = watch::channel(());
        let entry = Entry {
            progress: Arc::clone(&progress),
            ended,
        };
        uploads.insert(id, entry);
        Ok(ActiveUpload {
            uploads: self.clone(),
            id,
            progress,
            _ended: sender,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AttachmentId, Entry>> {
        self.0.lock().expect("no panic while locked")
    }
}

impl Progress {
    fn last_chunk(&self) -> Option<Instant> {
        *self.last_chunk.lock().expect("no panic while locked")
    }

    fn set_last_chunk(&self, at: Option<Instant>) {
        *self.last_chunk.lock().expect("no panic while locked") = at;
    }
}

impl ActiveUpload {
    pub(super) fn record_chunk(&self) {
        self.progress.set_last_chunk(Some(Instant::now()));
    }

    /// Records that the body is complete: from here on the upload cannot stall.
    pub(super) fn record_complete(&self) {
        self.progress.set_last_chunk(None);
    }

    /// Waits until a newer upload of the attachment replaces this one.
    pub(super) async fn replaced(&self) {
        self.progress.replaced.notified().await;
    }
}

impl Drop for ActiveUpload {
    fn drop(&mut self) {
        self.uploads.lock().remove(&self.id);
    }
}
