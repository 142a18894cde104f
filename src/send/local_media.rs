//! Looks up the existing attachments that a draft references by id or by file URL.

use std::collections::{BTreeSet, HashMap};

use super::validate::Blocked;
use super::{Draft, Error, Sends, voice_memo};
use crate::attachments;
use crate::attachments::direct_uploads::DirectUploadChecks;
use crate::clock::Timestamp;
use crate::db::{Connection, attachments as table};
use crate::domain::attachment::{Attachment, FileRef, Status, UploadState};
use crate::domain::filename;
use crate::domain::part::DraftPart;
use crate::id::{AttachmentId, PartnerId};

/// Existing attachments that a draft references.
#[derive(Debug)]
pub(super) struct LocalMedia {
    /// Attachment of each draft part, or `None` for a part without one.
    pub by_part: Vec<Option<Attachment>>,
    /// Ids of all attachments, including sticker images, without duplicates.
    pub referenced: Vec<AttachmentId>,
}

impl Sends {
    /// Looks up all attachments that a draft references in one statement, and checks that each can
    /// be sent.
    pub(super) async fn find_local_media(
        &self,
        db: &mut Connection,
        partner: PartnerId,
        draft: &Draft,
        checks: &DirectUploadChecks,
    ) -> Result<LocalMedia, Blocked> {
        let now = self.clock.now();
        let parts = draft.parts.iter();
        let referenced: BTreeSet<AttachmentId> =
            parts.flat_map(|part| referenced(part, partner)).collect();
        let referenced: Vec<AttachmentId> = referenced.into_iter().collect();
        let mut lookup = Lookup {
            found: table::find_each(db, partner, &referenced, now).await?,
            checks,
            now,
            unchecked: BTreeSet::new(),
        };
        let parts = draft.parts.iter();
        let by_part = parts
            .map(|part| lookup.attachment_of(part))
            .collect::<Result<Vec<_>, _>>()?;
        if !lookup.unchecked.is_empty() {
            return Err(Blocked::NeedsFinalize(
                lookup.unchecked.into_iter().collect(),
            ));
        }
        for attachment in by_part.iter().flatten() {
            if draft.voice_memo {
                voice_memo::check(attachment)?;
            }
            if self
                .attachments
                .needs_processing(attachment, draft.voice_memo)
            {
                return Err(Blocked::NeedsProcessing(attachment.id));
            }
        }
        Ok(LocalMedia {
            by_part,
            referenced,
        })
    }
}

/// Returns the ids of the attachments that a part references, leaving out file URLs of other
/// partners.
fn referenced(part: &DraftPart, partner: PartnerId) -> Vec<AttachmentId> {
    match part {
        DraftPart::Text(text) => text
            .stickers
            .iter()
            .filter_map(|sticker| AttachmentId::parse(&sticker.attachment_id))
            .collect(),
        DraftPart::Link(_) | DraftPart::Url(_) => Vec::new(),
        DraftPart::Attachment(id) => vec![*id],
        DraftPart::OwnFile(file) => file
            .iter()
            .filter(|file| file.partner_id == partner)
            .map(|file| file.id)
            .collect(),
    }
}

/// Attachments that a draft references and its partner owns.
struct Lookup<'a> {
    found: HashMap<AttachmentId, Attachment>,
    checks: &'a DirectUploadChecks,
    now: Timestamp,
    /// Pending attachments that may have a direct upload.
    unchecked: BTreeSet<AttachmentId>,
}

impl Lookup<'_> {
    /// Returns a media part's attachment, or `None` for other parts. Also checks that sticker
    /// images can be sent.
    fn attachment_of(&mut self, part: &DraftPart) -> Result<Option<Attachment>, Error> {
        match part {
            DraftPart::Text(text) => {
                for sticker in &text.stickers {
                    let id = AttachmentId::parse(&sticker.attachment_id);
                    self.require_stored(id.ok_or(attachments::Error::NotFound)?)?;
                }
                Ok(None)
            }
            DraftPart::Link(_) | DraftPart::Url(_) => Ok(None),
            DraftPart::Attachment(id) => self.require_stored(*id).cloned().map(Some),
            DraftPart::OwnFile(file) => {
                let file = file.as_ref().ok_or(attachments::Error::NotFound)?;
                let attachment = self.require_stored(file.id)?;
                if !matches(attachment, file) {
                    return Err(attachments::Error::NotFound.into());
                }
                Ok(Some(attachment.clone()))
            }
        }
    }

    /// Returns the partner's attachment if its upload is stored, or if a direct upload may still be
    /// found.
    fn require_stored(&mut self, id: AttachmentId) -> Result<&Attachment, Error> {
        let attachment = self.found.get(&id).ok_or(attachments::Error::NotFound)?;
        if attachment.state == UploadState::Pending && self.checks.needs_check(id) {
            self.unchecked.insert(id);
            return Ok(attachment);
        }
        match (attachment.status(self.now), &attachment.state) {
            (Status::Complete, _) => Ok(attachment),
            (Status::Pending, _) => Err(Error::AttachmentNotReady(id)),
            (Status::Failed, UploadState::Rejected { reason, .. }) => {
                Err(Error::AttachmentRejected {
                    id,
                    reason: reason.clone(),
                })
            }
            (Status::Failed, _) => Err(attachments::Error::NotFound.into()),
        }
    }
}

/// Returns true if a file URL names a rendition of the attachment.
fn matches(attachment: &Attachment, file: &FileRef) -> bool {
    let names = [
        attachment.filename.as_str(),
        attachment.delivered().filename,
    ];
    attachment.partner_id == file.partner_id
        && names
            .into_iter()
            .any(|name| filename::url_segment(name) == file.segment)
}
