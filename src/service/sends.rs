//! Sending: everything that is checked, and the one transaction that makes chat, message, outbox entry and the
//! answer kept under an idempotency key. A send that fails any check leaves none of them.

use std::sync::Arc;

use tracing::Instrument;

use super::arrivals::Awaited;
use super::chats::{self, LineChoice, Target};
use super::media_urls::{FetchedFile, FetchedMedia};
use super::message_files::{check_sendable, own_file, resolve};
use super::{Error, FileUrls, Service, rate_limit};
use crate::blob;
use crate::clock::Timestamp;
use crate::config::Limits;
use crate::convert::Converter;
use crate::db::{Connection, chats as chat_table, idempotency, locks, messages, outbox, partners};
use crate::domain::attachment::Attachment;
use crate::domain::chat::{Chat, Recipients};
use crate::domain::handle::PhoneNumber;
use crate::domain::message::{DeliveryStatus, Effect, Message, ReplyTo, Service as Carrier};
use crate::domain::part::{DraftPart, Text};
use crate::domain::tier::Tier;
use crate::id::{ChatId, MessageId, PartnerId};

/// Where a message goes.
#[derive(Clone, Debug)]
pub enum Destination {
    /// Into the chat of this line and these recipients, new or not (`POST /v3/chats`).
    Line {
        /// The line.
        from: PhoneNumber,
        /// The recipients.
        to: Recipients,
    },
    /// Into this chat (`POST /v3/chats/{id}/messages`).
    Chat(ChatId),
    /// To these recipients, from whichever line is best (`POST /v3/messages`).
    Anyone {
        /// The recipients.
        to: Recipients,
        /// Lines not to use.
        excluded: Vec<PhoneNumber>,
    },
}

/// A message to send; checked as far as that needs no database.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Where to.
    pub destination: Destination,
    /// Its parts.
    pub parts: Vec<DraftPart>,
    /// Whether it is a voice memo: then it has one part, which is a file.
    pub voice_memo: bool,
    /// Its effect.
    pub effect: Option<Effect>,
    /// What it answers.
    pub reply_to: Option<ReplyTo>,
    /// The service it should go by.
    pub preferred_service: Option<Carrier>,
    /// The caller's key.
    pub idempotency_key: Option<String>,
    /// The trace id of the call.
    pub trace_id: String,
}

/// What a send made.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The chat, with the message in it.
    pub chat: Chat,
    /// Whether it is new.
    pub created_chat: bool,
    /// Why this line.
    pub choice: LineChoice,
    /// The chat that was passed over.
    pub previous_chat: Option<ChatId>,
    /// The message.
    pub message: Message,
}

/// An answer, as it goes over the wire and as it is kept under an idempotency key.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// JSON.
    pub body: String,
}

impl Service {
    /// The answer kept under an idempotency key.
    ///
    /// # Errors
    /// The message it tells of was deleted.
    pub async fn kept_answer(&self, partner: PartnerId, key: &str) -> Result<Option<Answer>, Error> {
        kept_answer(&mut *self.db.read().await?, partner, key).await
    }

    /// Sends a message. `answer` writes what was made as the answer of the call; it is kept under the idempotency key
    /// in the same transaction, so a repeated call gets the same answer or none was ever given.
    ///
    /// # Errors
    /// Any check fails.
    pub async fn send(
        self: &Arc<Self>,
        partner: PartnerId,
        mut draft: Draft,
        answer: impl FnOnce(&FileUrls, &Sent) -> Answer + Clone + Send + Sync + 'static,
    ) -> Result<Answer, Error> {
        let now = self.clock.now();
        let mut awaited = self.awaited();
        let urls = |draft: &Draft| draft.parts.iter().filter(|part| matches!(part, DraftPart::Url(_))).count();
        let to_fetch = urls(&draft);
        let media = if to_fetch > 0 {
            // Everything else is checked before anybody is asked for a file, and again in the transaction.
            let tier = self.check_ready(partner, &draft, &mut awaited, now).await?;
            let media = self.fetch_media(partner, &mut draft, tier, now).await?;
            // Redirects may have led to files of ours, which are checked before the others are stored.
            if urls(&draft) < to_fetch {
                self.check_ready(partner, &draft, &mut awaited, now).await?;
            }
            media
        } else {
            FetchedMedia::default()
        };
        let service = Arc::clone(self);
        let finish = async move {
            let (files, _held) = service.keep(media).await?;
            let sent = service.commit(partner, draft, files.clone(), awaited, answer).await;
            // After a failure of the database it may not be known whether the files were taken; the sweeper knows.
            if !matches!(sent, Ok((_, true)) | Err(Error::Db(_))) {
                service.discard(&files).await;
            }
            sent.map(|(answer, _)| answer)
        };
        // A task of its own: a client that goes away now must leave neither files that nobody names nor a message that
        // nobody is told of.
        tokio::spawn(finish.in_current_span()).await.map_err(|_| blob::Error::Stopped)?
    }

    /// Commits a send, preparing files for it as need be; whether anything was sent, or the answer is one that was kept.
    async fn commit(
        self: &Arc<Self>,
        partner: PartnerId,
        draft: Draft,
        files: Vec<FetchedFile>,
        mut awaited: Awaited,
        answer: impl FnOnce(&FileUrls, &Sent) -> Answer + Clone + Send + Sync + 'static,
    ) -> Result<(Answer, bool), Error> {
        let (answer, fresh) = loop {
            match self.transact(partner, draft.clone(), files.clone(), &awaited, answer.clone()).await {
                Err(error) => self.make_ready(error, &mut awaited).await?,
                Ok(sent) => break sent,
            }
        };
        if fresh {
            self.metrics.message(DeliveryStatus::Pending.as_str());
            self.outbox_filled.notify_one();
        }
        Ok((answer, fresh))
    }

    fn rules(&self, awaited: &Awaited) -> Rules {
        Rules { limits: self.limits.clone(), converter: Arc::clone(&self.converter), awaited: awaited.clone() }
    }

    /// Checks a draft whose files are not there yet; how long they are to be kept.
    async fn check_draft(
        &self,
        partner: PartnerId,
        draft: &Draft,
        awaited: &Awaited,
        now: Timestamp,
    ) -> Result<Tier, Error> {
        let mut db = self.db.read().await?;
        let checked = check(&mut db, &self.rules(awaited), partner, draft, now).await?;
        Ok(partners::tier_of_line(&mut db, partner, &checked.target.chat.line).await?)
    }

    /// Checks a draft, preparing files for it as need be.
    async fn check_ready(
        self: &Arc<Self>,
        partner: PartnerId,
        draft: &Draft,
        awaited: &mut Awaited,
        now: Timestamp,
    ) -> Result<Tier, Error> {
        loop {
            match self.check_draft(partner, draft, awaited, now).await {
                Ok(tier) => return Ok(tier),
                Err(error) => self.make_ready(error, awaited).await?,
            }
        }
    }

    /// Does what a send could not do inside its transaction; then it can be tried again.
    async fn make_ready(self: &Arc<Self>, error: Error, awaited: &mut Awaited) -> Result<(), Error> {
        match error {
            Error::Unprepared(id) => self.prepare(id).await,
            Error::Unsettled(id) => self.look_for(id, awaited).await,
            error => Err(error),
        }
    }

    /// The transaction of a send.
    async fn transact(
        &self,
        partner: PartnerId,
        draft: Draft,
        files: Vec<FetchedFile>,
        awaited: &Awaited,
        answer: impl FnOnce(&FileUrls, &Sent) -> Answer + Send + 'static,
    ) -> Result<(Answer, bool), Error> {
        let (rules, file_urls, now) = (self.rules(awaited), self.file_urls.clone(), self.clock.now());
        self.db
            .write(move |db| {
                Box::pin(async move {
                    locks::hold(db, &names_to_hold(partner, &draft, &files)).await?;
                    if let Some(key) = &draft.idempotency_key
                        && let Some(kept) = kept_answer(db, partner, key).await?
                    {
                        return Ok::<_, Error>((kept, false));
                    }
                    let key = draft.idempotency_key.clone();
                    let sent = send(db, &rules, partner, draft, files, now).await?;
                    let answer = answer(&file_urls, &sent);
                    if let Some(key) = key {
                        idempotency::keep(db, partner, &key, sent.message.id, answer.status, &answer.body, now).await?;
                    }
                    Ok((answer, true))
                })
            })
            .await
    }
}

/// What no other send may decide on at the same time: what is kept under the key, which chat these recipients are in, and
/// whether the files of an earlier send are still there. The recipients' share of the rate limit follows once the chat is
/// known (`rate_limit::check`).
fn names_to_hold(partner: PartnerId, draft: &Draft, files: &[FetchedFile]) -> Vec<String> {
    let key = draft.idempotency_key.as_ref().map(|key| format!("key {partner} {key}"));
    let recipients = match &draft.destination {
        Destination::Line { to, .. } | Destination::Anyone { to, .. } => Some(format!("chat {partner} {}", to.key())),
        Destination::Chat(_) => None,
    };
    let blobs = files.iter().flat_map(FetchedFile::shared_blobs).map(|blob| format!("blob {blob}"));
    key.into_iter().chain(recipients).chain(blobs).collect()
}

async fn kept_answer(db: &mut Connection, partner: PartnerId, key: &str) -> Result<Option<Answer>, Error> {
    match idempotency::find(db, partner, key).await? {
        Some(kept) if kept.message_deleted => Err(Error::MessageNotFound),
        kept => Ok(kept.map(|kept| Answer { status: kept.status, body: kept.body })),
    }
}

/// What sends are checked by.
struct Rules {
    limits: Limits,
    converter: Arc<Converter>,
    awaited: Awaited,
}

/// What the checks of a draft found.
struct Checked {
    target: Target,
    thread_root: Option<MessageId>,
    /// For each part, the file of ours that it names.
    own_files: Vec<Option<Attachment>>,
}

/// Everything that can be checked of a draft before its files are there. Changes nothing.
async fn check(
    db: &mut Connection,
    rules: &Rules,
    partner: PartnerId,
    draft: &Draft,
    now: Timestamp,
) -> Result<Checked, Error> {
    let target = target(db, partner, draft, now).await?;
    let is_mention = |part: &DraftPart| matches!(part, DraftPart::Text(Text { mention: Some(_), .. }));
    if !target.chat.is_group() && draft.parts.iter().any(is_mention) {
        return Err(Error::MentionInDirectChat);
    }
    let thread_root = match draft.reply_to {
        Some(reply) => Some(thread_root(db, partner, &target.chat, reply).await?),
        None => None,
    };
    rate_limit::check(db, &rules.limits, &target.chat, now).await?;
    let mut own_files = Vec::with_capacity(draft.parts.len());
    for part in &draft.parts {
        let own = own_file(db, partner, part, &rules.awaited, now).await?;
        if let Some(attachment) = &own {
            check_sendable(&rules.converter, attachment, draft.voice_memo)?;
        }
        own_files.push(own);
    }
    Ok(Checked { target, thread_root, own_files })
}

async fn send(
    db: &mut Connection,
    rules: &Rules,
    partner: PartnerId,
    draft: Draft,
    files: Vec<FetchedFile>,
    now: Timestamp,
) -> Result<Sent, Error> {
    let Checked { target, thread_root, own_files } = check(db, rules, partner, &draft, now).await?;
    let mut chat = target.chat;
    let parts = resolve(db, draft.parts, own_files, files, now).await?;

    let message = Message {
        id: MessageId::new(),
        chat_id: chat.id,
        sender: chat.participants.iter().find(|p| p.is_me).map(|me| me.id).ok_or(Error::ChatNotFound)?,
        voice_memo: draft.voice_memo,
        parts,
        effect: draft.effect,
        reply_to: draft.reply_to,
        thread_root,
        preferred_service: draft.preferred_service,
        service: None,
        status: DeliveryStatus::Pending,
        created_at: now,
        updated_at: now,
        sent_at: None,
        delivered_at: None,
    };
    chat.last_message_id = message.id;
    chat.updated_at = now;
    match &target.new {
        Some(recipients) => chat_table::insert(db, &chat, recipients).await?,
        None => chat_table::touch(db, chat.id, message.id, now).await?,
    }
    messages::insert(db, partner, &message, &draft.trace_id).await?;
    outbox::insert(db, chat.id, message.id, now).await?;
    rate_limit::record(db, &chat, now).await?;
    Ok(Sent {
        chat,
        created_chat: target.new.is_some(),
        choice: target.choice,
        previous_chat: target.previous,
        message,
    })
}

async fn target(db: &mut Connection, partner: PartnerId, draft: &Draft, now: Timestamp) -> Result<Target, Error> {
    match &draft.destination {
        Destination::Line { from, to } => {
            let target = chats::of_line(db, partner, from, to.clone(), now).await?;
            if target.new.is_some() {
                check_first_message(draft)?;
                chats::own_line(db, partner, from).await?;
            }
            Ok(target)
        }
        Destination::Chat(id) => {
            let chat = chat_table::find(db, partner, *id).await?.ok_or(Error::ChatNotFound)?;
            Ok(Target { chat, new: None, choice: LineChoice::ReusedActiveChat, previous: None })
        }
        Destination::Anyone { to, excluded } => chats::of_any_line(db, partner, to.clone(), excluded, now).await,
    }
}

/// What the first message of a new chat must not be (`POST /v3/chats` only): carriers take a link from a stranger
/// for spam.
fn check_first_message(draft: &Draft) -> Result<(), Error> {
    let refuse = |what: &str| {
        Err(Error::InvalidParameter(format!("the first message of a new chat cannot {what}; send it as the second")))
    };
    if draft.parts.iter().any(|part| matches!(part, DraftPart::Link(_))) {
        return refuse("be a link");
    }
    if draft.parts.iter().any(|part| matches!(part, DraftPart::Text(text) if text.has_url())) {
        return refuse("hold a URL");
    }
    if draft.reply_to.is_some() {
        return refuse("be a reply");
    }
    Ok(())
}

async fn thread_root(db: &mut Connection, partner: PartnerId, chat: &Chat, reply: ReplyTo) -> Result<MessageId, Error> {
    let answered = messages::find(db, partner, reply.message_id).await?;
    let answered = answered.filter(|message| message.chat_id == chat.id).ok_or(Error::MessageNotFound)?;
    if reply.part_index as usize >= answered.parts.len() {
        return Err(Error::InvalidParameter(format!(
            "reply_to.part_index {} is out of range: the message has {} parts",
            reply.part_index,
            answered.parts.len()
        )));
    }
    Ok(answered.thread_root.unwrap_or(answered.id))
}
