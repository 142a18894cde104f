//! Upload bodies that are being received: one at a time for each attachment.
//!
//! A client whose connection is lost without a word tries again on another one, while the server still waits on the
//! first. So a body that stalls gives way to a newer one; one that keeps coming makes the newer one wait, and then
//! fail. Counts in this process only: behind several servers, each may receive one body of an attachment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::id::AttachmentId;

/// The bodies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bodies(Arc<Mutex<HashMap<AttachmentId, Running>>>);

/// A body as the others see it.
#[derive(Clone, Debug)]
struct Running {
    progress: Arc<Progress>,
    /// Closed when the body has ended.
    ended: watch::Receiver<()>,
}

#[derive(Debug)]
struct Progress {
    /// When the last byte came; `None` once all have.
    last_byte: Mutex<Option<Instant>>,
    replaced: Notify,
}

/// The one body of an attachment. Lets the next one in on drop.
#[derive(Debug)]
pub(crate) struct Receiving {
    bodies: Bodies,
    id: AttachmentId,
    progress: Arc<Progress>,
    _ended: watch::Sender<()>,
}

/// Another body of the attachment keeps coming.
#[derive(Debug)]
pub(crate) struct Busy;

impl Bodies {
    /// Waits until the attachment has no other body, and ends one that goes without a byte for `stall`. Waits no longer
    /// than that for one that does not.
    pub(crate) async fn begin(&self, id: AttachmentId, stall: Duration) -> Result<Receiving, Busy> {
        let deadline = Instant::now() + stall;
        loop {
            let mut running = match self.try_begin(id) {
                Ok(receiving) => return Ok(receiving),
                Err(running) => running,
            };
            let stalls_at = running.progress.last_byte().map(|last| last + stall);
            tokio::select! {
                // Fails when the sender is dropped, which is what is waited for.
                _ = running.ended.changed() => continue,
                () = sleep_until(stalls_at.unwrap_or(deadline).min(deadline)) => {}
            }
            let now = Instant::now();
            if running
                .progress
                .last_byte()
                .is_some_and(|last| last + stall <= now)
            {
                running.progress.replaced.notify_one();
                let _ = running.ended.changed().await;
            } else if now >= deadline {
                return Err(Busy);
            }
        }
    }

    fn try_begin(&self, id: AttachmentId) -> Result<Receiving, Running> {
        let mut bodies = self.lock();
        if let Some(running) = bodies.get(&id) {
            return Err(running.clone());
        }
        let progress = Arc::new(Progress {
            last_byte: Mutex::new(Some(Instant::now())),
            replaced: Notify::new(),
        });
        let (sender, ended) = watch::channel(());
        bodies.insert(
            id,
            Running {
                progress: Arc::clone(&progress),
                ended,
            },
        );
        Ok(Receiving {
            bodies: self.clone(),
            id,
            progress,
            _ended: sender,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AttachmentId, Running>> {
        self.0.lock().expect("no panic while locked")
    }
}

impl Progress {
    fn last_byte(&self) -> Option<Instant> {
        *self.last_byte.lock().expect("no panic while locked")
    }

    fn set(&self, last_byte: Option<Instant>) {
        *self.last_byte.lock().expect("no panic while locked") = last_byte;
    }
}

impl Receiving {
    /// Records that a byte came.
    pub(crate) fn moved(&self) {
        self.progress.set(Some(Instant::now()));
    }

    /// Records that all bytes came: from here on the body cannot stall.
    pub(crate) fn received(&self) {
        self.progress.set(None);
    }

    /// Waits until a newer body replaces this one.
    pub(crate) async fn replaced(&self) {
        self.progress.replaced.notified().await;
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.bodies.lock().remove(&self.id);
    }
}
