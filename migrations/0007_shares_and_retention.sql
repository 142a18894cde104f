-- Lists and look-ups that are searched by an index, and rows that are not kept for ever.

-- Whose chat a participant is in: what a partner finds by a handle must not take longer for the chats of others with it.
-- Empty where a server of an earlier version wrote the row.
ALTER TABLE participants ADD COLUMN partner_id TEXT NOT NULL DEFAULT '';
UPDATE participants SET partner_id = (SELECT partner_id FROM chats WHERE chats.id = participants.chat_id);
CREATE INDEX participants_by_partner ON participants (partner_id, handle, chat_id);
DROP INDEX participants_by_handle;
CREATE INDEX chats_by_line ON chats (partner_id, line, last_message_id);

-- What is removed once it is old enough.
CREATE INDEX audit_records_by_age ON audit_records (created_at);
CREATE INDEX audit_records_by_subject ON audit_records (subject_id);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
CREATE INDEX blob_removals_due ON blob_removals (not_before);
