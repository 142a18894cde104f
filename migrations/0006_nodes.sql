-- Several servers on one database.

-- What all of them must know, such as the key that signs URLs.
CREATE TABLE secrets (
    name       TEXT   NOT NULL PRIMARY KEY,
    value      TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

-- Until when the server that claimed an entry has it for itself: apart from available_at, so that an entry that waits for
-- its next attempt can be told from one that is under way, behind which the chat's later messages wait.
ALTER TABLE outbox ADD COLUMN claimed_until BIGINT NOT NULL DEFAULT 0;
CREATE INDEX outbox_by_chat ON outbox (chat_id, claimed_until);
