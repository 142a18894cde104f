//! Sending: everything that is checked, and the one transaction that makes chat, message, outbox entry and the
//! answer kept under an idempotency key. A send that fails any check leaves none of them.

pub mod chats;
pub(crate) mod parts;
pub(crate) mod rate_limit;
pub(crate) mod remote_media;
pub(crate) mod validate;

use std::sync::Arc;

use tracing::Instrument;

use crate::attachments::direct_uploads::DirectUploadChecks;
use crate::blob;
use crate::clock::Timestamp;
use crate::db::{Connection, chats as chat_table, idempotency, locks, messages, outbox, partners};
use crate::domain::chat::{Chat, Recipients};
use crate::domain::handle::PhoneNumber;
use crate::domain::message::{DeliveryStatus, Effect, Message, ReplyTo, Service as Carrier};
use crate::domain::part::DraftPart;
use crate::domain::tier::Tier;
use crate::id::{ChatId, MessageId, PartnerId};
use crate::send::chats::LineSelection;
use crate::send::parts::into_parts;
use crate::send::remote_media::{FetchedAttachment, RemoteMedia};
use crate::send::validate::{SendContext, ValidatedDraft, check, recheck};
use crate::service::{Error, FileUrls, Service};

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

impl Draft {
    /// Bytes of text that it stores, roughly.
    fn text_bytes(&self) -> usize {
        let of_part = |part: &DraftPart| match part {
            DraftPart::Text(text) => text.stored_bytes(),
            DraftPart::Link(url) => url.len(),
            DraftPart::Attachment(_) | DraftPart::OwnFile(_) | DraftPart::Url(_) => 0,
        };
        // What is kept under an idempotency key holds it once more.
        self.parts.iter().map(of_part).sum::<usize>()
            * if self.idempotency_key.is_some() { 2 } else { 1 }
    }
}

/// What a send made.
#[derive(Clone, Debug)]
pub struct SendOutcome {
    /// The chat, with the message in it.
    pub chat: Chat,
    /// Whether it is new.
    pub created_chat: bool,
    /// Why this line.
    pub choice: LineSelection,
    /// The chat that was passed over.
    pub previous_chat: Option<ChatId>,
    /// The message.
    pub message: Message,
}

/// An answer, as it goes over the wire and as it is kept under an idempotency key.
#[derive(Clone, Debug)]
pub struct StoredResponse {
    /// HTTP status.
    pub status: u16,
    /// JSON.
    pub body: String,
}

/// Outcome of the checks of a draft.
enum Readiness {
    /// The draft may be sent; with the tier of its files, if some are to be fetched.
    Checked(Box<ValidatedDraft>, Option<Tier>),
    /// Another call with the same idempotency key was carried out.
    Replay(StoredResponse),
}

impl Service {
    /// The answer kept under an idempotency key.
    ///
    /// # Errors
    /// The message it tells of was deleted.
    pub async fn replay(
        &self,
        partner: PartnerId,
        key: &str,
    ) -> Result<Option<StoredResponse>, Error> {
        replay(&mut *self.db.read(partner).await?, partner, key).await
    }

    async fn kept_for(
        &self,
        partner: PartnerId,
        draft: &Draft,
    ) -> Result<Option<StoredResponse>, Error> {
        match &draft.idempotency_key {
            Some(key) => self.replay(partner, key).await,
            None => Ok(None),
        }
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
        answer: impl FnOnce(&FileUrls, &SendOutcome) -> StoredResponse + Clone + Send + Sync + 'static,
    ) -> Result<StoredResponse, Error> {
        let now = self.clock.now();
        let mut awaited = self.awaited();
        // Before anybody is asked for a file, and before the send waits for the writer.
        let (mut checked, tier) = match self.check_ready(partner, &draft, &mut awaited, now).await?
        {
            Readiness::Checked(checked, tier) => (checked, tier),
            Readiness::Replay(kept) => return Ok(kept),
        };
        let media = match tier {
            Some(tier) => {
                let urls = |draft: &Draft| {
                    draft
                        .parts
                        .iter()
                        .filter(|part| matches!(part, DraftPart::Url(_)))
                        .count()
                };
                let to_fetch = urls(&draft);
                let media = self.fetch_media(partner, &mut draft, tier, now).await?;
                // Redirects may have led to files of ours, which are checked before the others are stored.
                if urls(&draft) < to_fetch {
                    checked = match self.check_ready(partner, &draft, &mut awaited, now).await? {
                        Readiness::Checked(checked, _) => checked,
                        Readiness::Replay(kept) => return Ok(kept),
                    };
                }
                media
            }
            None => RemoteMedia::default(),
        };
        let service = Arc::clone(self);
        let finish = async move {
            let (files, _held) = service.publish_all(partner, media).await?;
            let sent = service
                .commit(partner, draft, *checked, files.clone(), awaited, answer)
                .await;
            // After a failure of the database it may not be known whether the files were taken; the sweeper knows.
            if !matches!(sent, Ok((_, true)) | Err(Error::Db(_))) {
                service.discard(partner, &files).await;
            }
            sent.map(|(answer, _)| answer)
        };
        // A task of its own: a client that goes away now must leave neither files that nobody names nor a message that
        // nobody is told of.
        tokio::spawn(finish.in_current_span())
            .await
            .map_err(|_| blob::Error::TaskFailed)?
    }

    /// Commits a send, preparing files for it as need be; whether anything was sent, or the answer is one that was kept.
    async fn commit(
        self: &Arc<Self>,
        partner: PartnerId,
        draft: Draft,
        checked: ValidatedDraft,
        files: Vec<FetchedAttachment>,
        mut awaited: DirectUploadChecks,
        answer: impl FnOnce(&FileUrls, &SendOutcome) -> StoredResponse + Clone + Send + Sync + 'static,
    ) -> Result<(StoredResponse, bool), Error> {
        let (answer, fresh) = loop {
            let (draft, checked) = (draft.clone(), checked.clone());
            match self
                .run_transaction(
                    partner,
                    draft,
                    checked,
                    files.clone(),
                    &awaited,
                    answer.clone(),
                )
                .await
            {
                Err(error) => self.unblock(partner, error, &mut awaited).await?,
                Ok(sent) => break sent,
            }
        };
        if fresh {
            self.metrics.message(DeliveryStatus::Pending.as_str());
            self.outbox_filled.notify_one();
        }
        Ok((answer, fresh))
    }

    fn rules(&self, awaited: &DirectUploadChecks) -> SendContext {
        SendContext {
            limits: self.limits.clone(),
            converter: Arc::clone(&self.converter),
            awaited: awaited.clone(),
        }
    }

    /// Checks a draft whose files are not there yet. If some are to be fetched, says how long they are to be kept.
    async fn validate(
        &self,
        partner: PartnerId,
        draft: &Draft,
        awaited: &DirectUploadChecks,
        now: Timestamp,
    ) -> Result<(ValidatedDraft, Option<Tier>), Error> {
        let mut db = self.db.read(partner).await?;
        let checked = check(&mut db, &self.rules(awaited), partner, draft, now).await?;
        if !draft
            .parts
            .iter()
            .any(|part| matches!(part, DraftPart::Url(_)))
        {
            return Ok((checked, None));
        }
        let tier = partners::tier_of_line(&mut db, partner, &checked.target.chat.line).await?;
        Ok((checked, Some(tier)))
    }

    /// Checks a draft, preparing files for it as need be.
    async fn check_ready(
        self: &Arc<Self>,
        partner: PartnerId,
        draft: &Draft,
        awaited: &mut DirectUploadChecks,
        now: Timestamp,
    ) -> Result<Readiness, Error> {
        loop {
            match self.validate(partner, draft, awaited, now).await {
                Ok((checked, tier)) => return Ok(Readiness::Checked(Box::new(checked), tier)),
                // Another call with the same key may have been carried out meanwhile, and this one breaks a rule for that.
                Err(error) => match self.kept_for(partner, draft).await? {
                    Some(kept) => return Ok(Readiness::Replay(kept)),
                    None => self.unblock(partner, error, awaited).await?,
                },
            }
        }
    }

    /// Does what a send could not do while it was checked; then it can be tried again.
    async fn unblock(
        self: &Arc<Self>,
        partner: PartnerId,
        error: Error,
        awaited: &mut DirectUploadChecks,
    ) -> Result<(), Error> {
        match error {
            Error::Unprepared(id) => self.ensure_variant(partner, id).await,
            Error::Unsettled(ids) => {
                for id in ids {
                    self.finalize_for_send(partner, id, awaited).await?;
                }
                Ok(())
            }
            error => Err(error),
        }
    }

    /// The transaction of a send.
    async fn run_transaction(
        &self,
        partner: PartnerId,
        draft: Draft,
        checked: ValidatedDraft,
        files: Vec<FetchedAttachment>,
        awaited: &DirectUploadChecks,
        answer: impl FnOnce(&FileUrls, &SendOutcome) -> StoredResponse + Send + 'static,
    ) -> Result<(StoredResponse, bool), Error> {
        let (rules, file_urls, now) = (
            self.rules(awaited),
            self.file_urls.clone(),
            self.clock.now(),
        );
        self.db
            .write_bytes(partner, draft.text_bytes(), move |db| {
                Box::pin(async move {
                    locks::lock_names(db, &lock_keys(partner, &draft, &files)).await?;
                    if let Some(key) = &draft.idempotency_key
                        && let Some(kept) = replay(db, partner, key).await?
                    {
                        return Ok::<_, Error>((kept, false));
                    }
                    let key = draft.idempotency_key.clone();
                    let checked = recheck(db, &rules, partner, &draft, checked, now).await?;
                    let sent = send(db, partner, draft, checked, files, now).await?;
                    let answer = answer(&file_urls, &sent);
                    if let Some(key) = key {
                        idempotency::insert(
                            db,
                            partner,
                            &key,
                            sent.message.id,
                            answer.status,
                            &answer.body,
                            now,
                        )
                        .await?;
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
fn lock_keys(partner: PartnerId, draft: &Draft, files: &[FetchedAttachment]) -> Vec<String> {
    let key = draft
        .idempotency_key
        .as_ref()
        .map(|key| format!("key {partner} {key}"));
    let recipients = match &draft.destination {
        Destination::Line { to, .. } | Destination::Anyone { to, .. } => {
            Some(format!("chat {partner} {}", to.key()))
        }
        Destination::Chat(_) => None,
    };
    let blobs = files
        .iter()
        .flat_map(FetchedAttachment::shared_blobs)
        .map(|blob| format!("blob {blob}"));
    key.into_iter().chain(recipients).chain(blobs).collect()
}

async fn replay(
    db: &mut Connection,
    partner: PartnerId,
    key: &str,
) -> Result<Option<StoredResponse>, Error> {
    match idempotency::find(db, partner, key).await? {
        Some(kept) if kept.message_deleted => Err(Error::MessageNotFound),
        kept => Ok(kept.map(|kept| StoredResponse {
            status: kept.status,
            body: kept.body,
        })),
    }
}

async fn send(
    db: &mut Connection,
    partner: PartnerId,
    draft: Draft,
    ValidatedDraft {
        target,
        thread_root,
        own_files,
        ..
    }: ValidatedDraft,
    files: Vec<FetchedAttachment>,
    now: Timestamp,
) -> Result<SendOutcome, Error> {
    let mut chat = target.chat;
    let parts = into_parts(db, draft.parts, own_files, files, now).await?;

    let message = Message {
        id: MessageId::new(),
        chat_id: chat.id,
        sender: chat
            .participants
            .iter()
            .find(|p| p.is_me)
            .map(|me| me.id)
            .ok_or(Error::ChatNotFound)?,
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
    Ok(SendOutcome {
        chat,
        created_chat: target.new.is_some(),
        choice: target.choice,
        previous_chat: target.previous,
        message,
    })
}
