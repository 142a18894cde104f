//! The files that the parts of a message name: finding those of ours, and whether they can be sent so.

use std::collections::{BTreeSet, HashMap};

use super::Draft;
use super::remote_media::FetchedAttachment;
use super::validate::SendContext;
use crate::attachments::direct_uploads::DirectUploadChecks;
use crate::attachments::variants::needs_variant;
use crate::clock::Timestamp;
use crate::db::{Connection, attachments};
use crate::domain::attachment::{Attachment, Status, UploadState};
use crate::domain::filename;
use crate::domain::part::{DraftPart, Part};
use crate::domain::voice_memo;
use crate::id::{AttachmentId, PartnerId};
use crate::media;
use crate::quote::shown;
use crate::service::Error;
use crate::transcode::Converter;

/// Refuses an attachment that cannot be sent so, or not yet.
fn check_sendable(
    converter: &Converter,
    attachment: &Attachment,
    as_voice_memo: bool,
) -> Result<(), Error> {
    if as_voice_memo {
        check_voice_memo(attachment)?;
    }
    if needs_variant(converter, attachment, as_voice_memo) {
        return Err(Error::Unprepared(attachment.id));
    }
    Ok(())
}

/// Refuses what cannot be a voice memo.
pub(crate) fn check_voice_memo(attachment: &Attachment) -> Result<(), Error> {
    let filename = shown(&attachment.filename);
    if !voice_memo::is_sound(&attachment.media_type) {
        let noun = media::declared(&attachment.media_type)
            .map_or("a file", |declared| declared.media_type.noun);
        return Err(Error::UnsupportedType(format!(
            "{filename} is {noun}; a voice memo is sound: MP3, M4A, AAC, CAF, WAV, AIFF or AMR"
        )));
    }
    if attachment.size_bytes > voice_memo::MAX_BYTES {
        return Err(Error::VoiceMemoTooLarge(voice_memo::MAX_BYTES));
    }
    if attachment.media_info.duration_ms.is_none() {
        return Err(Error::UnsupportedType(format!(
            "{filename} holds no sound that can be played"
        )));
    }
    Ok(())
}

/// The parts of the message: what was fetched becomes attachments.
pub(crate) async fn into_parts(
    db: &mut Connection,
    drafts: Vec<DraftPart>,
    own_files: Vec<Option<Attachment>>,
    fetched: Vec<FetchedAttachment>,
    now: Timestamp,
) -> Result<Vec<Part>, Error> {
    let mut fetched = fetched.into_iter();
    let mut parts = Vec::with_capacity(drafts.len());
    for (draft, own) in drafts.into_iter().zip(own_files) {
        parts.push(match draft {
            DraftPart::Text(text) => Part::Text(text),
            DraftPart::Link(url) => Part::Link(url),
            DraftPart::Attachment(_) | DraftPart::OwnFile(_) => Part::Media(own.map(Box::new)),
            DraftPart::Url(_) => {
                let file = fetched.next().expect("there is a file for each URL");
                Part::Media(Some(Box::new(file.attach(db, now).await?)))
            }
        });
    }
    Ok(parts)
}

/// For each part of a draft the file of ours that it names, and every attachment that they name, stickers included, each
/// once. All of them are looked up in one statement.
pub(crate) async fn own_files(
    db: &mut Connection,
    rules: &SendContext,
    partner: PartnerId,
    draft: &Draft,
    now: Timestamp,
) -> Result<(Vec<Option<Attachment>>, Vec<AttachmentId>), Error> {
    let named: BTreeSet<AttachmentId> = draft
        .parts
        .iter()
        .flat_map(|part| named(part, partner))
        .collect();
    let named: Vec<AttachmentId> = named.into_iter().collect();
    let mut files = Files {
        found: attachments::find_each(db, partner, &named, now).await?,
        unsettled: BTreeSet::new(),
    };
    let own = draft
        .parts
        .iter()
        .map(|part| files.of_part(part, &rules.awaited, now))
        .collect::<Result<Vec<_>, _>>()?;
    if !files.unsettled.is_empty() {
        return Err(Error::Unsettled(files.unsettled.into_iter().collect()));
    }
    for attachment in own.iter().flatten() {
        check_sendable(&rules.converter, attachment, draft.voice_memo)?;
    }
    Ok((own, named))
}

/// The attachments that a part names and that can be the partner's.
fn named(part: &DraftPart, partner: PartnerId) -> Vec<AttachmentId> {
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

/// The partner's attachments among those that a draft names.
struct Files {
    found: HashMap<AttachmentId, Attachment>,
    /// Those that may have come without us.
    unsettled: BTreeSet<AttachmentId>,
}

impl Files {
    /// The file of ours that a part names, if it names one. The pictures of a text's stickers are checked as well.
    fn of_part(
        &mut self,
        part: &DraftPart,
        awaited: &DirectUploadChecks,
        now: Timestamp,
    ) -> Result<Option<Attachment>, Error> {
        match part {
            DraftPart::Text(text) => {
                for sticker in &text.stickers {
                    let id = AttachmentId::parse(&sticker.attachment_id)
                        .ok_or(Error::AttachmentNotFound)?;
                    self.require_sendable(id, awaited, now)?;
                }
                Ok(None)
            }
            DraftPart::Link(_) | DraftPart::Url(_) => Ok(None),
            DraftPart::Attachment(id) => {
                self.require_sendable(*id, awaited, now).cloned().map(Some)
            }
            DraftPart::OwnFile(file) => {
                let file = file.as_ref().ok_or(Error::AttachmentNotFound)?;
                let attachment = self.require_sendable(file.id, awaited, now)?;
                let names = [
                    attachment.filename.as_str(),
                    attachment.delivered().filename,
                ];
                let is_named = attachment.partner_id == file.partner_id
                    && names
                        .into_iter()
                        .any(|name| filename::url_segment(name) == file.segment);
                if is_named {
                    Ok(Some(attachment.clone()))
                } else {
                    Err(Error::AttachmentNotFound)
                }
            }
        }
    }

    /// The partner's attachment, if its bytes are there or may be.
    fn require_sendable(
        &mut self,
        id: AttachmentId,
        awaited: &DirectUploadChecks,
        now: Timestamp,
    ) -> Result<&Attachment, Error> {
        let attachment = self.found.get(&id).ok_or(Error::AttachmentNotFound)?;
        if attachment.state == UploadState::Pending && awaited.needs_check(id) {
            self.unsettled.insert(id);
            return Ok(attachment);
        }
        match (attachment.status(now), &attachment.state) {
            (Status::Complete, _) => Ok(attachment),
            (Status::Pending, _) => Err(Error::AttachmentNotReady(id.to_string())),
            (Status::Failed, UploadState::Rejected { reason, .. }) => Err(Error::UnsupportedType(
                format!("attachment {id} cannot be sent: {reason}"),
            )),
            (Status::Failed, _) => Err(Error::AttachmentNotFound),
        }
    }
}
