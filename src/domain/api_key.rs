//! API keys: how they are made and hashed. A key is shown once; only its hash is kept.

use sha2::{Digest, Sha256};

/// Fewest characters of a key that an operator chooses.
pub const MIN_LENGTH: usize = 16;
/// Most characters of a key that an operator chooses.
pub const MAX_LENGTH: usize = 255;

/// A new key: `hvs_` and 256 random bits in hexadecimal.
#[must_use]
pub fn generate() -> String {
    format!("hvs_{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}

/// What is stored for a key. Keys carry 128 random bits or more, so a plain hash is enough: there is nothing
/// to guess that a slow password hash would slow down.
#[must_use]
pub fn hash(key: &str) -> String {
    base16ct::lower::encode_string(&Sha256::digest(key.as_bytes()))
}

/// Whether an operator may choose `key`: it must fit an `Authorization: Bearer` header (RFC 6750 section 2.1)
/// and not be short enough to guess.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check(key: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    if key.len() < MIN_LENGTH || key.len() > MAX_LENGTH {
        return Err(format!("an API key has {MIN_LENGTH} to {MAX_LENGTH} characters; this one has {}", key.len()));
    }
    if !key.chars().all(allowed) {
        return Err("an API key may hold letters, digits and - . _ ~ + / = only (RFC 6750)".to_owned());
    }
    Ok(())
}
