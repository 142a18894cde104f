//! How many bytes a partner's sends have fetched that no message has taken yet. A send keeps what it fetched until its
//! last file is there; so slow files must not make fast ones fill the disk.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::id::PartnerId;

/// The counts. There are as many as partners, which an operator makes by hand; so they are kept for ever.
#[derive(Debug, Default)]
pub(super) struct Unsettled(Mutex<HashMap<PartnerId, Arc<AtomicU64>>>);

/// Bytes that count until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    count: Arc<AtomicU64>,
    bytes: u64,
    most: u64,
}

impl Unsettled {
    /// Nothing yet, of a partner who may have `most` bytes.
    pub(super) fn begin(&self, partner: PartnerId, most: u64) -> Held {
        let count = Arc::clone(self.0.lock().expect("no panic while locked").entry(partner).or_default());
        Held { count, bytes: 0, most }
    }
}

impl Held {
    /// Counts more bytes. `false`: they are too many.
    pub(super) fn add(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        self.count.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.most
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.count.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
