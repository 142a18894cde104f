//! Checks that a voice memo's file can be sent as one.

use super::Error;
use crate::domain::attachment::Attachment;
use crate::domain::voice_memo;
use crate::media;

/// Fails unless an attachment is playable audio within the size limit for voice memos.
pub(super) fn check(attachment: &Attachment) -> Result<(), Error> {
    let filename = || attachment.filename.clone();
    if !voice_memo::is_sound(&attachment.media_type) {
        let noun = media::declared(&attachment.media_type)
            .map_or("a file", |declared| declared.media_type.noun);
        return Err(Error::NotAudio {
            filename: filename(),
            noun,
        });
    }
    if attachment.size_bytes > voice_memo::MAX_BYTES {
        return Err(Error::VoiceMemoTooLarge(voice_memo::MAX_BYTES));
    }
    if attachment.media_info.duration_ms.is_none() {
        return Err(Error::NotPlayable(filename()));
    }
    Ok(())
}
