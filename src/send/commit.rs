//! Commits a send in one transaction (phase 5).

use super::local_media::LocalMedia;
use super::publish::{FetchedAttachment, PublishedMedia};
use super::replay::stored_response;
use super::validate::{ValidatedDraft, recheck};
use super::{Destination, Draft, Error, SendOutcome, Sends, StoredResponse, rate_limit};
use crate::attachments::FileUrls;
use crate::clock::Timestamp;
use crate::db::{Connection, chats, idempotency, locks, messages, outbox};
use crate::domain::message::{DeliveryStatus, Message};
use crate::domain::part::{DraftPart, Part};
use crate::id::{MessageId, PartnerId};

/// Result of a send's transaction.
enum Committed {
    Sent(StoredResponse),
    /// A concurrent call with the same idempotency key was committed first.
    Replayed(StoredResponse),
}

impl Sends {
    /// Commits a send and notifies the outbox. Discards the published media if the transaction did
    /// not reference them.
    pub(super) async fn commit(
        &self,
        partner: PartnerId,
        draft: Draft,
        validated: ValidatedDraft,
        media: PublishedMedia,
        render: impl FnOnce(&FileUrls, &SendOutcome) -> StoredResponse + Send + 'static,
    ) -> Result<StoredResponse, Error> {
        let keys = media.keys();
        let PublishedMedia { attachments, held } = media;
        let result = self
            .run_transaction(partner, draft, validated, attachments, render)
            .await;
        match &result {
            Ok(Committed::Sent(_)) => {
                self.metrics.message(DeliveryStatus::Pending.as_str());
                self.outbox.notify_one();
            }
            // The transaction may have been committed despite the error, so the blobs are left to
            // the deletion queue.
            Err(error) if error.leaves_outcome_unknown() => {}
            Ok(Committed::Replayed(_)) | Err(_) => {
                self.attachments.discard_published(partner, &keys).await;
            }
        }
        drop(held);
        result.map(|(Committed::Sent(response) | Committed::Replayed(response))| response)
    }

    async fn run_transaction(
        &self,
        partner: PartnerId,
        draft: Draft,
        validated: ValidatedDraft,
        fetched: Vec<FetchedAttachment>,
        render: impl FnOnce(&FileUrls, &SendOutcome) -> StoredResponse + Send + 'static,
    ) -> Result<Committed, Error> {
        let (config, now) = (self.config, self.clock.now());
        let file_urls = self.attachments.file_urls().clone();
        let transaction = self.db.weighted_transaction(
            partner,
            draft.stored_bytes(),
            async move |db: &mut Connection| {
                locks::lock_names(db, &lock_keys(partner, &draft, &fetched)).await?;
                let key = draft.idempotency_key.clone();
                if let Some(key) = &key
                    && let Some(stored) = stored_response(db, partner, key).await?
                {
                    return Ok::<_, Error>(Committed::Replayed(stored));
                }
                let validated = recheck(db, config, partner, &draft, validated, now).await?;
                let outcome = insert(db, partner, draft, validated, fetched, now).await?;
                let response = render(&file_urls, &outcome);
                if let Some(key) = key {
                    store_response(db, partner, &key, &outcome, &response, now).await?;
                }
                Ok(Committed::Sent(response))
            },
        );
        transaction.await
    }
}

/// Returns the names of the advisory locks that a send takes. They serialise sends with the same
/// idempotency key, sends that may create the same chat, and sends that reuse a blob with that
/// blob's deletion. The rate limit takes its own locks once the chat is known.
fn lock_keys(partner: PartnerId, draft: &Draft, fetched: &[FetchedAttachment]) -> Vec<String> {
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
    let blobs = fetched
        .iter()
        .flat_map(FetchedAttachment::shared_blobs)
        .map(|blob| format!("blob {blob}"));
    key.into_iter().chain(recipients).chain(blobs).collect()
}

/// Inserts the message and its outbox entry, and also its chat and attachments if they are new.
async fn insert(
    db: &mut Connection,
    partner: PartnerId,
    draft: Draft,
    validated: ValidatedDraft,
    fetched: Vec<FetchedAttachment>,
    now: Timestamp,
) -> Result<SendOutcome, Error> {
    let ValidatedDraft {
        target,
        thread_root,
        media,
    } = validated;
    let mut chat = target.chat;
    let me = chat
        .participants
        .iter()
        .find(|participant| participant.is_me);
    let message = Message {
        id: MessageId::new(),
        chat_id: chat.id,
        sender: me.ok_or(Error::ChatNotFound)?.id,
        voice_memo: draft.voice_memo,
        parts: attach(db, draft.parts, media, fetched, now).await?,
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
        Some(recipients) => chats::insert(db, &chat, recipients).await?,
        None => chats::touch(db, chat.id, message.id, now).await?,
    }
    messages::insert(db, partner, &message, &draft.trace_id).await?;
    outbox::insert(db, chat.id, message.id, now).await?;
    rate_limit::record(db, &chat, now).await?;
    Ok(SendOutcome {
        chat,
        created_chat: target.new.is_some(),
        line_selection: target.line_selection,
        previous_chat: target.previous,
        message,
    })
}

/// Converts a draft's parts to message parts. Fetched files become attachments.
async fn attach(
    db: &mut Connection,
    parts: Vec<DraftPart>,
    local: LocalMedia,
    fetched: Vec<FetchedAttachment>,
    now: Timestamp,
) -> Result<Vec<Part>, Error> {
    let mut fetched = fetched.into_iter();
    let mut attached = Vec::with_capacity(parts.len());
    for (part, local) in parts.into_iter().zip(local.by_part) {
        attached.push(match part {
            DraftPart::Text(text) => Part::Text(text),
            DraftPart::Link(url) => Part::Link(url),
            DraftPart::Attachment(_) | DraftPart::OwnFile(_) => Part::Media(local.map(Box::new)),
            DraftPart::Url(_) => {
                let fetched = fetched.next().expect("a fetched file for each URL");
                Part::Media(Some(Box::new(fetched.attach(db, now).await?)))
            }
        });
    }
    Ok(attached)
}

async fn store_response(
    db: &mut Connection,
    partner: PartnerId,
    key: &str,
    outcome: &SendOutcome,
    response: &StoredResponse,
    now: Timestamp,
) -> Result<(), Error> {
    let (message, status) = (outcome.message.id, response.status);
    Ok(idempotency::insert(db, partner, key, message, status, &response.body, now).await?)
}
