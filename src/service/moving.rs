//! Moving everything a server keeps to another database and another store. What was moved is not moved again, so it can
//! be stopped and begun anew at any time; nothing is changed where it is moved from.
//!
//! The bytes of an attachment are hashed as they are read, written, read back and hashed again before its row is written:
//! a row that is there says that its bytes are.

use futures_util::{StreamExt, TryStreamExt, stream};

use super::downloads::metadata;
use crate::blob::{self, BlobKey, BlobStore, Digests, Metadata};
use crate::clock::Timestamp;
use crate::db::moving::{
    AFTER_ATTACHMENTS, ATTACHMENTS, BEFORE_ATTACHMENTS, NEVER_DELETED, Row, Shape, Table, WITH_DELETIONS,
};
use crate::db::{self, Db, attachments};
use crate::domain::attachment::{Attachment, Content};
use crate::id::AttachmentId;

/// Rows read and written at a time.
const PAGE: u32 = 200;
/// Files moved at a time.
const AT_ONCE: usize = 8;

/// One end of a move.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The database.
    pub db: &'a Db,
    /// The bytes.
    pub blobs: &'a dyn BlobStore,
}

/// Why it stopped. What was moved until then is moved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A database failed.
    #[error(transparent)]
    Db(#[from] db::Error),
    /// A store failed.
    #[error(transparent)]
    Blob(#[from] blob::Error),
    /// What is there is no earlier copy, or was used since.
    #[error("--to holds {0} that --from never had: it was in use; was it to be copied the other way round?")]
    InUse(String),
}

/// Told of what was done.
pub trait Progress: Sync {
    /// How many attachments and rows there are.
    fn total(&self, attachments: u64, rows: u64);
    /// An attachment that is done with.
    fn attachment(&self);
    /// Rows of other tables that are done with.
    fn rows(&self, count: u64);
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Moved {
    /// Attachments that are there.
    pub attachments: u64,
    /// Files that were moved this time.
    pub files: u64,
    /// Rows of other tables.
    pub rows: u64,
    /// Rows that an earlier move had brought, and that are not where it came from any more.
    pub gone: u64,
    /// Attachments that could not be moved, and why.
    pub left: Vec<(AttachmentId, String)>,
}

/// An attachment's file did not get there, for a reason of its own.
enum Failure {
    OfThisOne(String),
    OfAll(Error),
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::OfAll(error.into())
    }
}

/// Moves everything. No server may be running at either end.
///
/// # Errors
/// A database or a store fails. An attachment whose bytes are lost or are not those that were stored is told of in what
/// is returned.
pub async fn copy(from: Side<'_>, to: Side<'_>, now: Timestamp, progress: &dyn Progress) -> Result<Moved, Error> {
    refuse_what_was_used(from, to).await?;
    let mut moved = Moved::default();
    let shape = Shape::of(&mut *from.db.read().await?, ATTACHMENTS).await?;
    let mut rows = 0;
    for table in BEFORE_ATTACHMENTS.into_iter().chain(AFTER_ATTACHMENTS) {
        let mut db = from.db.read().await?;
        rows += Shape::of(&mut db, table).await?.count(&mut db).await?;
    }
    progress.total(shape.count(&mut *from.db.read().await?).await?, rows);
    for table in BEFORE_ATTACHMENTS {
        moved.rows += self::table(from, to, table, progress).await?;
    }

    let mut after: Option<Row> = None;
    loop {
        let page = shape.attachments(&mut *from.db.read().await?, after.as_ref(), PAGE).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        let each = page.into_iter().map(|(row, attachment)| one(from, to, &shape, row, attachment, progress));
        let outcomes: Vec<_> = stream::iter(each).buffer_unordered(AT_ONCE).try_collect().await?;
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
        moved.rows += self::table(from, to, table, progress).await?;
    }
    for table in WITH_DELETIONS {
        moved.gone += drop_gone(from, to, table).await?;
    }
    moved.gone += drop_gone_attachments(from, to, now).await?;
    Ok(moved)
}

/// A copy over what is newer would undo it. Messages stay for ever, and deleted attachments leave a record; so what is
/// there and never was where the copy comes from was made there.
async fn refuse_what_was_used(from: Side<'_>, to: Side<'_>) -> Result<(), Error> {
    for table in NEVER_DELETED {
        let shape = Shape::of(&mut *to.db.read().await?, table).await?;
        let mut after: Option<Row> = None;
        loop {
            let page = shape.page(&mut *to.db.read().await?, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            for row in page {
                if !shape.is_there(&mut *from.db.read().await?, &row).await? {
                    return Err(Error::InUse(table.name.to_owned()));
                }
            }
        }
    }
    let shape = Shape::of(&mut *to.db.read().await?, ATTACHMENTS).await?;
    let mut after: Option<Row> = None;
    loop {
        let page = shape.attachments(&mut *to.db.read().await?, after.as_ref(), PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        for (row, attachment) in page {
            let is_stored = matches!(attachment.content, Content::Stored { .. });
            if is_stored
                && !shape.is_there(&mut *from.db.read().await?, &row).await?
                && !attachments::was_deleted(&mut *from.db.read().await?, attachment.id).await?
            {
                return Err(Error::InUse(format!("attachment {}", attachment.id)));
            }
        }
    }
}

/// Drops rows that an earlier move brought and that were deleted since where it came from: a message must not be handed
/// over again, nor a deleted file come back.
async fn drop_gone(from: Side<'_>, to: Side<'_>, table: Table) -> Result<u64, Error> {
    let shape = Shape::of(&mut *to.db.read().await?, table).await?;
    let (mut after, mut gone): (Option<Row>, u64) = (None, 0);
    loop {
        let page = shape.page(&mut *to.db.read().await?, after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(gone) };
        after = Some(last.clone());
        for row in page {
            if shape.is_there(&mut *from.db.read().await?, &row).await? {
                continue;
            }
            gone += 1;
            let shape = shape.clone();
            to.db.write(move |db| Box::pin(async move { shape.delete(db, &row).await })).await?;
        }
    }
}

/// The same of attachments, with their files.
async fn drop_gone_attachments(from: Side<'_>, to: Side<'_>, now: Timestamp) -> Result<u64, Error> {
    let shape = Shape::of(&mut *to.db.read().await?, ATTACHMENTS).await?;
    let (mut after, mut gone): (Option<Row>, u64) = (None, 0);
    loop {
        let page = shape.attachments(&mut *to.db.read().await?, after.as_ref(), PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(gone) };
        after = Some(last.clone());
        for (row, attachment) in page {
            if shape.is_there(&mut *from.db.read().await?, &row).await? {
                continue;
            }
            gone += 1;
            let delete =
                to.db.write(move |db| Box::pin(async move { attachments::drop_moved(db, &attachment, now).await }));
            for key in delete.await? {
                to.blobs.remove(&key).await?;
            }
        }
    }
}

async fn table(from: Side<'_>, to: Side<'_>, table: Table, progress: &dyn Progress) -> Result<u64, Error> {
    let shape = Shape::of(&mut *from.db.read().await?, table).await?;
    let mut after: Option<Row> = None;
    let mut count = 0;
    loop {
        let page = shape.page(&mut *from.db.read().await?, after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(count) };
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

/// Moves an attachment; how many files that took.
async fn one(
    from: Side<'_>,
    to: Side<'_>,
    shape: &Shape,
    mut row: Row,
    attachment: Attachment,
    progress: &dyn Progress,
) -> Result<Result<u64, Left>, Error> {
    let there = attachments::find_any(&mut *to.db.read().await?, attachment.id).await?;
    let target = at_target(&attachment, to.blobs);
    let files = match files(from, to, &attachment, &target, there.as_ref()).await {
        Ok(files) => files,
        Err(Failure::OfThisOne(why)) => return Ok(Err((attachment.id, why))),
        Err(Failure::OfAll(error)) => return Err(error),
    };
    shape.set(&mut row, "blob_of", (target.blob_of != target.id).then(|| target.blob_of.to_string()));
    shape.set(&mut row, "delivery_blob", target.delivery.as_ref().map(|made| made.blob.to_string()));
    let shape = shape.clone();
    let write = to.db.write(move |db| Box::pin(async move { shape.write(db, row).await }));
    write.await?;
    progress.attachment();
    Ok(Ok(files))
}

/// The attachment as it will be there: in a bucket none shares the file of another, since its URL names its own.
fn at_target(attachment: &Attachment, to: &dyn BlobStore) -> Attachment {
    let mut target = attachment.clone();
    if to.bucket().is_some() && target.blob_of != target.id {
        target.blob_of = target.id;
        if let Some(made) = &mut target.delivery {
            made.blob = target.id.made();
        }
    }
    target
}

async fn files(
    from: Side<'_>,
    to: Side<'_>,
    attachment: &Attachment,
    target: &Attachment,
    there: Option<&Attachment>,
) -> Result<u64, Failure> {
    let Content::Stored { sha256, md5, .. } = &attachment.content else {
        if attachment.content == Content::Awaited
            && let Some(bucket) = from.blobs.bucket()
            && bucket.uploaded(attachment.id).await?.is_some()
        {
            let why = "it was uploaded and never asked for: start a server there once more, and stop it when its upload \
                       window has been closed for an hour";
            return Err(Failure::OfThisOne(why.to_owned()));
        }
        return Ok(0);
    };
    let mut moved = 0;
    if !there.is_some_and(|there| matches!(there.content, Content::Stored { .. })) {
        let expected = Expected { size: attachment.size_bytes, sha256: sha256.as_deref(), md5 };
        let told = metadata(&target.media_type, &target.filename, target.tier());
        let keys = (&attachment.uploaded_key(), &target.uploaded_key());
        file(from.blobs, to.blobs, keys, &told, &expected).await?;
        moved += 1;
    }
    if let (Some(made), Some(target_made)) = (&attachment.delivery, &target.delivery)
        && there.is_none_or(|there| there.delivery.is_none())
    {
        let expected = Expected { size: made.size_bytes, sha256: None, md5: &made.md5 };
        let told = metadata(&made.media_type, &made.filename, target.tier());
        let keys = (&attachment.made_key(made), &target.made_key(target_made));
        file(from.blobs, to.blobs, keys, &told, &expected).await?;
        moved += 1;
    }
    Ok(moved)
}

/// What is known of a file's bytes.
struct Expected<'a> {
    size: u64,
    sha256: Option<&'a str>,
    md5: &'a str,
}

impl Expected<'_> {
    /// Either hash will do: where private metadata is removed the SHA-256 is that of what was uploaded, and a bucket's
    /// entity tag need not be an MD5.
    fn fits(&self, found: &Digests) -> bool {
        let same_hash = found.md5 == self.md5 || (self.sha256.is_some() && found.sha256.as_deref() == self.sha256);
        found.size == self.size && same_hash
    }

    /// Of what a bucket took by itself nothing may be known but an entity tag that is no MD5; then the size has to do.
    fn check(&self, found: &Digests, from: &dyn BlobStore) -> Result<(), Failure> {
        let is_unknown = self.sha256.is_none() && from.bucket().is_some() && found.size == self.size;
        if self.fits(found) || is_unknown {
            return Ok(());
        }
        let what = "its bytes";
        Err(Failure::OfThisOne(format!(
            "{what} are {} bytes with MD5 {}, and not the {} bytes with MD5 {} that were stored",
            found.size, found.md5, self.size, self.md5
        )))
    }
}

async fn file(
    from: &dyn BlobStore,
    to: &dyn BlobStore,
    (source, target): (&BlobKey, &BlobKey),
    told: &Metadata,
    expected: &Expected<'_>,
) -> Result<(), Failure> {
    // Shared with an attachment that was moved already, or left by a move that was stopped here.
    if let Some(blob) = to.open(target).await?
        && blob.size() == expected.size
        && expected.fits(&blob::digests(blob).await?)
    {
        return Ok(());
    }
    let lost = || Failure::OfThisOne("its bytes are lost: restore them from a backup".to_owned());
    let blob = from.open(source).await?.ok_or_else(lost)?;
    let size = blob.size();
    let mut stream = blob.read(0..size).await?;
    let mut writer = to.create().await?;
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(blob::Error::of_read)?;
        writer.write(piece).await?;
    }
    let sealed = writer.seal().await?;
    expected.check(sealed.digests(), from)?;
    let read = sealed.digests().clone();
    sealed.publish(target, told).await?;
    let written =
        to.open(target).await?.ok_or_else(|| Failure::OfThisOne("it was not there to be read back".to_owned()))?;
    if blob::digests(written).await? != read {
        return Err(Failure::OfThisOne("what was read back is not what was written".to_owned()));
    }
    Ok(())
}
