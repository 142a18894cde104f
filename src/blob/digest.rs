//! Computes the size and hashes of a byte stream.

use base16ct::lower::encode_string;
use md5::Md5;
use sha2::{Digest, Sha256};

/// Size and hashes of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Size of the blob in bytes.
    pub size: u64,
    /// SHA-256, lowercase hexadecimal; bodies are compared by it. `None` for direct-to-bucket
    /// uploads.
    pub sha256: Option<String>,
    /// MD5, lowercase hexadecimal: the entity tag, as in S3. Not used for security. For
    /// direct-to-bucket uploads it is the bucket's entity tag, in whatever format.
    pub md5: String,
}

/// Incremental SHA-256 and MD5. MD5 takes longer than SHA-256 and the disk write together, so it
/// can be computed separately, on another thread.
#[derive(Default)]
pub(super) struct Hasher {
    size: u64,
    sha256: Sha256,
    md5: Md5,
}

impl Hasher {
    /// Updates size and both hashes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.update_sha256(bytes);
        self.md5.update(bytes);
    }

    /// Updates size and SHA-256 only.
    pub(super) fn update_sha256(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.sha256.update(bytes);
    }

    /// Returns the MD5 state, to be updated on another thread.
    pub(super) fn md5(&mut self) -> &mut Md5 {
        &mut self.md5
    }

    pub(super) fn finish(self) -> Digests {
        Digests {
            size: self.size,
            sha256: Some(encode_string(&self.sha256.finalize())),
            md5: encode_string(&self.md5.finalize()),
        }
    }
}
