//! What the bytes of attachments are called where they are kept. Pure.

use std::fmt;

use super::filename;
use super::tier::Tier;
use crate::id::{AttachmentId, PartnerId};

/// The longest path, in bytes. With the longest prefix that the configuration takes it is within the 1024 bytes that
/// S3 has for the name of an object.
const LONGEST_PATH: usize = 900;
/// The longest extension that a shortened name keeps, in bytes.
const LONGEST_EXTENSION: usize = 16;

/// The name of a blob. A store that keeps files goes by the id, so that no caller's text reaches its paths; a bucket goes
/// by the path, which is that of the file's public URL if it has one, so that a CDN can stand right in front of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlobKey {
    id: AttachmentId,
    path: String,
}

impl BlobKey {
    /// The blob `id`, which is the file `filename` of an attachment. Ephemeral ones are apart from the others: whoever may
    /// read `attachments/` without us must not find what is for holders of a signed URL only.
    #[must_use]
    pub fn of_file(id: AttachmentId, partner: PartnerId, attachment: AttachmentId, filename: &str, tier: Tier) -> Self {
        let shelf = match tier {
            Tier::Persistent => "attachments",
            Tier::Ephemeral => "ephemeral",
        };
        let folder = format!("{shelf}/partners/{partner}/{attachment}/");
        let segment = filename::url_segment(filename);
        let room = LONGEST_PATH - folder.len();
        let segment = if segment.len() <= room { segment } else { shortened(&segment, id, room) };
        Self { id, path: folder + &segment }
    }

    /// Reads what [`fmt::Display`] wrote. Before there were buckets it wrote the id alone.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, path) = text.split_once(' ').unwrap_or((text, ""));
        Some(Self { id: AttachmentId::parse(id)?, path: path.to_owned() })
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> AttachmentId {
        self.id
    }

    /// The path; empty if it was not known when this was written down.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// A blob of which only the id is known.
impl From<AttachmentId> for BlobKey {
    fn from(id: AttachmentId) -> Self {
        Self { id, path: String::new() }
    }
}

impl fmt::Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)?;
        if self.path.is_empty() { Ok(()) } else { write!(f, " {}", self.path) }
    }
}

/// The segment cut to `room` bytes. Two names that differ only where they are cut still have two paths: by the id.
fn shortened(segment: &str, id: AttachmentId, room: usize) -> String {
    let extension = segment.rfind('.').map_or("", |dot| &segment[dot..]);
    let extension = if extension.len() <= LONGEST_EXTENSION { extension } else { "" };
    let ending = format!("-{id}{extension}");
    let cut = segment.floor_char_boundary(room - ending.len());
    format!("{}{ending}", &segment[..cut])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(last: u8) -> AttachmentId {
        AttachmentId::parse(&format!("01990000-0000-7000-8000-0000000000{last:02}")).expect("id")
    }

    fn key(blob: u8, filename: &str) -> BlobKey {
        let partner = PartnerId::parse("01990000-0000-7000-8000-000000000099").expect("id");
        BlobKey::of_file(id(blob), partner, id(1), filename, Tier::Persistent)
    }

    #[test]
    fn the_path_is_that_of_the_public_url() {
        let folder = "attachments/partners/01990000-0000-7000-8000-000000000099/01990000-0000-7000-8000-000000000001/";
        assert_eq!(key(1, "a b.jpg").path(), format!("{folder}a b.jpg"));
        assert_eq!(key(2, "../x").path(), format!("{folder}.._x"));
        assert_eq!(key(2, "..").path(), format!("{folder}__"));
    }

    #[test]
    fn earlier_versions_wrote_the_id_alone() {
        let parsed = BlobKey::parse(&id(7).to_string()).expect("key");
        assert_eq!((parsed.id(), parsed.path()), (id(7), ""));
        assert_eq!(parsed.to_string(), id(7).to_string());
        assert_eq!(BlobKey::parse("no id"), None);
    }

    #[test]
    fn names_that_are_cut_stay_apart() {
        let long = "🎒".repeat(240);
        let (uploaded, delivered) = (key(1, &format!("{long}.jpg")), key(2, &format!("{long}-converted.jpg")));
        assert_ne!(uploaded.path(), delivered.path());
        for key in [uploaded, delivered] {
            assert!(key.path().len() <= LONGEST_PATH && key.path().len() > LONGEST_PATH - 5);
            assert_eq!(key.path().rsplit_once('.').expect("an extension").1, "jpg");
        }
        assert!(key(1, &"a".repeat(255)).path().ends_with("aaa"), "what fits is not cut");
    }

    proptest! {
        #[test]
        fn any_key_is_read_back(name in "\\PC{0,255}") {
            let key = key(3, &name);
            prop_assert!(key.path().len() <= LONGEST_PATH);
            prop_assert_eq!(BlobKey::parse(&key.to_string()), Some(key));
        }
    }
}
