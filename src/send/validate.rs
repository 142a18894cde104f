//! What is checked of a send: once on a reader before anything else, so that a send that breaks a rule never reaches the
//! writer; and again in its transaction, as far as others may have changed the answer meanwhile.

use std::sync::Arc;

use super::chats::{self, ChatTarget, LineSelection};
use super::parts::own_files;
use super::rate_limit;
use super::{Destination, Draft};
use crate::attachments::direct_uploads::DirectUploadChecks;
use crate::clock::Timestamp;
use crate::config::Limits;
use crate::db::{Connection, attachments, chats as chat_table, messages};
use crate::domain::attachment::Attachment;
use crate::domain::chat::Chat;
use crate::domain::message::ReplyTo;
use crate::domain::part::{DraftPart, Text};
use crate::id::{AttachmentId, MessageId, PartnerId};
use crate::service::Error;
use crate::transcode::Converter;

/// What sends are checked by.
#[derive(Clone)]
pub(crate) struct SendContext {
    pub limits: Limits,
    pub converter: Arc<Converter>,
    pub awaited: DirectUploadChecks,
}

/// What the checks of a draft found.
#[derive(Clone)]
pub(crate) struct ValidatedDraft {
    pub target: ChatTarget,
    pub thread_root: Option<MessageId>,
    /// For each part, the file of ours that it names.
    pub own_files: Vec<Option<Attachment>>,
    /// Every attachment that the parts name, stickers included, each once.
    named: Vec<AttachmentId>,
}

/// Checks everything that can be checked of a draft before its files are there. Changes nothing.
pub(crate) async fn check(
    db: &mut Connection,
    rules: &SendContext,
    partner: PartnerId,
    draft: &Draft,
    now: Timestamp,
) -> Result<ValidatedDraft, Error> {
    let target = target(db, partner, draft, now).await?;
    let is_mention = |part: &DraftPart| {
        matches!(
            part,
            DraftPart::Text(Text {
                mention: Some(_),
                ..
            })
        )
    };
    if !target.chat.is_group() && draft.parts.iter().any(is_mention) {
        return Err(Error::MentionInDirectChat);
    }
    let thread_root = match draft.reply_to {
        Some(reply) => Some(thread_root(db, partner, &target.chat, reply).await?),
        None => None,
    };
    rate_limit::check(db, &rules.limits, &target.chat, now).await?;
    let (own_files, named) = own_files(db, rules, partner, draft, now).await?;
    Ok(ValidatedDraft {
        target,
        thread_root,
        own_files,
        named,
    })
}

/// Checks again what may have changed since [`check`], in the transaction of the send: whether there is a chat by now, what
/// is left of the rate limit, and whether the attachments are still there. Chats and their participants never change.
pub(crate) async fn recheck(
    db: &mut Connection,
    rules: &SendContext,
    partner: PartnerId,
    draft: &Draft,
    mut checked: ValidatedDraft,
    now: Timestamp,
) -> Result<ValidatedDraft, Error> {
    if checked.target.new.is_some() {
        checked.target = target(db, partner, draft, now).await?;
    }
    rate_limit::check(db, &rules.limits, &checked.target.chat, now).await?;
    if !attachments::are_stored(db, partner, &checked.named, now).await? {
        return Err(Error::AttachmentNotFound);
    }
    Ok(checked)
}

/// The chat a draft goes into.
async fn target(
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
                chats::own_line(db, partner, from).await?;
            }
            Ok(target)
        }
        Destination::Chat(id) => {
            let chat = chat_table::find(db, partner, *id)
                .await?
                .ok_or(Error::ChatNotFound)?;
            Ok(ChatTarget {
                chat,
                new: None,
                choice: LineSelection::ReusedActiveChat,
                previous: None,
            })
        }
        Destination::Anyone { to, excluded } => {
            chats::find_on_any_line(db, partner, to.clone(), excluded, now).await
        }
    }
}

/// What the first message of a new chat must not be (`POST /v3/chats` only): carriers take a link from a stranger
/// for spam.
fn check_first_message(draft: &Draft) -> Result<(), Error> {
    let refuse = |what| Err(Error::FirstMessage(what));
    if draft
        .parts
        .iter()
        .any(|part| matches!(part, DraftPart::Link(_)))
    {
        return refuse("be a link");
    }
    if draft
        .parts
        .iter()
        .any(|part| matches!(part, DraftPart::Text(text) if text.has_url()))
    {
        return refuse("hold a URL");
    }
    if draft.reply_to.is_some() {
        return refuse("be a reply");
    }
    Ok(())
}

async fn thread_root(
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
