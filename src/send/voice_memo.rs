//! Requirements on the file of a voice memo.

use super::Error;
use crate::domain::attachment::Attachment;
use crate::domain::voice_memo;
use crate::media;

/// Fails if an attachment cannot be sent as a voice memo.
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
