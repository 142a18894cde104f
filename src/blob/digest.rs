//! Size and hashes of bytes as they pass.

use base16ct::lower::encode_string;
use md5::Md5;
use sha2::{Digest, Sha256};

/// What was counted and hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Bytes.
    pub size: u64,
    /// SHA-256, lowercase hexadecimal: what two bodies are compared by. Of what a bucket took by itself it is not known.
    pub sha256: Option<String>,
    /// MD5, lowercase hexadecimal: the entity tag, as S3 has it. It guards nothing. Of what a bucket took by itself this is
    /// the bucket's entity tag, whatever that is.
    pub md5: String,
}

/// The two hashes of a body. MD5 takes longer than SHA-256 and the disk together, so it can go its own way.
#[derive(Default)]
pub(super) struct Hasher {
    size: u64,
    sha256: Sha256,
    md5: Md5,
}

impl Hasher {
    /// Counts and hashes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.update_sha256(bytes);
        self.md5.update(bytes);
    }

    /// Counts and hashes, but for the MD5.
    pub(super) fn update_sha256(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.sha256.update(bytes);
    }

    /// The MD5 so far, to be updated elsewhere.
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
