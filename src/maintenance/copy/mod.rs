//! Copies all of a server's data to another database and blob store. The copy is resumable: a
//! repeated run skips files that were already copied. The source is not changed.
//!
//! An attachment's bytes are hashed while they are read, written to the target, then read back and
//! hashed a second time. Its row is written only if this succeeds, so a row in the target proves
//! that its bytes are there.

mod files;
mod reconcile;

use std::pin::pin;

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::blob;
use crate::clock::Timestamp;
use crate::db::table_copy::{
    AFTER_ATTACHMENTS, ATTACHMENTS, BEFORE_ATTACHMENTS, Table, TableSchema, WITH_DELETIONS,
};
use crate::db::{self, Connection};
use crate::id::AttachmentId;
use crate::storage::Storage;

use files::copy_attachment;
use reconcile::{ensure_target_not_ahead, prune_deleted, prune_deleted_attachments};

/// Number of rows read and written at a time.
const PAGE: u32 = 200;
/// Number of attachments copied concurrently.
const COPY_CONCURRENCY: usize = 8;

/// Reasons why the whole copy fails. Files and rows that were already copied remain in the target.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Db(#[from] db::Error),
    #[error(transparent)]
    Blob(#[from] blob::Error),
    /// The target contains data that is not from an earlier copy.
    #[error(
        "--to contains {0} that --from never had, so it was in use; did you swap --from and --to?"
    )]
    InUse(String),
}

/// Receives reports on a copy's progress.
pub trait Progress: Sync {
    /// Announces the total number of attachments and of other rows.
    fn total(&self, attachments: u64, rows: u64);
    /// Reports that one attachment is finished.
    fn attachment(&self);
    /// Reports that this number of rows in other tables is finished.
    fn rows(&self, count: u64);
}

#[derive(Debug, Default)]
pub struct CopyReport {
    /// Number of attachments now in the target.
    pub attachments: u64,
    /// Number of files that this run copied.
    pub files: u64,
    /// Number of rows in tables other than attachments.
    pub rows: u64,
    /// Number of rows from an earlier copy that were deleted in the target, since the source no
    /// longer contains them.
    pub pruned: u64,
    /// Attachments that could not be copied, with the reason.
    pub failed: Vec<FailedAttachment>,
}

type FailedAttachment = (AttachmentId, String);

/// Copies all data. No server may be running on either side.
///
/// # Errors
/// A database or store fails. An attachment with lost or corrupted bytes is not an error: it is
/// listed in the result.
pub async fn copy(
    from: &Storage,
    to: &Storage,
    now: Timestamp,
    progress: &dyn Progress,
) -> Result<CopyReport, Error> {
    ensure_target_not_ahead(from, to).await?;
    announce_total(from, progress).await?;
    let mut report = CopyReport::default();
    for table in BEFORE_ATTACHMENTS {
        report.rows += copy_table(from, to, table, progress).await?;
    }
    copy_attachments(from, to, progress, &mut report).await?;
    for table in AFTER_ATTACHMENTS {
        report.rows += copy_table(from, to, table, progress).await?;
    }
    for table in WITH_DELETIONS {
        report.pruned += prune_deleted(from, to, table).await?;
    }
    report.pruned += prune_deleted_attachments(from, to, now).await?;
    Ok(report)
}

async fn announce_total(from: &Storage, progress: &dyn Progress) -> Result<(), Error> {
    let mut db = from.db.read().await?;
    let mut rows = 0;
    for table in BEFORE_ATTACHMENTS.into_iter().chain(AFTER_ATTACHMENTS) {
        let schema = TableSchema::of(&mut db, table).await?;
        rows += schema.count(&mut db).await?;
    }
    let schema = TableSchema::of(&mut db, ATTACHMENTS).await?;
    progress.total(schema.count(&mut db).await?, rows);
    Ok(())
}

async fn copy_table(
    from: &Storage,
    to: &Storage,
    table: Table,
    progress: &dyn Progress,
) -> Result<u64, Error> {
    let schema = TableSchema::of(&mut *from.db.read().await?, table).await?;
    let mut count = 0;
    let mut pages = pin!(schema.pages(&from.db, PAGE));
    while let Some(page) = pages.try_next().await? {
        let rows = page.len() as u64;
        let schema = schema.clone();
        let write = to.db.transaction(async move |db: &mut Connection| {
            for row in page {
                schema.write(db, row).await?;
            }
            Ok::<_, Error>(())
        });
        write.await?;
        count += rows;
        progress.rows(rows);
    }
    Ok(count)
}

async fn copy_attachments(
    from: &Storage,
    to: &Storage,
    progress: &dyn Progress,
    report: &mut CopyReport,
) -> Result<(), Error> {
    let schema = TableSchema::of(&mut *from.db.read().await?, ATTACHMENTS).await?;
    let mut pages = pin!(schema.attachment_pages(&from.db, PAGE));
    while let Some(page) = pages.try_next().await? {
        let copies = page
            .into_iter()
            .map(|(row, attachment)| copy_attachment(from, to, &schema, row, attachment, progress));
        let outcomes: Vec<_> = stream::iter(copies)
            .buffer_unordered(COPY_CONCURRENCY)
            .try_collect()
            .await?;
        for outcome in outcomes {
            match outcome {
                Ok(files) => {
                    report.attachments += 1;
                    report.files += files;
                }
                Err(failed) => report.failed.push(failed),
            }
        }
    }
    Ok(())
}
