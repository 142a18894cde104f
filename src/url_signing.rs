//! Signs and verifies presigned upload URLs: `/uploads/{attachment
//! id}?expires={milliseconds}&signature={HMAC-SHA256}`. The signature covers method, path, expiry,
//! `Content-Type` and `Content-Length`, so that neither the URL nor these headers can be altered.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use base16ct::lower::encode_string;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::clock::Timestamp;
use crate::id::{AttachmentId, random_bytes};

/// Path prefix of upload URLs, in front of the attachment id.
pub const UPLOAD_PATH: &str = "/uploads/";
const KEY_FILE: &str = "upload-signing.key";
const KEY_LENGTH: usize = 32;

/// Creates and verifies HMAC signatures with one key.
#[derive(Clone)]
pub struct Signer {
    keyed: Hmac<Sha256>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

/// The upload that a presigned URL authorises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadGrant<'a> {
    pub id: AttachmentId,
    /// Latest time at which an upload may start.
    pub expires: Timestamp,
    /// The required `Content-Type`, verbatim.
    pub content_type: &'a str,
    /// The required `Content-Length`, in bytes.
    pub content_length: u64,
}

/// The query string of an upload URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedQuery<'a> {
    /// Latest time at which an upload may start.
    pub expires: Timestamp,
    /// Signature in the URL, not verified yet.
    pub signature: &'a str,
}

impl Signer {
    /// Creates a signer with the given key.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self {
            keyed: Hmac::new_from_slice(key).expect("HMAC takes keys of any length"),
        }
    }

    /// Generates a random signing key, in hexadecimal.
    #[must_use]
    pub fn new_key() -> String {
        encode_string(&random_bytes::<KEY_LENGTH>())
    }

    /// Creates a signer with the key stored in the data folder, which is generated on first use.
    /// Presigned URLs therefore survive a restart.
    ///
    /// # Errors
    /// The key file cannot be read or written, or is not of the right length.
    pub fn from_folder(folder: &Path) -> io::Result<Self> {
        let path = folder.join(KEY_FILE);
        match fs::read(&path) {
            Ok(key) if key.len() == KEY_LENGTH => Ok(Self::new(&key)),
            Ok(key) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{} has {} bytes instead of {KEY_LENGTH}; remove it to make a new one",
                    path.display(),
                    key.len()
                ),
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = random_bytes::<KEY_LENGTH>();
                let mut file = tempfile::NamedTempFile::new_in(folder)?;
                file.write_all(&key)?;
                file.as_file().sync_all()?;
                file.persist(&path)?;
                fs::File::open(folder)?.sync_all()?;
                Ok(Self::new(&key))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns path and query of the presigned URL for `grant`.
    #[must_use]
    pub fn url(&self, grant: &UploadGrant<'_>) -> String {
        format!(
            "{UPLOAD_PATH}{}?expires={}&signature={}",
            grant.id,
            grant.expires.as_millis(),
            self.signature(grant)
        )
    }

    /// Verifies the signature of `grant` in constant time.
    #[must_use]
    pub fn verify(&self, grant: &UploadGrant<'_>, signature: &str) -> bool {
        // Compares the hexadecimal text: decoding would also accept uppercase, a second spelling of
        // the same URL.
        self.signature(grant)
            .as_bytes()
            .ct_eq(signature.as_bytes())
            .into()
    }

    /// Signs arbitrary text with the same key; returns lowercase hexadecimal. The text must not
    /// start with `PUT\n`, the prefix of upload URL signatures (domain separation).
    #[must_use]
    pub fn sign(&self, text: &str) -> String {
        debug_assert!(!text.starts_with("PUT\n"), "the signature of an upload URL");
        let mut mac = self.keyed.clone();
        mac.update(text.as_bytes());
        encode_string(&mac.finalize().into_bytes())
    }

    /// Verifies a signature made by [`Self::sign`], in constant time.
    #[must_use]
    pub fn is_signed(&self, text: &str, signature: &str) -> bool {
        self.sign(text)
            .as_bytes()
            .ct_eq(signature.as_bytes())
            .into()
    }

    /// Returns the signature of `grant` in lowercase hexadecimal.
    fn signature(&self, grant: &UploadGrant<'_>) -> String {
        let UploadGrant {
            id,
            expires,
            content_type,
            content_length,
        } = grant;
        let mut mac = self.keyed.clone();
        // No field can contain a line break, so the signed text is unambiguous.
        mac.update(
            format!(
                "PUT\n{UPLOAD_PATH}{id}\n{}\n{content_length}\n{content_type}",
                expires.as_millis()
            )
            .as_bytes(),
        );
        encode_string(&mac.finalize().into_bytes())
    }
}

impl<'a> SignedQuery<'a> {
    /// Parses exactly the output of [`Signer::url`]; returns `None` for other parameters or another
    /// order.
    #[must_use]
    pub fn parse(query: &'a str) -> Option<Self> {
        let (expires, signature) = query.strip_prefix("expires=")?.split_once("&signature=")?;
        let canonical = expires
            .parse::<i64>()
            .ok()
            .filter(|millis| millis.to_string() == expires)?;
        Some(Self {
            expires: Timestamp::from_millis(canonical),
            signature,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grant(content_type: &str, content_length: u64) -> UploadGrant<'_> {
        let id = AttachmentId::parse("01990000-0000-7000-8000-000000000001").expect("id");
        UploadGrant {
            id,
            expires: Timestamp::from_millis(1_768_473_900_000),
            content_type,
            content_length,
        }
    }

    fn accepts(signer: &Signer, url: &str, content_type: &str, content_length: u64) -> bool {
        let Some((path, query)) = url.split_once('?') else {
            return false;
        };
        let Some(id) = path.strip_prefix(UPLOAD_PATH).and_then(AttachmentId::parse) else {
            return false;
        };
        // The server's routes accept only the canonical spelling of an id.
        if id.to_string() != path[UPLOAD_PATH.len()..] {
            return false;
        }
        SignedQuery::parse(query).is_some_and(|query| {
            signer.verify(
                &UploadGrant {
                    id,
                    expires: query.expires,
                    content_type,
                    content_length,
                },
                query.signature,
            )
        })
    }

    #[test]
    fn url_with_any_flipped_bit_is_rejected() {
        let signer = Signer::new(b"key");
        let url = signer.url(&grant("image/jpeg", 48_213));
        assert!(accepts(&signer, &url, "image/jpeg", 48_213));
        for at in 0..url.len() {
            for bit in 0..8 {
                let mut bytes = url.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                if let Ok(altered) = String::from_utf8(bytes) {
                    assert!(
                        !accepts(&signer, &altered, "image/jpeg", 48_213),
                        "{altered}"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn altered_grant_is_rejected(content_type in "[a-z]{1,9}/[a-z.+-]{1,20}", length in 1..200_000_000_u64) {
            let signer = Signer::new(b"key");
            let url = signer.url(&grant(&content_type, length));
            prop_assert!(accepts(&signer, &url, &content_type, length));
            prop_assert!(!accepts(&signer, &url, &content_type, length + 1));
            let longer = format!("{content_type}x");
            prop_assert!(!accepts(&signer, &url, &longer, length));
            prop_assert!(!accepts(&signer, &url, &content_type.to_uppercase(), length));
            prop_assert!(!accepts(&Signer::new(b"another key"), &url, &content_type, length));
            let more = format!("{url}&x=1");
            prop_assert!(!accepts(&signer, &more, &content_type, length));
        }
    }

    #[test]
    fn signing_key_survives_a_restart() {
        let folder = tempfile::tempdir().expect("folder");
        let url = Signer::from_folder(folder.path())
            .expect("key")
            .url(&grant("image/png", 1));
        assert!(accepts(
            &Signer::from_folder(folder.path()).expect("key"),
            &url,
            "image/png",
            1
        ));
        fs::write(folder.path().join(KEY_FILE), b"short").expect("write");
        assert!(Signer::from_folder(folder.path()).is_err());
    }
}
