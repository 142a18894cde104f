//! Chooses the HTTP headers of stored files.

use super::disposition;
use super::tier::Tier;

/// HTTP headers of a file. A bucket stores them with the object, so that downloads from it match
/// those through this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectHeaders {
    pub content_type: String,
    pub content_disposition: String,
    pub cache_control: &'static str,
}

impl ObjectHeaders {
    #[must_use]
    pub fn for_file(media_type: &str, filename: &str, tier: Tier) -> Self {
        Self {
            content_type: media_type.to_owned(),
            content_disposition: disposition::for_file(media_type, filename),
            cache_control: cache_control(tier),
        }
    }
}

/// Returns the `Cache-Control` of a file.
#[must_use]
pub fn cache_control(tier: Tier) -> &'static str {
    match tier {
        // The file behind a URL never changes.
        Tier::Persistent => "public, max-age=31536000, immutable",
        // The file expires, and its signed URL even earlier.
        Tier::Ephemeral => "private, no-store",
    }
}
