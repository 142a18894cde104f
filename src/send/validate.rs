//! Validates a draft (phase 2). Uses only a read connection, so that an invalid send neither waits
//! for the writer nor fetches a file. The commit rechecks what may have changed since.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::chats::{self, ChatTarget};
use super::local_media::LocalMedia;
use super::{Config, Destination, Draft, Error, Sends, StoredResponse, rate_limit};
use crate::attachments;
use crate::attachments::direct_uploads::DirectUploadChecks;
use crate::clock::Timestamp;
use crate::db::{Connection, attachments as table, chats as chat_table, messages, partners};
use crate::domain::chat::Chat;
use crate::domain::message::ReplyTo;
use crate::domain::part::{DraftPart, Text};
use crate::id::{AttachmentId, MessageId, PartnerId};

/// Chat, thread and attachments of a valid draft.
#[derive(Debug)]
pub(super) struct ValidatedDraft {
    pub target: ChatTarget,
    pub thread_root: Option<MessageId>,
    pub media: LocalMedia,
}

/// Reasons why a draft cannot be sent, or not yet.
#[derive(Debug)]
pub(super) enum Blocked {
    /// The attachment must first be processed, as it was never sent before.
    NeedsProcessing(AttachmentId),
    /// The attachments may have direct uploads, which must first be finalized.
    NeedsFinalize(Vec<AttachmentId>),
    Invalid(Error),
}

impl<E: Into<Error>> From<E> for Blocked {
    fn from(error: E) -> Self {
        Self::Invalid(error.into())
    }
}

impl Sends {
    /// Validates a draft, after processing and finalizing its attachments if necessary. The draft
    /// may be invalid only because a concurrent call with the same idempotency key was committed;
    /// in that case, breaks with that call's response.
    pub(super) async fn validate(
        self: &Arc<Self>,
        partner: PartnerId,
        draft: &Draft,
        checks: &mut DirectUploadChecks,
    ) -> Result<ControlFlow<StoredResponse, ValidatedDraft>, Error> {
        loop {
            let blocked = match self.check(partner, draft, checks).await {
                Ok(validated) => return Ok(ControlFlow::Continue(validated)),
                Err(blocked) => blocked,
            };
            let key = draft.idempotency_key.as_deref();
            if let Some(stored) = self.replay(partner, key).await? {
                return Ok(ControlFlow::Break(stored));
            }
            self.unblock(partner, blocked, checks).await?;
        }
    }

    async fn unblock(
        &self,
        partner: PartnerId,
        blocked: Blocked,
        checks: &mut DirectUploadChecks,
    ) -> Result<(), Error> {
        match blocked {
            Blocked::NeedsProcessing(id) => self.attachments.ensure_processed(partner, id).await?,
            Blocked::NeedsFinalize(ids) => {
                for id in ids {
                    self.attachments
                        .finalize_for_send(partner, id, checks)
                        .await?;
                }
            }
            Blocked::Invalid(error) => return Err(error),
        }
        Ok(())
    }

    /// Checks everything that can be checked before remote files are fetched, without changing
    /// anything.
    async fn check(
        &self,
        partner: PartnerId,
        draft: &Draft,
        checks: &DirectUploadChecks,
    ) -> Result<ValidatedDraft, Blocked> {
        let now = self.clock.now();
        let mut db = self.db.read(partner).await?;
        let target = find_target(&mut db, partner, draft, now).await?;
        if !target.chat.is_group() && draft.parts.iter().any(has_mention) {
            return Err(Error::MentionInDirectChat.into());
        }
        let thread_root = match draft.reply_to {
            Some(reply) => Some(find_thread_root(&mut db, partner, &target.chat, reply).await?),
            None => None,
        };
        rate_limit::check(&mut db, self.config, &target.chat, now).await?;
        let media = self
            .find_local_media(&mut db, partner, draft, checks)
            .await?;
        Ok(ValidatedDraft {
            target,
            thread_root,
            media,
        })
    }
}

/// Rechecks, within the send's transaction, what may have changed since [`Sends::validate`]: a chat
/// may have been created, the rate limit reached, or an attachment deleted. Existing chats and
/// their participants never change.
pub(super) async fn recheck(
    db: &mut Connection,
    config: Config,
    partner: PartnerId,
    draft: &Draft,
    mut validated: ValidatedDraft,
    now: Timestamp,
) -> Result<ValidatedDraft, Error> {
    if validated.target.new.is_some() {
        validated.target = find_target(db, partner, draft, now).await?;
    }
    rate_limit::check(db, config, &validated.target.chat, now).await?;
    if !table::are_stored(db, partner, &validated.media.referenced, now).await? {
        return Err(attachments::Error::NotFound.into());
    }
    Ok(validated)
}

/// Finds the draft's chat, or prepares a new one.
async fn find_target(
    db: &mut Connection,
    partner: PartnerId,
    draft: &Draft,
    now: Timestamp,
) -> Result<ChatTarget, Error> {
    match &draft.destination {
        Destination::Line { from, to } => {
            let target = chats::find_on_line(db, partner, from, to.clone(), now).await?;
            if target.new.is_some() {
                check_first_message(draft)?;
                if !partners::owns_line(db, partner, from).await? {
                    return Err(Error::LineNotOwned(from.clone()));
                }
            }
            Ok(target)
        }
        Destination::Chat(id) => {
            let chat = chat_table::find(db, partner, *id)
                .await?
                .ok_or(Error::ChatNotFound)?;
            Ok(ChatTarget::existing(chat))
        }
        Destination::Anyone { to, excluded } => {
            chats::find_on_any_line(db, partner, to.clone(), excluded, now).await
        }
    }
}

/// Rejects content that carriers treat as spam in the first message of a new chat (`POST /v3/chats`
/// only).
fn check_first_message(draft: &Draft) -> Result<(), Error> {
    let is_link = |part: &DraftPart| matches!(part, DraftPart::Link(_));
    let has_url = |part: &DraftPart| matches!(part, DraftPart::Text(text) if text.has_url());
    if draft.parts.iter().any(is_link) {
        return Err(Error::FirstMessage("be a link"));
    }
    if draft.parts.iter().any(has_url) {
        return Err(Error::FirstMessage("hold a URL"));
    }
    if draft.reply_to.is_some() {
        return Err(Error::FirstMessage("be a reply"));
    }
    Ok(())
}

fn has_mention(part: &DraftPart) -> bool {
    matches!(part, DraftPart::Text(Text { mention, .. }) if mention.is_some())
}

async fn find_thread_root(
    db: &mut Connection,
    partner: PartnerId,
    chat: &Chat,
    reply: ReplyTo,
) -> Result<MessageId, Error> {
    let answered = messages::find(db, partner, reply.message_id).await?;
    let answered = answered
        .filter(|message| message.chat_id == chat.id)
        .ok_or(Error::MessageNotFound)?;
    if reply.part_index as usize >= answered.parts.len() {
        return Err(Error::PartIndexOutOfRange {
            part_index: reply.part_index,
            parts: answered.parts.len(),
        });
    }
    Ok(answered.thread_root.unwrap_or(answered.id))
}
