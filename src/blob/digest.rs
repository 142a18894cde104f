//! Size and hashes of bytes as they pass.

use md5::Md5;
use sha2::{Digest, Sha256};

use crate::domain::api_key::hex;

/// What was counted and hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Bytes.
    pub size: u64,
    /// SHA-256, lowercase hexadecimal: what two bodies are compared by.
    pub sha256: String,
    /// MD5, lowercase hexadecimal: the entity tag, as S3 has it. It guards nothing.
    pub md5: String,
}

/// Counts and hashes.
#[derive(Clone, Default)]
pub(super) struct Hasher {
    size: u64,
    sha256: Sha256,
    md5: Md5,
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.sha256.update(bytes);
        self.md5.update(bytes);
    }

    pub(super) fn finish(self) -> Digests {
        Digests { size: self.size, sha256: hex(&self.sha256.finalize()), md5: hex(&self.md5.finalize()) }
    }
}
