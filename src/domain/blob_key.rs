//! Builds and parses blob keys, the names of blobs in a blob store.

use std::fmt;

use super::filename;
use super::tier::Tier;
use crate::id::{BlobId, PartnerId};

/// Maximum length of a path, in bytes. Together with the longest configurable prefix it stays
/// within the 1024 bytes that S3 allows for an object key.
const MAX_PATH: usize = 900;
/// Path prefix of persistent blobs.
const PERSISTENT: &str = "attachments/partners/";
/// Path prefix of ephemeral blobs.
const EPHEMERAL: &str = "ephemeral/partners/";
/// Longest extension that survives truncation of a filename, in bytes.
const MAX_EXTENSION: usize = 16;

/// The key of a blob. File stores name blobs by id, so that no caller-supplied text reaches the
/// file system. Bucket stores name them by path; the path of a blob with a public URL equals the
/// URL path, so that a CDN can sit directly in front of the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlobKey {
    id: BlobId,
    path: String,
}

impl BlobKey {
    /// Builds the key of blob `id`: the file `filename`, which is the blob `upload` itself or
    /// stored beside it. Ephemeral blobs have a separate path prefix: read access to `attachments/`
    /// in the bucket must not expose files that require a signed URL.
    #[must_use]
    pub fn for_file(
        id: BlobId,
        partner: PartnerId,
        upload: BlobId,
        filename: &str,
        tier: Tier,
    ) -> Self {
        let prefix = match tier {
            Tier::Persistent => PERSISTENT,
            Tier::Ephemeral => EPHEMERAL,
        };
        let folder = format!("{prefix}{partner}/{upload}/");
        let segment = filename::url_segment(filename);
        let room = MAX_PATH - folder.len();
        let segment = if segment.len() <= room {
            segment
        } else {
            shortened(&segment, id, room)
        };
        Self {
            id,
            path: folder + &segment,
        }
    }

    /// Parses the output of [`fmt::Display`]. Versions without bucket support wrote only the id.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, path) = text.split_once(' ').unwrap_or((text, ""));
        Some(Self {
            id: BlobId::parse(id)?,
            path: path.to_owned(),
        })
    }

    /// Parses the id of the upload from the path of its blob or of one of its variants.
    #[must_use]
    pub fn upload_in_path(path: &str) -> Option<BlobId> {
        let path = [PERSISTENT, EPHEMERAL]
            .iter()
            .find_map(|prefix| path.strip_prefix(prefix))?;
        let (_partner, path) = path.split_once('/')?;
        BlobId::parse(path.split('/').next()?)
    }

    #[must_use]
    pub fn id(&self) -> BlobId {
        self.id
    }

    /// Returns the path; empty for keys stored by versions without bucket support.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// Builds a key from an id when the path is unknown.
impl From<BlobId> for BlobKey {
    fn from(id: BlobId) -> Self {
        Self {
            id,
            path: String::new(),
        }
    }
}

impl fmt::Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)?;
        if self.path.is_empty() {
            Ok(())
        } else {
            write!(f, " {}", self.path)
        }
    }
}

/// Truncates a path segment to `room` bytes. The id is appended, so that names with a common prefix
/// stay distinct.
fn shortened(segment: &str, id: BlobId, room: usize) -> String {
    let extension = segment.rfind('.').map_or("", |dot| &segment[dot..]);
    let extension = if extension.len() <= MAX_EXTENSION {
        extension
    } else {
        ""
    };
    let ending = format!("-{id}{extension}");
    let cut = segment.floor_char_boundary(room - ending.len());
    format!("{}{ending}", &segment[..cut])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(last: u8) -> BlobId {
        BlobId::parse(&format!("01990000-0000-7000-8000-0000000000{last:02}")).expect("id")
    }

    fn key(blob: u8, filename: &str) -> BlobKey {
        let partner = PartnerId::parse("01990000-0000-7000-8000-000000000099").expect("id");
        BlobKey::for_file(id(blob), partner, id(1), filename, Tier::Persistent)
    }

    #[test]
    fn path_equals_public_url_path() {
        let folder = "attachments/partners/01990000-0000-7000-8000-000000000099/01990000-0000-7000-8000-000000000001/";
        assert_eq!(key(1, "a b.jpg").path(), format!("{folder}a b.jpg"));
        assert_eq!(key(2, "../x").path(), format!("{folder}.._x"));
        assert_eq!(key(2, "..").path(), format!("{folder}__"));
    }

    #[test]
    fn path_of_blob_or_variant_contains_the_id_of_the_upload() {
        for blob in [1, 2] {
            let key = key(blob, "a.jpg");
            assert_eq!(BlobKey::upload_in_path(key.path()), Some(id(1)));
        }
        for other in [
            "uploads/x",
            "attachments/partners/p",
            "checks/attachments/partners/p/x/y",
        ] {
            assert_eq!(BlobKey::upload_in_path(other), None, "{other}");
        }
    }

    #[test]
    fn key_without_path_is_parsed() {
        let parsed = BlobKey::parse(&id(7).to_string()).expect("key");
        assert_eq!((parsed.id(), parsed.path()), (id(7), ""));
        assert_eq!(parsed.to_string(), id(7).to_string());
        assert_eq!(BlobKey::parse("no id"), None);
    }

    #[test]
    fn truncated_names_stay_distinct() {
        let long = "🎒".repeat(240);
        let (uploaded, delivered) = (
            key(1, &format!("{long}.jpg")),
            key(2, &format!("{long}-converted.jpg")),
        );
        assert_ne!(uploaded.path(), delivered.path());
        for key in [uploaded, delivered] {
            assert!(key.path().len() <= MAX_PATH && key.path().len() > MAX_PATH - 5);
            assert_eq!(key.path().rsplit_once('.').expect("an extension").1, "jpg");
        }
        assert!(
            key(1, &"a".repeat(255)).path().ends_with("aaa"),
            "a name that fits is not truncated"
        );
    }

    proptest! {
        #[test]
        fn any_key_round_trips_through_display(name in "\\PC{0,255}") {
            let key = key(3, &name);
            prop_assert!(key.path().len() <= MAX_PATH);
            prop_assert_eq!(BlobKey::parse(&key.to_string()), Some(key));
        }
    }
}
