//! Defines the accepted media types and the size limit of voice memos.

/// Maximum size of a voice memo, in bytes (Linq Partner API v3, `POST
/// /v3/chats/{chatId}/voicememo`).
pub const MAX_BYTES: u64 = 10 * 1024 * 1024;

/// Media types accepted for voice memos, as stored or delivered.
static TYPES: &[&str] = &[
    "audio/mpeg",
    "audio/x-m4a",
    "audio/mp4",
    "audio/aac",
    "audio/x-caf",
    "audio/x-wav",
    "audio/x-aiff",
    "audio/amr",
];

/// Returns true if a file of this media type can be sent as a voice memo.
#[must_use]
pub fn is_sound(media_type: &str) -> bool {
    TYPES.contains(&media_type)
}
