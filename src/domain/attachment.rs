//! Attachments: their states and what makes them.

use serde::{Deserialize, Serialize};

use super::blob_key::BlobKey;
use super::tier::Tier;
use crate::clock::Timestamp;
use crate::id::{AttachmentId, PartnerId};
use crate::media::Measures;

/// A file of a partner.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Its id, for ever.
    pub id: AttachmentId,
    /// Whose it is.
    pub partner_id: PartnerId,
    /// The name as given.
    pub filename: String,
    /// The type as declared, legacy spellings replaced; what GET reports.
    pub declared_type: String,
    /// The type as declared, to the letter; what the upload URL is signed for.
    pub signed_type: String,
    /// The type it is delivered under.
    pub media_type: String,
    /// Size in bytes, as declared; equal to the stored size once complete.
    pub size_bytes: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its upload window closes.
    pub upload_expires_at: Timestamp,
    /// The attachment whose blob holds its bytes: mostly itself.
    pub blob_of: AttachmentId,
    /// What could be measured of the bytes.
    pub measures: Measures,
    /// Whether the two below were found out: when it is first sent.
    pub prepared: bool,
    /// The form it is delivered in, if that is another than was uploaded.
    pub delivery: Option<Delivery>,
    /// What can be heard in it, if it is sound that could be decoded.
    pub sound: Option<Sound>,
    /// When it is gone, if it is ephemeral.
    pub purge_at: Option<Timestamp>,
    /// What became of its bytes.
    pub content: Content,
}

/// A form of a file that recipients can play, made of what was uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its name.
    pub filename: String,
    /// Its type.
    pub media_type: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// MD5 of its bytes, lowercase hexadecimal.
    pub md5: String,
    /// The id its blob goes by; no attachment has it.
    pub blob: AttachmentId,
}

/// Points of a waveform.
pub const WAVEFORM_POINTS: usize = 64;

/// What can be heard in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sound {
    /// Channels.
    pub channels: u32,
    /// Samples a second.
    pub sample_rate: u32,
    /// The peak of each of 64 slices of equal length, 0 to 255.
    pub waveform: Vec<u8>,
}

/// How an attachment appears in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered<'a> {
    /// Its name.
    pub filename: &'a str,
    /// Its type.
    pub media_type: &'a str,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// What a URL of ours says of the file it names. It names that file only if all of it is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRef {
    /// Whose it is.
    pub partner_id: PartnerId,
    /// Which it is.
    pub id: AttachmentId,
    /// The last segment, decoded.
    pub segment: String,
}

/// What became of an attachment's bytes, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// No complete body arrived yet.
    Awaited,
    /// Stored, whole.
    Stored {
        /// SHA-256 of the bytes, lowercase hexadecimal; not known of what a bucket took by itself.
        sha256: Option<String>,
        /// MD5 of the bytes, lowercase hexadecimal: the entity tag, as S3 has it. It guards nothing. Of what a bucket took by
        /// itself this is the bucket's entity tag, whatever that is.
        md5: String,
        /// When the last byte was safe on disk.
        at: Timestamp,
    },
    /// Given up: the upload window closed without a complete body.
    Abandoned,
    /// A whole body came, but is of no type that is accepted, or not of the one declared; it was not kept.
    Refused {
        /// SHA-256 of the bytes, lowercase hexadecimal; not known of what a bucket took by itself.
        sha256: Option<String>,
        /// MD5 of the bytes, lowercase hexadecimal, or the bucket's entity tag.
        md5: String,
        /// What was found, and what would be right.
        reason: String,
    },
}

/// The state that clients see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No complete body yet, and there is still time.
    Pending,
    /// Stored.
    Complete,
    /// The window closed without one, or what came was refused.
    Failed,
}

impl Status {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Complete => "complete",
            Self::Failed => "failed",
        }
    }
}

impl Attachment {
    /// Whether its time is over at the moment `now`: from then on it counts as deleted, not from the next sweep.
    #[must_use]
    pub fn is_gone(&self, now: Timestamp) -> bool {
        self.purge_at.is_some_and(|purge_at| purge_at <= now)
    }

    /// How long it is kept.
    #[must_use]
    pub fn tier(&self) -> Tier {
        if self.purge_at.is_some() { Tier::Ephemeral } else { Tier::Persistent }
    }

    /// What the file as it was uploaded is called where it is kept.
    #[must_use]
    pub fn uploaded_key(&self) -> BlobKey {
        self.key(self.blob_of, &self.filename)
    }

    /// What a form made of it is called where it is kept.
    #[must_use]
    pub fn made_key(&self, made: &Delivery) -> BlobKey {
        self.key(made.blob, &made.filename)
    }

    /// What the form it is delivered in is called where it is kept.
    #[must_use]
    pub fn delivered_key(&self) -> BlobKey {
        self.delivery.as_ref().map_or_else(|| self.uploaded_key(), |made| self.made_key(made))
    }

    /// What all its files are called where they are kept.
    pub fn keys(&self) -> impl Iterator<Item = BlobKey> {
        std::iter::once(self.uploaded_key()).chain(self.delivery.as_ref().map(|made| self.made_key(made)))
    }

    fn key(&self, blob: AttachmentId, filename: &str) -> BlobKey {
        BlobKey::of_file(blob, self.partner_id, self.blob_of, filename, self.tier())
    }

    /// How it is delivered: in the form made for that, or as it was uploaded.
    #[must_use]
    pub fn delivered(&self) -> Delivered<'_> {
        match &self.delivery {
            Some(Delivery { filename, media_type, size_bytes, .. }) => {
                Delivered { filename, media_type, size_bytes: *size_bytes }
            }
            None => Delivered { filename: &self.filename, media_type: &self.media_type, size_bytes: self.size_bytes },
        }
    }

    /// The state at the moment `now`: a window that has closed counts from that moment, not from the next sweep.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> Status {
        match self.content {
            Content::Stored { .. } => Status::Complete,
            Content::Awaited if now < self.upload_expires_at => Status::Pending,
            Content::Awaited | Content::Abandoned | Content::Refused { .. } => Status::Failed,
        }
    }
}
