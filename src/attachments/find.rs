//! Looks up attachments by partner and id.

use std::sync::Arc;

use super::{Attachments, Error};
use crate::clock::Timestamp;
use crate::db::admission::Holder;
use crate::db::attachments as table;
use crate::domain::attachment::{Attachment, UploadState};
use crate::id::{AttachmentId, PartnerId};

impl Attachments {
    /// Returns a partner's attachment in any state, and the time at which to evaluate its status.
    ///
    /// # Errors
    /// The attachment does not exist or belongs to another partner, or the database or the store
    /// fails.
    pub async fn get(
        self: &Arc<Self>,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<(Attachment, Timestamp), Error> {
        let now = self.clock.now();
        let found = table::find(&mut *self.db.read(partner).await?, partner, id, now).await?;
        let attachment = self
            .finalize_if_direct(found.ok_or(Error::NotFound)?)
            .await?;
        Ok((attachment.ok_or(Error::NotFound)?, now))
    }

    /// Returns a partner's attachment if its upload is stored.
    pub(crate) async fn find_stored(
        &self,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<Option<Attachment>, Error> {
        self.find_stored_for(partner, partner, id).await
    }

    /// Like [`Self::find_stored`], but counts the database connection for `holder` instead of the
    /// partner.
    pub(super) async fn find_stored_for(
        &self,
        holder: impl Into<Holder>,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<Option<Attachment>, Error> {
        let found = self.find(holder, partner, id).await?;
        Ok(found.filter(|attachment| matches!(attachment.state, UploadState::Stored { .. })))
    }

    /// Returns a partner's attachment in any state.
    pub(super) async fn find(
        &self,
        holder: impl Into<Holder>,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<Option<Attachment>, Error> {
        let now = self.clock.now();
        let mut db = self.db.read(holder).await?;
        Ok(table::find(&mut db, partner, id, now).await?)
    }
}
