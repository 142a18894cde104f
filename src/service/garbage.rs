//! What a database and a store know of each other that does not fit: files that no attachment names, and attachments whose
//! files are lost. Neither comes about by crashes; restoring one of the two from a backup, or hands, bring it about.
//!
//! Works beside running servers. It removes nothing itself: it asks for files to be removed, as a deletion does, and the
//! sweeper of a server does so after it has made sure once more that nothing names them.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt;

use super::moving::{Error, Side};
use crate::blob::{BlobKey, BlobStore, Listed};
use crate::clock::Timestamp;
use crate::db::attachments;
use crate::db::moving::{ATTACHMENTS, Row, Shape};
use crate::domain::attachment::{Attachment, Content};
use crate::id::AttachmentId;

/// A file that is younger is left alone: it may be about to be named.
pub const YOUNG: Duration = Duration::from_hours(24);
/// Rows read at a time.
const PAGE: u32 = 1000;

/// What does not fit.
#[derive(Debug, Default)]
pub struct Found {
    /// Files that are named.
    pub named: u64,
    /// Files that nothing names, with their sizes, and are not young.
    pub orphans: Vec<(BlobKey, u64)>,
    /// Files that nothing names, or not yet, and are young.
    pub young: u64,
    /// Names in the store that are not ours.
    pub foreign: Vec<String>,
    /// Attachments whose file is missing or cut, and how.
    pub dangling: Vec<(AttachmentId, String)>,
}

/// Looks through both. Holds the name and size of every file in memory, some 200 bytes each.
///
/// # Errors
/// Database or store fail.
pub async fn find(side: Side<'_>, now: SystemTime) -> Result<Found, Error> {
    let mut found = Found::default();
    let mut unnamed: HashMap<String, Listed> = HashMap::new();
    let mut listing = side.blobs.list();
    while let Some(listed) = listing.try_next().await? {
        if listed.id.is_some() {
            unnamed.insert(listed.name.clone(), listed);
        } else {
            found.foreign.push(listed.name);
        }
    }
    let shape = Shape::of(&mut *side.db.read().await?, ATTACHMENTS).await?;
    let mut after: Option<Row> = None;
    // Several attachments may share a file.
    let mut named: HashMap<String, u64> = HashMap::new();
    loop {
        let page = shape.attachments(&mut *side.db.read().await?, after.as_ref(), PAGE).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        for (_, attachment) in page {
            if attachment.content == Content::Awaited && side.blobs.bucket().is_some() {
                unnamed.remove(&format!("uploads/{}", attachment.id));
            }
            for (key, size) in files(&attachment) {
                let name = name(side.blobs, &key);
                let there = named.get(&name).copied().or_else(|| unnamed.remove(&name).map(|listed| listed.size));
                if let Some(there) = there {
                    named.insert(name, there);
                }
                if there != Some(size)
                    && let Some(problem) = problem(side, &key, size, attachment.id).await?
                {
                    found.dangling.push((attachment.id, problem));
                }
            }
        }
    }
    found.named = named.len() as u64;
    for listed in unnamed.into_values() {
        let age = now.duration_since(listed.modified).unwrap_or_default();
        if age < YOUNG {
            found.young += 1;
        } else {
            found.orphans.push((key_of(side.blobs, &listed), listed.size));
        }
    }
    Ok(found)
}

/// Asks for orphans to be removed: the sweeper of a running server does that within a minute, else that of the next.
///
/// # Errors
/// The database fails.
pub async fn request_removal(side: Side<'_>, orphans: Vec<(BlobKey, u64)>, now: Timestamp) -> Result<(), Error> {
    for batch in orphans.chunks(500) {
        let keys: Vec<String> = batch.iter().map(|(key, _)| key.to_string()).collect();
        let write = side.db.write(move |db| {
            Box::pin(async move {
                for key in keys {
                    attachments::request_removal(db, &key, now, now).await?;
                }
                Ok::<_, Error>(())
            })
        });
        write.await?;
    }
    Ok(())
}

/// The files of an attachment that must be there, and their sizes.
fn files(attachment: &Attachment) -> Vec<(BlobKey, u64)> {
    if !matches!(attachment.content, Content::Stored { .. }) {
        return Vec::new();
    }
    let made = attachment.delivery.as_ref().map(|made| (attachment.made_key(made), made.size_bytes));
    std::iter::once((attachment.uploaded_key(), attachment.size_bytes)).chain(made).collect()
}

/// What a file is called in a listing.
fn name(blobs: &dyn BlobStore, key: &BlobKey) -> String {
    if blobs.bucket().is_some() { key.path().to_owned() } else { key.id().to_string() }
}

/// A key by which the sweeper finds the file, and that no attachment has: in a bucket the same attachment may have a file
/// of another name.
fn key_of(blobs: &dyn BlobStore, listed: &Listed) -> BlobKey {
    let parsed = if blobs.bucket().is_some() {
        BlobKey::parse(&format!("{} {}", AttachmentId::new(), listed.name))
    } else {
        BlobKey::parse(&listed.name)
    };
    parsed.expect("a name with an id")
}

/// What is wrong with a file that the listing did not have, or not so; `None` if nothing is by now.
async fn problem(place: Side<'_>, key: &BlobKey, size: u64, id: AttachmentId) -> Result<Option<String>, Error> {
    let there = place.blobs.open(key).await?.map(|blob| blob.size());
    if there == Some(size) || attachments::find_any(&mut *place.db.read().await?, id).await?.is_none() {
        return Ok(None);
    }
    Ok(Some(match there {
        Some(there) => format!("its file has {there} bytes and not {size}"),
        None => format!("its file of {size} bytes is missing"),
    }))
}
