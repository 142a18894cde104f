//! Voice memos: which files can be one.

/// Largest voice memo, in bytes (Linq Partner API v3, `POST /v3/chats/{chatId}/voicememo`).
pub const MAX_BYTES: u64 = 10 * 1024 * 1024;

/// Types that can be a voice memo, by the name they are stored or delivered under.
static TYPES: &[&str] =
    &["audio/mpeg", "audio/x-m4a", "audio/mp4", "audio/aac", "audio/x-caf", "audio/x-wav", "audio/x-aiff", "audio/amr"];

/// Whether a file of this type can be a voice memo.
#[must_use]
pub fn is_sound(media_type: &str) -> bool {
    TYPES.contains(&media_type)
}
