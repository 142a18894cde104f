//! Copies and verifies an attachment's files.

use futures_util::StreamExt;

use super::{Error, FailedAttachment, Progress};
use crate::blob::{self, BlobKey, BlobStore, Digests, ObjectHeaders};
use crate::db::table_copy::{Row, TableSchema};
use crate::db::{Connection, attachments};
use crate::domain::attachment::{Attachment, UploadState};
use crate::storage::Storage;

/// Error from copying a file. It affects either this attachment or the whole copy.
enum CopyError {
    Attachment(String),
    Fatal(Error),
}

impl<E: Into<Error>> From<E> for CopyError {
    fn from(error: E) -> Self {
        Self::Fatal(error.into())
    }
}

/// Copies one attachment and returns the number of its files that were copied.
pub(super) async fn copy_attachment(
    from: &Storage,
    to: &Storage,
    schema: &TableSchema,
    mut row: Row,
    attachment: Attachment,
    progress: &dyn Progress,
) -> Result<Result<u64, FailedAttachment>, Error> {
    let existing =
        attachments::find_including_expired(&mut *to.db.read().await?, attachment.id).await?;
    let target = at_target(&attachment, &*to.blobs);
    let files = match copy_files(from, to, &attachment, &target, existing.as_ref()).await {
        Ok(files) => files,
        Err(CopyError::Attachment(reason)) => return Ok(Err((attachment.id, reason))),
        Err(CopyError::Fatal(error)) => return Err(error),
    };
    schema.set(
        &mut row,
        "blob_id",
        (!target.owns_blob()).then(|| target.blob_id.to_string()),
    );
    schema.set(
        &mut row,
        "variant_blob_id",
        target
            .variant
            .as_ref()
            .map(|variant| variant.blob_id.to_string()),
    );
    let schema = schema.clone();
    let write = to
        .db
        .transaction(async move |db: &mut Connection| schema.write(db, row).await);
    write.await?;
    progress.attachment();
    Ok(Ok(files))
}

/// Returns the attachment as it will be stored in the target. In a bucket, object keys equal URL
/// paths, so attachments there cannot share a blob.
fn at_target(attachment: &Attachment, to: &dyn BlobStore) -> Attachment {
    let mut target = attachment.clone();
    if to.bucket().is_some() && !target.owns_blob() {
        target.blob_id = target.id.blob_id();
        if let Some(variant) = &mut target.variant {
            variant.blob_id = target.id.variant_blob_id();
        }
    }
    target
}

async fn copy_files(
    from: &Storage,
    to: &Storage,
    attachment: &Attachment,
    target: &Attachment,
    existing: Option<&Attachment>,
) -> Result<u64, CopyError> {
    let UploadState::Stored { sha256, md5, .. } = &attachment.state else {
        if attachment.state == UploadState::Pending
            && let Some(bucket) = from.blobs.bucket()
            && bucket
                .staged_upload(attachment.id.blob_id())
                .await?
                .is_some()
        {
            let reason = "it was uploaded to the bucket but never used: start a server on --from again, and stop it \
                       an hour after the upload window has closed";
            return Err(CopyError::Attachment(reason.to_owned()));
        }
        return Ok(0);
    };
    let mut copied = 0;
    if !existing.is_some_and(|existing| matches!(existing.state, UploadState::Stored { .. })) {
        let expected = Expected {
            size: attachment.size_bytes,
            sha256: sha256.as_deref(),
            md5,
        };
        let headers = ObjectHeaders::for_file(&target.media_type, &target.filename, target.tier());
        let keys = (&attachment.uploaded_key(), &target.uploaded_key());
        copy_blob(&*from.blobs, &*to.blobs, keys, &headers, &expected).await?;
        copied += 1;
    }
    if let (Some(variant), Some(target_variant)) = (&attachment.variant, &target.variant)
        && existing.is_none_or(|existing| existing.variant.is_none())
    {
        let expected = Expected {
            size: variant.size_bytes,
            sha256: None,
            md5: &variant.md5,
        };
        let headers =
            ObjectHeaders::for_file(&variant.media_type, &variant.filename, target.tier());
        let keys = (
            &attachment.variant_key(variant),
            &target.variant_key(target_variant),
        );
        copy_blob(&*from.blobs, &*to.blobs, keys, &headers, &expected).await?;
        copied += 1;
    }
    Ok(copied)
}

/// Size and hashes that the database records for a file.
struct Expected<'a> {
    size: u64,
    sha256: Option<&'a str>,
    md5: &'a str,
}

impl Expected<'_> {
    /// Returns true if the size and at least one hash match. A correct file's SHA-256 may differ,
    /// as it is the upload's hash before metadata removal; its MD5 may differ, as a bucket's entity
    /// tag need not be an MD5.
    fn matches(&self, found: &Digests) -> bool {
        let same_hash = found.md5 == self.md5
            || (self.sha256.is_some() && found.sha256.as_deref() == self.sha256);
        found.size == self.size && same_hash
    }

    /// Fails unless the size and hashes match. For a direct upload, only the bucket's entity tag is
    /// known, which need not be an MD5; in that case only the size is compared.
    fn check(&self, found: &Digests, from: &dyn BlobStore) -> Result<(), CopyError> {
        let is_unknown =
            self.sha256.is_none() && from.bucket().is_some() && found.size == self.size;
        if self.matches(found) || is_unknown {
            return Ok(());
        }
        Err(CopyError::Attachment(format!(
            "its bytes are {} bytes with MD5 {}, and not the {} bytes with MD5 {} that were stored",
            found.size, found.md5, self.size, self.md5
        )))
    }
}

async fn copy_blob(
    from: &dyn BlobStore,
    to: &dyn BlobStore,
    (source, target): (&BlobKey, &BlobKey),
    headers: &ObjectHeaders,
    expected: &Expected<'_>,
) -> Result<(), CopyError> {
    // The blob may be in the target already: shared with an attachment copied earlier, or left by
    // an interrupted run.
    if let Some(blob) = to.open(target).await?
        && blob.size() == expected.size
        && expected.matches(&blob::digests(blob).await?)
    {
        return Ok(());
    }
    let lost =
        || CopyError::Attachment("its bytes are lost: restore them from a backup".to_owned());
    let blob = from.open(source).await?.ok_or_else(lost)?;
    let size = blob.size();
    let mut stream = blob.read(0..size).await?;
    let mut writer = to.create().await?;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(blob::Error::from_read)?;
        writer.write(chunk).await?;
    }
    let staged = writer.seal().await?;
    expected.check(staged.digests(), from)?;
    let read = staged.digests().clone();
    staged.publish(target, headers).await?;
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
