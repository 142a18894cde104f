//! Creates and parses file URLs, `{CDN}/attachments/partners/{partner}/{attachment}/{filename}`.
//!
//! URLs of ephemeral files are
//! `{PUBLIC}/attachments/...?expires={milliseconds}&signature={HMAC-SHA256}` and expire after 15
//! minutes. The signature covers method, path and expiry. These URLs lead to this server directly,
//! never to a CDN, which would serve a cached file after its expiry.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

use super::download::FileHandle;
use crate::clock::{Clock, Timestamp};
use crate::domain::attachment::{Attachment, FileRef};
use crate::domain::base_url::BaseUrl;
use crate::domain::filename;
use crate::domain::tier::FILE_URL_LIFE;
use crate::domain::url_match::{is_below, is_same_host};
use crate::id::{AttachmentId, PartnerId};
use crate::url_signing::{SignedQuery, Signer, UploadGrant};

/// Characters that are percent-encoded in a path segment: all but the unreserved ones (RFC 3986
/// section 2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Maximum length of a URL on this server, in bytes: base, ids, signature, and a filename of 255
/// characters of four bytes, each byte percent-encoded as three characters.
const MAX_LENGTH: usize = 8192;

/// Allowed clock skew between servers. A URL is rejected if its expiry is later than any server
/// with a clock within this skew could have issued.
const CLOCK_SKEW: Duration = Duration::from_mins(1);

/// Creates, checks and parses file URLs.
#[derive(Clone, Debug)]
pub struct FileUrls {
    cdn: BaseUrl,
    public: BaseUrl,
    pub(super) signer: Signer,
    clock: Clock,
}

/// Reasons why the signed URL of an ephemeral file is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignedUrlError {
    /// The query or its signature is missing or was altered.
    #[error(
        "this file needs a signed URL, and this one has no signature or was altered; \
         GET /v3/attachments/{{id}} gives one"
    )]
    BadSignature,
    /// The URL has expired.
    #[error("this URL has expired; GET /v3/attachments/{{id}} gives a fresh one")]
    Expired,
}

impl FileUrls {
    /// Creates URLs below the base `cdn`; ephemeral files are below the base `public`. URLs below
    /// either base are recognised.
    #[must_use]
    pub fn new(cdn: BaseUrl, public: BaseUrl, signer: Signer, clock: Clock) -> Self {
        Self {
            cdn,
            public,
            signer,
            clock,
        }
    }

    /// Returns the URL of an attachment's file as it was uploaded.
    #[must_use]
    pub fn uploaded(&self, attachment: &Attachment) -> String {
        self.url(attachment, &attachment.filename)
    }

    /// Returns the URL of an attachment's file in the form in which recipients get it.
    #[must_use]
    pub fn delivered(&self, attachment: &Attachment) -> String {
        self.url(attachment, attachment.delivered().filename)
    }

    /// Returns the presigned URL at which this server accepts an attachment's upload.
    pub(super) fn upload(&self, attachment: &Attachment) -> String {
        let grant = UploadGrant {
            id: attachment.id,
            expires: attachment.upload_expires_at,
            content_type: &attachment.signed_type,
            content_length: attachment.size_bytes,
        };
        self.public.join(&self.signer.url(&grant))
    }

    fn url(&self, attachment: &Attachment, filename: &str) -> String {
        let path = path(attachment.partner_id, attachment.id, filename);
        if attachment.expires_at.is_none() {
            return self.cdn.join(&path);
        }
        let expires = self.clock.now() + FILE_URL_LIFE;
        let signature = self.signer.sign(&signed_text(&path, expires));
        self.public.join(&format!(
            "{path}?expires={}&signature={signature}",
            expires.as_millis()
        ))
    }

    /// Checks a file URL's query. For a file that is not ephemeral, any query is accepted.
    ///
    /// # Errors
    /// The file is ephemeral, and the query's signature is invalid or has expired.
    pub fn check(
        &self,
        id: AttachmentId,
        file: &FileHandle,
        query: Option<&str>,
    ) -> Result<(), SignedUrlError> {
        if file.expires_at.is_none() {
            return Ok(());
        }
        let SignedQuery { expires, signature } = query
            .and_then(SignedQuery::parse)
            .ok_or(SignedUrlError::BadSignature)?;
        let path = path(file.partner_id, id, &file.filename);
        if !self
            .signer
            .is_signed(&signed_text(&path, expires), signature)
        {
            return Err(SignedUrlError::BadSignature);
        }
        let now = self.clock.now();
        if expires <= now || expires > now + FILE_URL_LIFE + CLOCK_SKEW {
            return Err(SignedUrlError::Expired);
        }
        Ok(())
    }

    /// Parses a URL of this server. Returns `None` for other URLs, and `Some(None)` for a URL of this
    /// server that names no file. Accepts any spelling ([`is_below`]), and `https` instead of
    /// `http`. Ignores the query.
    #[must_use]
    pub fn parse_local(&self, url: &str) -> Option<Option<FileRef>> {
        let url = Url::parse(Some(url).filter(|url| url.len() <= MAX_LENGTH)?).ok()?;
        let is_own = |base: &Url| {
            is_below(base, &url) && (url.scheme() == "https" || url.scheme() == base.scheme())
        };
        self.bases()
            .into_iter()
            .any(is_own)
            .then(|| self.file_at(&url))
    }

    /// Returns the file that a URL of this server names, whatever its scheme. A redirect to such a
    /// URL is resolved without a fetch.
    #[must_use]
    pub fn file_at(&self, url: &Url) -> Option<FileRef> {
        self.bases()
            .into_iter()
            .find_map(|base| file_ref(&strip_base(base, url)?))
    }

    fn bases(&self) -> [&Url; 2] {
        [&self.cdn, &self.public].map(BaseUrl::as_url)
    }
}

/// Returns the URL path of a file.
fn path(partner: PartnerId, id: AttachmentId, filename: &str) -> String {
    let segment = filename::url_segment(filename);
    let segment = utf8_percent_encode(&segment, SEGMENT);
    format!("/attachments/partners/{partner}/{id}/{segment}")
}

/// Returns the text that the signature is calculated over. A path contains no line break, so the
/// text is unambiguous. A signature for GET also permits HEAD.
fn signed_text(path: &str, expires: Timestamp) -> String {
    format!("GET\n{path}\n{}", expires.as_millis())
}

/// Returns the URL's decoded path relative to a base, or `None` if the URL is not below that base.
fn strip_base(base: &Url, url: &Url) -> Option<String> {
    let path = percent_decode_str(url.path()).decode_utf8_lossy();
    let rest = path.strip_prefix(base.path().trim_end_matches('/'))?;
    is_same_host(base, url).then(|| rest.to_owned())
}

fn file_ref(path: &str) -> Option<FileRef> {
    let mut segments = path.strip_prefix("/attachments/partners/")?.splitn(3, '/');
    let (partner, id, segment) = (segments.next()?, segments.next()?, segments.next()?);
    let (partner_id, id) = (PartnerId::parse(partner)?, AttachmentId::parse(id)?);
    Some(FileRef {
        partner_id,
        id,
        segment: segment.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_below_our_bases_are_ours() {
        let base = |url: &str| url.parse().expect("URL");
        let urls = FileUrls::new(
            base("https://cdn.example.com/files"),
            base("http://127.0.0.1:8080"),
            Signer::new(b"key"),
            Clock::system(),
        );
        let file = FileRef {
            partner_id: PartnerId::new(),
            id: AttachmentId::new(),
            segment: "a b.jpg".to_owned(),
        };
        let path = format!(
            "attachments/partners/{}/{}/a%20b.jpg",
            file.partner_id, file.id
        );
        for url in [
            format!("https://CDN.example.com:443/files/{path}?x=1"),
            format!("https://cdn.example.com./files/{path}"),
            format!("https://cdn.example.com/x/../files/{path}"),
            format!("https://cdn.example.com/files/%61{}", &path[1..]),
            format!("http://127.0.0.1:8080/{path}"),
            format!("https://127.0.0.1:8080/{path}"),
        ] {
            assert_eq!(urls.parse_local(&url), Some(Some(file.clone())), "{url}");
        }
        for url in [
            "https://cdn.example.com/files/attachments/partners/x/y/z",
            "https://cdn.example.com/files",
            "https://cdn.example.com/x/%2e%2e/files/attachments",
            "https://cdn.example.com//files/attachments",
            "http://127.0.0.1:8080/v3/chats",
        ] {
            assert_eq!(urls.parse_local(url), Some(None), "{url}");
        }
        for url in [
            format!("http://cdn.example.com/files/{path}"),
            format!("https://cdn.example.com:444/files/{path}"),
            format!("https://cdn.example.com/filesystem/{path}"),
            format!("https://other.example.com/files/{path}"),
            "https://cdn.example.com/other".to_owned(),
            "no URL".to_owned(),
        ] {
            assert_eq!(urls.parse_local(&url), None, "{url}");
        }
    }
}
