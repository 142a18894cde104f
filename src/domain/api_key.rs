//! Generates, hashes and validates API keys. A key is shown once; only its hash is stored.

use base16ct::lower::encode_string;
use sha2::{Digest, Sha256};

use crate::id::random_bytes;

/// Minimum length of an operator-chosen key, in characters.
pub const MIN_LENGTH: usize = 16;
/// Maximum length of an operator-chosen key, in characters.
pub const MAX_LENGTH: usize = 255;

/// Generates a key: `hvs_` followed by 256 random bits in hexadecimal.
#[must_use]
pub fn generate() -> String {
    format!("hvs_{}", encode_string(&random_bytes::<32>()))
}

/// Returns the hash that is stored for a key. A generated key carries 256 random bits, so a fast
/// hash suffices: it has nothing to guess that a slow password hash would protect.
#[must_use]
pub fn hash(key: &str) -> String {
    encode_string(&Sha256::digest(key.as_bytes()))
}

/// Validates an operator-chosen key: it must fit an `Authorization: Bearer` header (RFC 6750
/// section 2.1) and be too long to guess.
///
/// # Errors
/// The reason why the key is invalid, as a sentence.
pub fn check(key: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    if key.len() < MIN_LENGTH || key.len() > MAX_LENGTH {
        return Err(format!(
            "an API key has {MIN_LENGTH} to {MAX_LENGTH} characters; this one has {}",
            key.len()
        ));
    }
    if !key.chars().all(allowed) {
        return Err(
            "an API key may hold letters, digits and - . _ ~ + / = only (RFC 6750)".to_owned(),
        );
    }
    Ok(())
}
