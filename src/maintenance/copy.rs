//! Copies all data of a server to another database and blob store. The copy is resumable: a repeated run
//! skips files that were already copied. The source is not changed.
//!
//! The bytes of an attachment are hashed while they are read, written to the target, read back and hashed
//! again. Only then its row is written, so that a row in the target proves that its bytes are there.

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::attachments::download::metadata;
use crate::blob::{self, BlobKey, BlobStore, Digests, ObjectHeaders};
use crate::clock::Timestamp;
use crate::db::table_copy::{
    AFTER_ATTACHMENTS, ATTACHMENTS, BEFORE_ATTACHMENTS, NEVER_DELETED, Row, Table, TableSchema,
    WITH_DELETIONS,
};
use crate::db::{self, Db, attachments, audit_records};
use crate::domain::attachment::{Attachment, UploadState};
use crate::id::AttachmentId;

/// Number of rows read and written at a time.
const PAGE: u32 = 200;
/// Number of attachments copied concurrently.
const COPY_CONCURRENCY: usize = 8;

/// Source or target of a copy: a database and a blob store.
#[derive(Clone, Copy, Debug)]
pub struct StorageRef<'a> {
    pub db: &'a Db,
    pub blobs: &'a dyn BlobStore,
}

/// Failure of a whole copy. Files and rows copied before it remain in the target.
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

/// Receives progress reports.
pub trait Progress: Sync {
    /// Announces the total number of attachments and of other rows.
    fn total(&self, attachments: u64, rows: u64);
    /// Reports one finished attachment.
    fn attachment(&self);
    /// Reports finished rows of other tables.
    fn rows(&self, count: u64);
}

/// Result of a copy.
#[derive(Debug, Default)]
pub struct CopyReport {
    /// Attachments that the target now contains.
    pub attachments: u64,
    /// Files copied by this run.
    pub files: u64,
    /// Rows of tables other than attachments.
    pub rows: u64,
    /// Rows of an earlier copy that were deleted in the target, since the source no longer contains them.
    pub gone: u64,
    /// Attachments that could not be copied, with the reason.
    pub left: Vec<(AttachmentId, String)>,
}

/// Failure to copy a file: of this attachment only, or of the whole copy.
enum CopyError {
    Attachment(String),
    Fatal(Error),
}

impl<E: Into<Error>> From<E> for CopyError {
    fn from(error: E) -> Self {
        Self::Fatal(error.into())
    }
}

/// Copies all data. No server may be running on either side.
///
/// # Errors
/// A database or store fails. An attachment with lost or corrupted bytes is not an error: it is listed in the
/// result.
pub async fn copy(
    from: StorageRef<'_>,
    to: StorageRef<'_>,
    now: Timestamp,
    progress: &dyn Progress,
) -> Result<CopyReport, Error> {
    ensure_target_not_ahead(from, to).await?;
    let mut moved = CopyReport::default();
    let shape = TableSchema::of(&mut *from.db.read().await?, ATTACHMENTS).await?;
    let mut rows = 0;
    for table in BEFORE_ATTACHMENTS.into_iter().chain(AFTER_ATTACHMENTS) {
        let mut db = from.db.read().await?;
        rows += TableSchema::of(&mut db, table)
            .await?
            .count(&mut db)
            .await?;
    }
    progress.total(shape.count(&mut *from.db.read().await?).await?, rows);
    for table in BEFORE_ATTACHMENTS {
        moved.rows += self::copy_table(from, to, table, progress).await?;
    }

    let mut after: Option<Row> = None;
    loop {
        let page = shape
            .attachments(&mut *from.db.read().await?, after.as_ref(), PAGE)
            .await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        let each = page
            .into_iter()
            .map(|(row, attachment)| copy_attachment(from, to, &shape, row, attachment, progress));
        let outcomes: Vec<_> = stream::iter(each)
            .buffer_unordered(COPY_CONCURRENCY)
            .try_collect()
            .await?;
        for outcome in outcomes {
            match outcome {
                Ok(files) => {
                    moved.attachments += 1;
                    moved.files += files;
                }
                Err(left) => moved.left.push(left),
            }
        }
    }
    for table in AFTER_ATTACHMENTS {
        moved.rows += self::copy_table(from, to, table, progress).await?;
    }
    for table in WITH_DELETIONS {
        moved.gone += prune_deleted(from, to, table).await?;
    }
    moved.gone += prune_deleted_attachments(from, to, now).await?;
    Ok(moved)
}

/// Fails if the target is newer than the source, as a copy would overwrite changes. Messages are never
/// deleted and deleted attachments leave an audit record, so rows that the source never contained were
/// created in the target.
async fn ensure_target_not_ahead(from: StorageRef<'_>, to: StorageRef<'_>) -> Result<(), Error> {
    for table in NEVER_DELETED {
        let shape = TableSchema::of(&mut *to.db.read().await?, table).await?;
        let mut after: Option<Row> = None;
        loop {
            let page = shape
                .page(&mut *to.db.read().await?, after.as_ref(), PAGE)
                .await?;
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            for row in page {
                if !shape.is_there(&mut *from.db.read().await?, &row).await? {
                    return Err(Error::InUse(table.name.to_owned()));
                }
            }
        }
    }
    let shape = TableSchema::of(&mut *to.db.read().await?, ATTACHMENTS).await?;
    let mut after: Option<Row> = None;
    loop {
        let page = shape
            .attachments(&mut *to.db.read().await?, after.as_ref(), PAGE)
            .await?;
        let Some((last, _)) = page.last() else {
            return Ok(());
        };
        after = Some(last.clone());
        for (row, attachment) in page {
            let is_stored = matches!(attachment.state, UploadState::Stored { .. });
            if is_stored
                && !shape.is_there(&mut *from.db.read().await?, &row).await?
                && !audit_records::was_deleted(&mut *from.db.read().await?, attachment.id).await?
            {
                return Err(Error::InUse(format!("attachment {}", attachment.id)));
            }
        }
    }
}

/// Deletes the rows of an earlier copy that were since deleted in the source. Otherwise sent messages would
/// be sent again from the copied outbox.
async fn prune_deleted(
    from: StorageRef<'_>,
    to: StorageRef<'_>,
    table: Table,
) -> Result<u64, Error> {
    let shape = TableSchema::of(&mut *to.db.read().await?, table).await?;
    let (mut after, mut gone): (Option<Row>, u64) = (None, 0);
    loop {
        let page = shape
            .page(&mut *to.db.read().await?, after.as_ref(), PAGE)
            .await?;
        let Some(last) = page.last() else {
            return Ok(gone);
        };
        after = Some(last.clone());
        for row in page {
            if shape.is_there(&mut *from.db.read().await?, &row).await? {
                continue;
            }
            gone += 1;
            let shape = shape.clone();
            to.db
                .write(move |db| Box::pin(async move { shape.delete(db, &row).await }))
                .await?;
        }
    }
}

/// Deletes the attachments of an earlier copy that were since deleted in the source, with their files.
async fn prune_deleted_attachments(
    from: StorageRef<'_>,
    to: StorageRef<'_>,
    now: Timestamp,
) -> Result<u64, Error> {
    let shape = TableSchema::of(&mut *to.db.read().await?, ATTACHMENTS).await?;
    let (mut after, mut gone): (Option<Row>, u64) = (None, 0);
    loop {
        let page = shape
            .attachments(&mut *to.db.read().await?, after.as_ref(), PAGE)
            .await?;
        let Some((last, _)) = page.last() else {
            return Ok(gone);
        };
        after = Some(last.clone());
        for (row, attachment) in page {
            if shape.is_there(&mut *from.db.read().await?, &row).await? {
                continue;
            }
            gone += 1;
            let delete = to.db.write(move |db| {
                Box::pin(async move { attachments::delete_copied(db, &attachment, now).await })
            });
            for key in delete.await? {
                to.blobs.remove(&key).await?;
            }
        }
    }
}

async fn copy_table(
    from: StorageRef<'_>,
    to: StorageRef<'_>,
    table: Table,
    progress: &dyn Progress,
) -> Result<u64, Error> {
    let shape = TableSchema::of(&mut *from.db.read().await?, table).await?;
    let mut after: Option<Row> = None;
    let mut count = 0;
    loop {
        let page = shape
            .page(&mut *from.db.read().await?, after.as_ref(), PAGE)
            .await?;
        let Some(last) = page.last() else {
            return Ok(count);
        };
        after = Some(last.clone());
        let rows = page.len() as u64;
        let shape = shape.clone();
        let write = to.db.write(move |db| {
            Box::pin(async move {
                for row in page {
                    shape.write(db, row).await?;
                }
                Ok::<_, Error>(())
            })
        });
        write.await?;
        count += rows;
        progress.rows(rows);
    }
}

type Left = (AttachmentId, String);

/// Copies one attachment. Returns the number of files copied.
async fn copy_attachment(
    from: StorageRef<'_>,
    to: StorageRef<'_>,
    shape: &TableSchema,
    mut row: Row,
    attachment: Attachment,
    progress: &dyn Progress,
) -> Result<Result<u64, Left>, Error> {
    let there =
        attachments::find_including_expired(&mut *to.db.read().await?, attachment.id).await?;
    let target = at_target(&attachment, to.blobs);
    let files = match copy_files(from, to, &attachment, &target, there.as_ref()).await {
        Ok(files) => files,
        Err(CopyError::Attachment(why)) => return Ok(Err((attachment.id, why))),
        Err(CopyError::Fatal(error)) => return Err(error),
    };
    shape.set(
        &mut row,
        "blob_id",
        (!target.owns_blob()).then(|| target.blob_id.to_string()),
    );
    shape.set(
        &mut row,
        "variant_blob_id",
        target.variant.as_ref().map(|made| made.blob_id.to_string()),
    );
    let shape = shape.clone();
    let write = to
        .db
        .write(move |db| Box::pin(async move { shape.write(db, row).await }));
    write.await?;
    progress.attachment();
    Ok(Ok(files))
}

/// Returns the attachment as stored in the target. In a bucket, object keys equal URL paths, so attachments
/// cannot share a blob.
fn at_target(attachment: &Attachment, to: &dyn BlobStore) -> Attachment {
    let mut target = attachment.clone();
    if to.bucket().is_some() && !target.owns_blob() {
        target.blob_id = target.id.blob_id();
        if let Some(made) = &mut target.variant {
            made.blob_id = target.id.variant_blob_id();
        }
    }
    target
}

async fn copy_files(
    from: StorageRef<'_>,
    to: StorageRef<'_>,
    attachment: &Attachment,
    target: &Attachment,
    there: Option<&Attachment>,
) -> Result<u64, CopyError> {
    let UploadState::Stored { sha256, md5, .. } = &attachment.state else {
        if attachment.state == UploadState::Pending
            && let Some(bucket) = from.blobs.bucket()
            && bucket.staged_upload(attachment.id.blob_id()).await?.is_some()
        {
            let why = "it was uploaded to the bucket but never used: start a server on --from again, and stop it \
                       an hour after the upload window has closed";
            return Err(CopyError::Attachment(why.to_owned()));
        }
        return Ok(0);
    };
    let mut moved = 0;
    if !there.is_some_and(|there| matches!(there.state, UploadState::Stored { .. })) {
        let expected = Expected {
            size: attachment.size_bytes,
            sha256: sha256.as_deref(),
            md5,
        };
        let told = metadata(&target.media_type, &target.filename, target.tier());
        let keys = (&attachment.uploaded_key(), &target.uploaded_key());
        copy_blob(from.blobs, to.blobs, keys, &told, &expected).await?;
        moved += 1;
    }
    if let (Some(made), Some(target_made)) = (&attachment.variant, &target.variant)
        && there.is_none_or(|there| there.variant.is_none())
    {
        let expected = Expected {
            size: made.size_bytes,
            sha256: None,
            md5: &made.md5,
        };
        let told = metadata(&made.media_type, &made.filename, target.tier());
        let keys = (&attachment.made_key(made), &target.made_key(target_made));
        copy_blob(from.blobs, to.blobs, keys, &told, &expected).await?;
        moved += 1;
    }
    Ok(moved)
}

/// Recorded size and hashes of a file.
struct Expected<'a> {
    size: u64,
    sha256: Option<&'a str>,
    md5: &'a str,
}

impl Expected<'_> {
    /// Returns true if the size and one of the hashes match. SHA-256 may differ because it is the hash of the
    /// upload before metadata stripping; MD5 may differ because a bucket's entity tag need not be an MD5.
    fn fits(&self, found: &Digests) -> bool {
        let same_hash = found.md5 == self.md5
            || (self.sha256.is_some() && found.sha256.as_deref() == self.sha256);
        found.size == self.size && same_hash
    }

    /// Fails if size and hashes do not match. For a direct-to-bucket upload only an entity tag may be known,
    /// which need not be an MD5; then the size alone is compared.
    fn check(&self, found: &Digests, from: &dyn BlobStore) -> Result<(), CopyError> {
        let is_unknown =
            self.sha256.is_none() && from.bucket().is_some() && found.size == self.size;
        if self.fits(found) || is_unknown {
            return Ok(());
        }
        let what = "its bytes";
        Err(CopyError::Attachment(format!(
            "{what} are {} bytes with MD5 {}, and not the {} bytes with MD5 {} that were stored",
            found.size, found.md5, self.size, self.md5
        )))
    }
}

async fn copy_blob(
    from: &dyn BlobStore,
    to: &dyn BlobStore,
    (source, target): (&BlobKey, &BlobKey),
    told: &ObjectHeaders,
    expected: &Expected<'_>,
) -> Result<(), CopyError> {
    // The blob may be shared with an attachment already copied, or left by an interrupted run.
    if let Some(blob) = to.open(target).await?
        && blob.size() == expected.size
        && expected.fits(&blob::digests(blob).await?)
    {
        return Ok(());
    }
    let lost =
        || CopyError::Attachment("its bytes are lost: restore them from a backup".to_owned());
    let blob = from.open(source).await?.ok_or_else(lost)?;
    let size = blob.size();
    let mut stream = blob.read(0..size).await?;
    let mut writer = to.create().await?;
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(blob::Error::from_read)?;
        writer.write(piece).await?;
    }
    let sealed = writer.seal().await?;
    expected.check(sealed.digests(), from)?;
    let read = sealed.digests().clone();
    sealed.publish(target, told).await?;
    let written = to
        .open(target)
        .await?
        .ok_or_else(|| CopyError::Attachment("it could not be read back".to_owned()))?;
    if blob::digests(written).await? != read {
        return Err(CopyError::Attachment(
            "the bytes read back differ from the bytes written".to_owned(),
        ));
    }
    Ok(())
}
