-- Files that were fetched, and bytes that were looked at.

-- Why the bytes that arrived were not kept; abandoned_at is set with it.
ALTER TABLE attachments ADD COLUMN refusal TEXT;
-- The attachment whose blob this one shares, when it has none of its own: its origin said that nothing had changed.
ALTER TABLE attachments ADD COLUMN blob_of TEXT;
ALTER TABLE attachments ADD COLUMN width BIGINT;
ALTER TABLE attachments ADD COLUMN height BIGINT;
ALTER TABLE attachments ADD COLUMN duration_ms BIGINT;
CREATE INDEX attachments_by_blob ON attachments (blob_of) WHERE blob_of IS NOT NULL;

-- Blobs that are about to be named by an attachment are asked to be removed as well, later: a crash in between leaves
-- the asking, and the transaction that names them takes it back.
ALTER TABLE blob_removals ADD COLUMN not_before BIGINT NOT NULL DEFAULT 0;
-- From here on nothing can come to name it.
ALTER TABLE blob_removals ADD COLUMN claimed_at BIGINT;

-- What a partner's URL last brought, to ask its origin whether that is still so. URLs are kept as SHA-256 only: their
-- queries may hold secrets.
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
