//! Defines attachments with their metadata, upload state and delivered variant.

use serde::{Deserialize, Serialize};

use super::blob_key::BlobKey;
use super::tier::Tier;
use crate::clock::Timestamp;
use crate::id::{AttachmentId, BlobId, PartnerId};
use crate::media::{MediaInfo, MediaType};

/// A file owned by a partner.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Id of the attachment; never changes.
    pub id: AttachmentId,
    pub partner_id: PartnerId,
    /// Filename as given by the caller.
    pub filename: String,
    /// Declared media type with legacy spellings normalised; reported by GET.
    pub declared_type: String,
    /// Declared media type, verbatim; part of the upload URL's signature. Empty for fetched files.
    pub signed_type: String,
    /// Resolved media type, under which the uploaded file is delivered unless a variant replaces
    /// it.
    pub media_type: String,
    /// Declared size in bytes; equal to the stored size once the upload is complete.
    pub size_bytes: u64,
    pub created_at: Timestamp,
    /// End of the upload window.
    pub upload_expires_at: Timestamp,
    /// The blob that holds the uploaded bytes: usually the attachment's own blob, or another
    /// attachment's if they share it.
    pub blob_id: BlobId,
    /// Dimensions and duration, as far as they could be determined.
    pub media_info: MediaInfo,
    /// True once the variant and the audio analysis were computed, on first send.
    pub processed: bool,
    /// The variant sent to recipients, if it differs from the uploaded file.
    pub variant: Option<Variant>,
    /// Audio analysis, if the file is audio that could be decoded.
    pub audio: Option<AudioInfo>,
    /// Expiry of an ephemeral file; `None` for persistent ones.
    pub expires_at: Option<Timestamp>,
    /// Upload state.
    pub state: UploadState,
}

/// A delivered variant: a transcoded copy of the upload that recipients' devices can play.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    pub filename: String,
    pub media_type: String,
    pub size_bytes: u64,
    /// MD5 of the variant, lowercase hexadecimal.
    pub md5: String,
    pub blob_id: BlobId,
}

/// Number of points of a waveform.
pub const WAVEFORM_POINTS: usize = 64;

/// Result of the audio analysis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudioInfo {
    pub channels: u32,
    /// Sample rate, in samples per second.
    pub sample_rate: u32,
    /// Peak amplitude of each of 64 slices of equal length, 0 to 255.
    pub waveform: Vec<u8>,
}

/// The file as it appears in messages: the variant if there is one, else the upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServedFile<'a> {
    pub filename: &'a str,
    pub media_type: &'a str,
    pub size_bytes: u64,
}

/// A parsed file URL of this server. It matches a file only if all fields match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRef {
    pub partner_id: PartnerId,
    pub id: AttachmentId,
    /// Last path segment, percent-decoded.
    pub segment: String,
}

/// Upload state, as stored in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadState {
    /// No complete upload yet.
    Pending,
    /// Upload complete and stored.
    Stored {
        /// SHA-256 of the bytes, lowercase hexadecimal; `None` for direct-to-bucket uploads.
        sha256: Option<String>,
        /// MD5 of the bytes, lowercase hexadecimal: the entity tag, as in S3. Not used for
        /// security. For direct-to-bucket uploads it is the bucket's entity tag, in whatever
        /// format.
        md5: String,
        /// Time at which the upload became durable.
        at: Timestamp,
    },
    /// Upload window closed without a complete upload.
    Expired,
    /// Upload complete but rejected: its type is not accepted or does not match the declared one.
    /// The bytes are discarded.
    Rejected {
        /// SHA-256 of the bytes, lowercase hexadecimal; `None` for direct-to-bucket uploads.
        sha256: Option<String>,
        /// MD5 of the bytes, lowercase hexadecimal, or the bucket's entity tag.
        md5: String,
        /// The detected type and the expected one.
        reason: String,
    },
}

/// Upload state as reported to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No complete upload yet; the upload window is open.
    Pending,
    Complete,
    /// Upload window closed without a complete upload, or the upload was rejected.
    Failed,
}

impl Status {
    /// Returns the name used on the wire.
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
    /// Creates an attachment with a blob of its own and no upload window.
    #[must_use]
    pub fn new(
        partner: PartnerId,
        filename: String,
        media_type: &MediaType,
        size_bytes: u64,
        state: UploadState,
        now: Timestamp,
    ) -> Self {
        let id = AttachmentId::new();
        Self {
            id,
            partner_id: partner,
            filename,
            declared_type: media_type.name.to_owned(),
            signed_type: String::new(),
            media_type: media_type.name.to_owned(),
            size_bytes,
            created_at: now,
            upload_expires_at: now,
            blob_id: id.blob_id(),
            media_info: MediaInfo::default(),
            processed: false,
            variant: None,
            audio: None,
            expires_at: None,
            state,
        }
    }

    /// Returns true if the file was uploaded, false if it was fetched from a URL.
    #[must_use]
    pub fn was_uploaded(&self) -> bool {
        !self.signed_type.is_empty()
    }

    /// Returns true if the file has expired at `now`. Expired files count as deleted immediately,
    /// before the next sweep.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }

    /// Returns true if the uploaded bytes are in a blob of this attachment's own, and false if it
    /// shares that of an earlier attachment.
    #[must_use]
    pub fn owns_blob(&self) -> bool {
        self.blob_id == self.id.blob_id()
    }

    #[must_use]
    pub fn tier(&self) -> Tier {
        if self.expires_at.is_some() {
            Tier::Ephemeral
        } else {
            Tier::Persistent
        }
    }

    /// Returns the key of the uploaded file.
    #[must_use]
    pub fn uploaded_key(&self) -> BlobKey {
        self.key(self.blob_id, &self.filename)
    }

    /// Returns the key of a variant.
    #[must_use]
    pub fn variant_key(&self, variant: &Variant) -> BlobKey {
        self.key(variant.blob_id, &variant.filename)
    }

    /// Returns the key of the delivered file: the variant if there is one, else the upload.
    #[must_use]
    pub fn delivered_key(&self) -> BlobKey {
        self.variant
            .as_ref()
            .map_or_else(|| self.uploaded_key(), |variant| self.variant_key(variant))
    }

    /// Returns the keys of all blobs of this attachment.
    pub fn keys(&self) -> impl Iterator<Item = BlobKey> {
        std::iter::once(self.uploaded_key()).chain(
            self.variant
                .as_ref()
                .map(|variant| self.variant_key(variant)),
        )
    }

    fn key(&self, blob: BlobId, filename: &str) -> BlobKey {
        BlobKey::for_file(blob, self.partner_id, self.blob_id, filename, self.tier())
    }

    /// Returns name, type and size of the delivered file: the variant if there is one, else the
    /// upload.
    #[must_use]
    pub fn delivered(&self) -> ServedFile<'_> {
        match &self.variant {
            Some(Variant {
                filename,
                media_type,
                size_bytes,
                ..
            }) => ServedFile {
                filename,
                media_type,
                size_bytes: *size_bytes,
            },
            None => ServedFile {
                filename: &self.filename,
                media_type: &self.media_type,
                size_bytes: self.size_bytes,
            },
        }
    }

    /// Returns the state at `now`. A closed upload window counts as failed immediately, before the
    /// next sweep.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> Status {
        match self.state {
            UploadState::Stored { .. } => Status::Complete,
            UploadState::Pending if now < self.upload_expires_at => Status::Pending,
            UploadState::Pending | UploadState::Expired | UploadState::Rejected { .. } => {
                Status::Failed
            }
        }
    }
}
