-- The initial schema, for SQLite and PostgreSQL: TEXT and BIGINT columns only. Times are
-- milliseconds since the Unix epoch. A state that is reached once is a nullable *_at column. Ids
-- are UUIDs of version 7 in hyphenated form, so sorting by id is sorting by creation time.

CREATE TABLE partners (
    id              TEXT   NOT NULL PRIMARY KEY,
    name            TEXT   NOT NULL UNIQUE,
    created_at      BIGINT NOT NULL,
    -- Time at which the tier of the partner's uploads and sends was set to ephemeral; NULL if it
    -- is persistent.
    ephemeral_since BIGINT
);

CREATE TABLE api_keys (
    key_hash   TEXT   NOT NULL PRIMARY KEY,
    partner_id TEXT   NOT NULL REFERENCES partners (id),
    created_at BIGINT NOT NULL
);

CREATE TABLE lines (
    id              TEXT   NOT NULL PRIMARY KEY,
    partner_id      TEXT   NOT NULL REFERENCES partners (id),
    phone_number    TEXT   NOT NULL UNIQUE,
    created_at      BIGINT NOT NULL,
    -- Time at which the tier of files fetched for this line was set to ephemeral; NULL if it is
    -- persistent.
    ephemeral_since BIGINT
);
CREATE INDEX lines_by_partner ON lines (partner_id, id);

CREATE TABLE attachments (
    id                TEXT   NOT NULL PRIMARY KEY,
    partner_id        TEXT   NOT NULL REFERENCES partners (id),
    filename          TEXT   NOT NULL,
    declared_type     TEXT   NOT NULL,
    signed_type       TEXT   NOT NULL,
    media_type        TEXT   NOT NULL,
    size_bytes        BIGINT NOT NULL,
    created_at        BIGINT NOT NULL,
    upload_expires_at BIGINT NOT NULL,
    sha256            TEXT,
    md5               TEXT,
    stored_at         BIGINT,
    failed_at         BIGINT,
    -- Reason for which the uploaded bytes were rejected; set together with failed_at.
    rejection_reason  TEXT,
    -- The id of a blob shared with another attachment; NULL if the attachment has a blob of its
    -- own. Blobs are shared when the origin of a media URL answers that the file has not changed
    -- (304).
    blob_id           TEXT,
    width             BIGINT,
    height            BIGINT,
    duration_ms       BIGINT,
    -- When the variant and the audio analysis were computed, which is on the first send.
    processed_at      BIGINT,
    -- The variant that is delivered instead of the upload; NULL if the upload is delivered. Its
    -- blob has an id of its own.
    variant_blob_id   TEXT,
    variant_filename  TEXT,
    variant_type      TEXT,
    variant_size      BIGINT,
    variant_md5       TEXT,
    channels          BIGINT,
    sample_rate       BIGINT,
    -- 64 bytes in hexadecimal: the peaks of 64 equal slices.
    waveform          TEXT,
    -- From this time on the attachment counts as deleted, even if its row still exists; NULL if it
    -- does not expire. Not affected by later changes of the tier.
    expires_at        BIGINT
);
CREATE INDEX attachments_pending ON attachments (partner_id, upload_expires_at)
    WHERE stored_at IS NULL AND failed_at IS NULL;
CREATE INDEX attachments_overdue ON attachments (upload_expires_at)
    WHERE stored_at IS NULL AND failed_at IS NULL;
CREATE INDEX attachments_failed ON attachments (failed_at)
    WHERE failed_at IS NOT NULL;
CREATE INDEX attachments_by_blob ON attachments (blob_id) WHERE blob_id IS NOT NULL;
CREATE INDEX attachments_by_variant ON attachments (variant_blob_id) WHERE variant_blob_id IS NOT NULL;
CREATE INDEX attachments_by_expiry ON attachments (expires_at) WHERE expires_at IS NOT NULL;

-- The deletion queue of blobs. An entry is inserted in the transaction that drops the last
-- reference, so a crash between that transaction and the deletion leaves no orphan. A blob that is
-- about to be referenced is queued as well, with a delay: the transaction that references it
-- cancels the deletion, and after a crash the entry remains.
CREATE TABLE blob_deletions (
    blob_key   TEXT   NOT NULL PRIMARY KEY,
    created_at BIGINT NOT NULL,
    not_before BIGINT NOT NULL DEFAULT 0,
    -- Time at which a server leased the deletion. From then on nothing can reference the blob.
    claimed_at BIGINT
);
CREATE INDEX blob_deletions_due ON blob_deletions (not_before);

CREATE TABLE audit_records (
    id         TEXT   NOT NULL PRIMARY KEY,
    partner_id TEXT   NOT NULL,
    action     TEXT   NOT NULL,
    subject_id TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX audit_records_by_age ON audit_records (created_at);
CREATE INDEX audit_records_by_subject ON audit_records (subject_id);

CREATE TABLE chats (
    id              TEXT   NOT NULL PRIMARY KEY,
    partner_id      TEXT   NOT NULL REFERENCES partners (id),
    line            TEXT   NOT NULL,
    recipients      TEXT   NOT NULL,
    last_message_id TEXT   NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    UNIQUE (partner_id, recipients, line)
);
CREATE INDEX chats_by_activity ON chats (partner_id, last_message_id);
CREATE INDEX chats_by_line ON chats (partner_id, line, last_message_id);

CREATE TABLE participants (
    id         TEXT   NOT NULL PRIMARY KEY,
    chat_id    TEXT   NOT NULL REFERENCES chats (id),
    handle     TEXT   NOT NULL,
    is_me      BIGINT NOT NULL,
    joined_at  BIGINT NOT NULL,
    -- The partner of the chat, so that a search by handle does not scan the chats of other
    -- partners.
    partner_id TEXT   NOT NULL,
    UNIQUE (chat_id, handle)
);
CREATE INDEX participants_by_partner ON participants (partner_id, handle, chat_id);

CREATE TABLE messages (
    id                  TEXT   NOT NULL PRIMARY KEY,
    partner_id          TEXT   NOT NULL,
    chat_id             TEXT   NOT NULL REFERENCES chats (id),
    sender              TEXT   NOT NULL REFERENCES participants (id),
    effect_kind         TEXT,
    effect_name         TEXT,
    reply_to_message_id TEXT,
    reply_to_part_index BIGINT,
    thread_root         TEXT,
    preferred_service   TEXT,
    service             TEXT,
    status              TEXT   NOT NULL,
    trace_id            TEXT   NOT NULL,
    created_at          BIGINT NOT NULL,
    updated_at          BIGINT NOT NULL,
    sent_at             BIGINT,
    delivered_at        BIGINT,
    failure_code        BIGINT,
    failure_reason      TEXT,
    deleted_at          BIGINT,
    -- 1 for a voice memo, which plays inside the conversation.
    voice_memo          BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX messages_by_chat ON messages (chat_id, id);
CREATE INDEX messages_by_thread ON messages (thread_root, id) WHERE thread_root IS NOT NULL;

CREATE TABLE parts (
    message_id    TEXT   NOT NULL REFERENCES messages (id),
    position      BIGINT NOT NULL,
    kind          TEXT   NOT NULL,
    body          TEXT,
    attachment_id TEXT,
    PRIMARY KEY (message_id, position)
);

CREATE TABLE idempotency_keys (
    partner_id      TEXT   NOT NULL,
    idempotency_key TEXT   NOT NULL,
    message_id      TEXT   NOT NULL,
    status          BIGINT NOT NULL,
    body            TEXT   NOT NULL,
    created_at      BIGINT NOT NULL,
    PRIMARY KEY (partner_id, idempotency_key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

CREATE TABLE recent_sends (
    line      TEXT   NOT NULL,
    recipient TEXT   NOT NULL,
    sent_at   BIGINT NOT NULL
);
CREATE INDEX recent_sends_by_recipient ON recent_sends (line, recipient, sent_at);
CREATE INDEX recent_sends_by_age ON recent_sends (sent_at);

CREATE TABLE outbox (
    id            TEXT   NOT NULL PRIMARY KEY,
    chat_id       TEXT   NOT NULL,
    message_id    TEXT   NOT NULL,
    available_at  BIGINT NOT NULL,
    attempts      BIGINT NOT NULL,
    created_at    BIGINT NOT NULL,
    -- End of the lease; 0 if there is none. Separate from available_at: later messages of the
    -- chat wait for a leased entry, but not for one that waits for its next attempt.
    claimed_until BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX outbox_due ON outbox (available_at);
CREATE INDEX outbox_by_chat ON outbox (chat_id, claimed_until);

-- The validators of the last response to a partner's media URL, for revalidation. Only the SHA-256
-- of a URL is stored, as its query may contain secrets.
CREATE TABLE fetched_urls (
    partner_id    TEXT   NOT NULL,
    url_hash      TEXT   NOT NULL,
    attachment_id TEXT   NOT NULL,
    final_hash    TEXT   NOT NULL,
    etag          TEXT,
    last_modified TEXT,
    fetched_at    BIGINT NOT NULL,
    PRIMARY KEY (partner_id, url_hash)
);
CREATE INDEX fetched_urls_by_attachment ON fetched_urls (attachment_id);
CREATE INDEX fetched_urls_by_age ON fetched_urls (fetched_at);

-- Secrets shared by all servers on a database, such as the key that signs URLs.
CREATE TABLE secrets (
    name       TEXT   NOT NULL PRIMARY KEY,
    value      TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);
