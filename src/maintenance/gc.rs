//! Finds blobs that no attachment references (orphans), and attachments whose blobs are missing.
//! Partial restores and manual changes cause these; crashes do not.
//!
//! Can run while servers are running. It deletes nothing itself: orphans are queued for deletion,
//! and before deleting them a server checks a second time that nothing references them.

use std::collections::HashMap;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt;

use super::copy::Error;
use crate::blob::{BlobKey, BlobMeta};
use crate::clock::Timestamp;
use crate::db::table_copy::{ATTACHMENTS, TableSchema};
use crate::db::{Connection, attachments, blob_deletions};
use crate::domain::attachment::{Attachment, UploadState};
use crate::id::AttachmentId;
use crate::storage::Storage;

/// Minimum age of an orphan. An attachment may be about to reference a younger file.
pub const MIN_ORPHAN_AGE: Duration = Duration::from_hours(24);
/// Number of rows read at a time.
const PAGE: u32 = 1000;
/// Number of deletions queued per transaction.
const BATCH: usize = 500;

#[derive(Debug, Default)]
pub struct GcReport {
    /// Number of files that attachments reference.
    pub referenced: u64,
    /// Unreferenced files older than [`MIN_ORPHAN_AGE`], with their sizes in bytes.
    pub orphaned: Vec<(BlobKey, u64)>,
    /// Number of unreferenced files younger than [`MIN_ORPHAN_AGE`].
    pub recent: u64,
    /// Names of stored objects that do not have the format of a blob.
    pub unrecognized: Vec<String>,
    /// Attachments whose file is missing or has the wrong size, with a description of the problem.
    pub missing: Vec<(AttachmentId, String)>,
}

/// Compares the store with the database. Holds each file's name and size in memory, about 200 bytes
/// per file.
///
/// # Errors
/// The database or the store fails.
pub async fn find(storage: &Storage, now: SystemTime) -> Result<GcReport, Error> {
    let mut report = GcReport::default();
    let mut unreferenced: HashMap<String, BlobMeta> = HashMap::new();
    let mut listing = storage.blobs.list();
    while let Some(listed) = listing.try_next().await? {
        if listed.id.is_some() {
            unreferenced.insert(listed.name.clone(), listed);
        } else {
            report.unrecognized.push(listed.name);
        }
    }
    match_attachments(storage, &mut unreferenced, &mut report).await?;
    for listed in unreferenced.into_values() {
        let age = now.duration_since(listed.modified).unwrap_or_default();
        match key_of(storage, &listed).await? {
            Some(key) if age >= MIN_ORPHAN_AGE => report.orphaned.push((key, listed.size)),
            _ => report.recent += 1,
        }
    }
    Ok(report)
}

/// Removes referenced files from `unreferenced`, and reports those that are missing.
async fn match_attachments(
    storage: &Storage,
    unreferenced: &mut HashMap<String, BlobMeta>,
    report: &mut GcReport,
) -> Result<(), Error> {
    let schema = TableSchema::of(&mut *storage.db.read().await?, ATTACHMENTS).await?;
    // File sizes by name, so that a blob shared by several attachments is counted once.
    let mut referenced: HashMap<String, u64> = HashMap::new();
    let mut pages = pin!(schema.attachment_pages(&storage.db, PAGE));
    while let Some(page) = pages.try_next().await? {
        for (_, attachment) in page {
            if attachment.state == UploadState::Pending
                && let Some(bucket) = storage.blobs.bucket()
            {
                unreferenced.remove(&bucket.upload_name(attachment.id.blob_id()));
            }
            for (key, size) in files(&attachment) {
                let name = storage.blobs.name(&key);
                let found = referenced
                    .get(&name)
                    .copied()
                    .or_else(|| unreferenced.remove(&name).map(|listed| listed.size));
                if let Some(found) = found {
                    referenced.insert(name, found);
                }
                if found != Some(size)
                    && let Some(problem) = problem(storage, &key, size, attachment.id).await?
                {
                    report.missing.push((attachment.id, problem));
                }
            }
        }
    }
    report.referenced = referenced.len() as u64;
    Ok(())
}

/// Queues orphans for deletion. A running server deletes them within a minute; otherwise the next
/// server does so when it starts.
///
/// # Errors
/// The database fails.
pub async fn enqueue_deletion(
    storage: &Storage,
    orphans: Vec<(BlobKey, u64)>,
    now: Timestamp,
) -> Result<(), Error> {
    for batch in orphans.chunks(BATCH) {
        let keys: Vec<String> = batch.iter().map(|(key, _)| key.to_string()).collect();
        let write = storage.db.transaction(async move |db: &mut Connection| {
            for key in keys {
                blob_deletions::enqueue(db, &key, now, now).await?;
            }
            Ok::<_, Error>(())
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
    let variant = attachment
        .variant
        .as_ref()
        .map(|variant| (attachment.variant_key(variant), variant.size_bytes));
    std::iter::once((attachment.uploaded_key(), attachment.size_bytes))
        .chain(variant)
        .collect()
}

/// Returns a listed file's key exactly as an attachment would reference it. A server that deletes
/// the file and a transaction that adds a reference lock this key, so they cannot race. Returns
/// `None` for a direct upload that is still pending.
async fn key_of(storage: &Storage, listed: &BlobMeta) -> Result<Option<BlobKey>, Error> {
    let Some(id) = listed.id else { return Ok(None) };
    if storage.blobs.bucket().is_none() {
        return Ok(Some(BlobKey::from(id)));
    }
    let attachment =
        attachments::find_including_expired(&mut *storage.db.read().await?, id.attachment_id())
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

/// Rechecks a file that was missing or had another size in the listing. Returns `None` if the file
/// is correct by now or its attachment was deleted.
async fn problem(
    storage: &Storage,
    key: &BlobKey,
    size: u64,
    id: AttachmentId,
) -> Result<Option<String>, Error> {
    let found = storage.blobs.open(key).await?.map(|blob| blob.size());
    if found == Some(size)
        || attachments::find_including_expired(&mut *storage.db.read().await?, id)
            .await?
            .is_none()
    {
        return Ok(None);
    }
    Ok(Some(match found {
        Some(found) => format!("its file has {found} bytes and not {size}"),
        None => format!("its file of {size} bytes is missing"),
    }))
}
