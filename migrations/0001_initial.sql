-- One set of statements for SQLite and PostgreSQL: TEXT and BIGINT only. Times are milliseconds since the Unix
-- epoch; a state that is reached once is a nullable *_at. Ids are UUIDs of version 7 in their hyphenated form, so
-- sorting by id is sorting by age.

CREATE TABLE partners (
    id         TEXT   NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

CREATE TABLE api_keys (
    key_hash   TEXT   NOT NULL PRIMARY KEY,
    partner_id TEXT   NOT NULL REFERENCES partners (id),
    created_at BIGINT NOT NULL
);

CREATE TABLE lines (
    id           TEXT   NOT NULL PRIMARY KEY,
    partner_id   TEXT   NOT NULL REFERENCES partners (id),
    phone_number TEXT   NOT NULL UNIQUE,
    created_at   BIGINT NOT NULL
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
    abandoned_at      BIGINT
);
CREATE INDEX attachments_awaited ON attachments (partner_id, upload_expires_at)
    WHERE stored_at IS NULL AND abandoned_at IS NULL;
CREATE INDEX attachments_overdue ON attachments (upload_expires_at)
    WHERE stored_at IS NULL AND abandoned_at IS NULL;
CREATE INDEX attachments_abandoned ON attachments (abandoned_at)
    WHERE abandoned_at IS NOT NULL;

-- Blobs to be removed: written in the transaction that drops the last reference, so that a crash between the
-- two leaves no orphan.
CREATE TABLE blob_removals (
    blob_key   TEXT   NOT NULL PRIMARY KEY,
    created_at BIGINT NOT NULL
);

CREATE TABLE audit_records (
    id         TEXT   NOT NULL PRIMARY KEY,
    partner_id TEXT   NOT NULL,
    action     TEXT   NOT NULL,
    subject_id TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

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

CREATE TABLE participants (
    id        TEXT   NOT NULL PRIMARY KEY,
    chat_id   TEXT   NOT NULL REFERENCES chats (id),
    handle    TEXT   NOT NULL,
    is_me     BIGINT NOT NULL,
    joined_at BIGINT NOT NULL,
    UNIQUE (chat_id, handle)
);
CREATE INDEX participants_by_handle ON participants (handle, chat_id);

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
    deleted_at          BIGINT
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
    created_at    BIGINT NOT NULL
);
CREATE INDEX outbox_due ON outbox (available_at);
