//! Publishes a draft's fetched files (phase 4). Each blob's deletion is queued first, in case the
//! send fails; the commit cancels it.

use super::fetch::{RemoteMedia, StagedFetch};
use super::{Error, Sends};
use crate::attachments;
use crate::blob::BlobKey;
use crate::budget::Reservation;
use crate::clock::Timestamp;
use crate::db::{Connection, attachments as table, blob_deletions, fetched_urls};
use crate::domain::attachment::Attachment;
use crate::domain::fetch_url::FetchUrl;
use crate::domain::validators::Validators;
use crate::id::{BlobId, PartnerId};

/// New attachment for a fetched file, with what is cached for its URL.
#[derive(Debug)]
pub(super) struct FetchedAttachment {
    attachment: Attachment,
    url_hash: String,
    validators: Option<Validators>,
}

/// A draft's fetched files after publishing.
#[derive(Debug)]
pub(super) struct PublishedMedia {
    pub attachments: Vec<FetchedAttachment>,
    /// Reservations of the fetched bytes until they are committed or discarded.
    pub held: Vec<Reservation>,
}

impl Sends {
    /// Publishes fetched files, so that the send's transaction can reference them.
    pub(super) async fn publish(
        &self,
        partner: PartnerId,
        RemoteMedia(media): RemoteMedia,
    ) -> Result<PublishedMedia, Error> {
        let mut published = PublishedMedia {
            attachments: Vec::with_capacity(media.len()),
            held: Vec::new(),
        };
        let mut staged = Vec::new();
        for fetch in media {
            let StagedFetch {
                attachment,
                files,
                held,
            } = fetch;
            published.attachments.push(attachment);
            published.held.extend(held);
            staged.extend(files);
        }
        if !staged.is_empty() {
            self.attachments.publish_staged(partner, staged).await?;
        }
        Ok(published)
    }
}

impl PublishedMedia {
    /// Returns the keys of the blobs published for the draft.
    pub(super) fn keys(&self) -> Vec<BlobKey> {
        let attachments = self.attachments.iter();
        attachments.flat_map(FetchedAttachment::own_blobs).collect()
    }
}

impl FetchedAttachment {
    pub(super) fn new(
        attachment: Attachment,
        url: &FetchUrl,
        validators: Option<Validators>,
    ) -> Self {
        Self {
            attachment,
            url_hash: url.fingerprint(),
            validators,
        }
    }

    /// Returns the keys of the blobs published for this attachment.
    fn own_blobs(&self) -> impl Iterator<Item = BlobKey> {
        self.attachment
            .keys()
            .filter(|_| self.attachment.owns_blob())
    }

    /// Returns the ids of the blobs that this attachment shares with an earlier one.
    pub(super) fn shared_blobs(&self) -> impl Iterator<Item = BlobId> {
        let keys = self.attachment.keys().map(|key| key.id());
        keys.filter(|_| !self.attachment.owns_blob())
    }

    /// Creates the attachment within the send's transaction.
    pub(super) async fn attach(
        self,
        db: &mut Connection,
        now: Timestamp,
    ) -> Result<Attachment, Error> {
        for key in self.own_blobs() {
            if !blob_deletions::cancel(db, &key.to_string()).await? {
                return Err(attachments::Error::Deleted.into());
            }
        }
        for blob in self.shared_blobs() {
            if !table::is_referenced(db, blob).await? {
                return Err(attachments::Error::Deleted.into());
            }
        }
        let Self {
            attachment,
            url_hash,
            validators,
        } = self;
        let (id, partner) = (attachment.id, attachment.partner_id);
        table::insert(db, &attachment).await?;
        match validators {
            Some(validators) => {
                fetched_urls::upsert(db, partner, &url_hash, id, &validators, now).await?;
            }
            None => fetched_urls::delete(db, partner, &url_hash).await?,
        }
        Ok(attachment)
    }
}
