//! Finds orphaned blobs and attachments with missing blobs. Crashes cause neither; partial restores and
//! manual changes do.
//!
//! Safe to run beside servers. It deletes nothing itself: orphans are queued for deletion, and the sweeper of
//! a server checks again that they are unreferenced before it deletes them.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt;

use super::copy::{Error, StorageRef};
use crate::blob::{BlobKey, BlobMeta, BlobStore};
use crate::clock::Timestamp;
use crate::db::table_copy::{ATTACHMENTS, Row, TableSchema};
use crate::db::{attachments, blob_deletions};
use crate::domain::attachment::{Attachment, UploadState};
use crate::id::AttachmentId;

/// Minimum age of an orphan. A younger file may be about to be referenced.
pub const MIN_ORPHAN_AGE: Duration = Duration::from_hours(24);
/// Number of rows read at a time.
const PAGE: u32 = 1000;

/// Result of a search.
#[derive(Debug, Default)]
pub struct GcReport {
    /// Number of files that attachments reference.
    pub referenced: u64,
    /// Orphans: unreferenced files older than [`MIN_ORPHAN_AGE`], with their sizes.
    pub orphaned: Vec<(BlobKey, u64)>,
    /// Number of unreferenced files younger than [`MIN_ORPHAN_AGE`].
    pub recent: u64,
    /// Object names that do not have the format of a blob.
    pub unrecognized: Vec<String>,
    /// Attachments whose file is missing or has the wrong size, with a description of the problem.
    pub missing: Vec<(AttachmentId, String)>,
}

/// Compares store and database. Holds the name and size of every file in memory, about 200 bytes each.
///
/// # Errors
/// The database or the store fails.
pub async fn find(side: StorageRef<'_>, now: SystemTime) -> Result<GcReport, Error> {
    let mut found = GcReport::default();
    let mut unnamed: HashMap<String, BlobMeta> = HashMap::new();
    let mut listing = side.blobs.list();
    while let Some(listed) = listing.try_next().await? {
        if listed.id.is_some() {
            unnamed.insert(listed.name.clone(), listed);
        } else {
            found.unrecognized.push(listed.name);
        }
    }
    let shape = TableSchema::of(&mut *side.db.read().await?, ATTACHMENTS).await?;
    let mut after: Option<Row> = None;
    // Several attachments may share a blob.
    let mut named: HashMap<String, u64> = HashMap::new();
    loop {
        let page = shape
            .attachments(&mut *side.db.read().await?, after.as_ref(), PAGE)
            .await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        for (_, attachment) in page {
            if attachment.state == UploadState::Pending && side.blobs.bucket().is_some() {
                unnamed.remove(&format!("uploads/{}", attachment.id));
            }
            for (key, size) in files(&attachment) {
                let name = name(side.blobs, &key);
                let there = named
                    .get(&name)
                    .copied()
                    .or_else(|| unnamed.remove(&name).map(|listed| listed.size));
                if let Some(there) = there {
                    named.insert(name, there);
                }
                if there != Some(size)
                    && let Some(problem) = problem(side, &key, size, attachment.id).await?
                {
                    found.missing.push((attachment.id, problem));
                }
            }
        }
    }
    found.referenced = named.len() as u64;
    for listed in unnamed.into_values() {
        let age = now.duration_since(listed.modified).unwrap_or_default();
        match key_of(side, &listed).await? {
            Some(key) if age >= MIN_ORPHAN_AGE => found.orphaned.push((key, listed.size)),
            _ => found.recent += 1,
        }
    }
    Ok(found)
}

/// Queues orphans for deletion. The sweeper of a running server deletes them within a minute; otherwise that
/// of the next server to start does.
///
/// # Errors
/// The database fails.
pub async fn enqueue_deletion(
    side: StorageRef<'_>,
    orphans: Vec<(BlobKey, u64)>,
    now: Timestamp,
) -> Result<(), Error> {
    for batch in orphans.chunks(500) {
        let keys: Vec<String> = batch.iter().map(|(key, _)| key.to_string()).collect();
        let write = side.db.write(move |db| {
            Box::pin(async move {
                for key in keys {
                    blob_deletions::enqueue(db, &key, now, now).await?;
                }
                Ok::<_, Error>(())
            })
        });
        write.await?;
    }
    Ok(())
}

/// Returns the keys and sizes of the blobs that an attachment requires.
fn files(attachment: &Attachment) -> Vec<(BlobKey, u64)> {
    if !matches!(attachment.state, UploadState::Stored { .. }) {
        return Vec::new();
    }
    let made = attachment
        .variant
        .as_ref()
        .map(|made| (attachment.made_key(made), made.size_bytes));
    std::iter::once((attachment.uploaded_key(), attachment.size_bytes))
        .chain(made)
        .collect()
}

/// Returns the name of a blob in a listing of the store.
fn name(blobs: &dyn BlobStore, key: &BlobKey) -> String {
    if blobs.bucket().is_some() {
        key.path().to_owned()
    } else {
        key.id().to_string()
    }
}

/// Returns the key of a listed file, exactly as an attachment would reference it: the sweeper and a
/// transaction that adds a reference lock the same key, so they cannot race. Returns `None` for a direct
/// upload that is still pending.
async fn key_of(side: StorageRef<'_>, listed: &BlobMeta) -> Result<Option<BlobKey>, Error> {
    let Some(id) = listed.id else { return Ok(None) };
    if side.blobs.bucket().is_none() {
        return Ok(Some(BlobKey::from(id)));
    }
    let attachment =
        attachments::find_including_expired(&mut *side.db.read().await?, id.attachment_id())
            .await?;
    if attachment
        .as_ref()
        .is_some_and(|attachment| attachment.state == UploadState::Pending)
    {
        return Ok(None);
    }
    let is_uploaded =
        attachment.is_none_or(|attachment| attachment.uploaded_key().path() == listed.name);
    let blob = if is_uploaded {
        id
    } else {
        id.attachment_id().variant_blob_id()
    };
    Ok(BlobKey::parse(&format!("{blob} {}", listed.name)))
}

/// Rechecks a file that the listing lacked or showed with another size. Returns `None` if the file is correct
/// by now or its attachment was deleted.
async fn problem(
    place: StorageRef<'_>,
    key: &BlobKey,
    size: u64,
    id: AttachmentId,
) -> Result<Option<String>, Error> {
    let there = place.blobs.open(key).await?.map(|blob| blob.size());
    if there == Some(size)
        || attachments::find_including_expired(&mut *place.db.read().await?, id)
            .await?
            .is_none()
    {
        return Ok(None);
    }
    Ok(Some(match there {
        Some(there) => format!("its file has {there} bytes and not {size}"),
        None => format!("its file of {size} bytes is missing"),
    }))
}
