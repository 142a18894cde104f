-- The ephemeral tier: files that are gone a day or two after they came.

-- Since when what the partner, or what is fetched for this line, is ephemeral; NULL: it is kept.
ALTER TABLE partners ADD COLUMN ephemeral_since BIGINT;
ALTER TABLE lines ADD COLUMN ephemeral_since BIGINT;

-- From this moment on the attachment is not there any more, whether or not its row still is; NULL: it is kept. A tier
-- that changes later does not change it.
ALTER TABLE attachments ADD COLUMN purge_at BIGINT;
CREATE INDEX attachments_by_purge ON attachments (purge_at) WHERE purge_at IS NOT NULL;
