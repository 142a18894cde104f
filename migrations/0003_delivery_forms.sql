-- What a file is delivered as, and what can be heard in it: found out once, when it is first sent.
ALTER TABLE attachments ADD COLUMN prepared_at BIGINT;
-- The form it is delivered in, where that is another than was uploaded. Its blob has an id of its own.
ALTER TABLE attachments ADD COLUMN delivery_blob TEXT;
ALTER TABLE attachments ADD COLUMN delivery_filename TEXT;
ALTER TABLE attachments ADD COLUMN delivery_type TEXT;
ALTER TABLE attachments ADD COLUMN delivery_size BIGINT;
ALTER TABLE attachments ADD COLUMN delivery_md5 TEXT;
ALTER TABLE attachments ADD COLUMN channels BIGINT;
ALTER TABLE attachments ADD COLUMN sample_rate BIGINT;
-- 64 bytes in hexadecimal: the peak of each slice.
ALTER TABLE attachments ADD COLUMN waveform TEXT;
CREATE INDEX attachments_by_delivery ON attachments (delivery_blob) WHERE delivery_blob IS NOT NULL;

-- 1: a voice memo, which plays in the conversation.
ALTER TABLE messages ADD COLUMN voice_memo BIGINT NOT NULL DEFAULT 0;
