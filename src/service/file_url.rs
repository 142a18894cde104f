//! Where files are found: `{CDN}/attachments/partners/{partner}/{attachment}/{filename}`, both making such URLs and
//! recognising our own.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

use crate::config::BaseUrl;
use crate::domain::attachment::Attachment;
use crate::domain::filename;
use crate::id::AttachmentId;

/// RFC 3986 section 2.3: everything but the unreserved characters is encoded.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Makes and recognises the URLs of files.
#[derive(Clone, Debug)]
pub struct FileUrls {
    cdn: BaseUrl,
}

impl FileUrls {
    /// For files under the base `cdn`.
    #[must_use]
    pub fn new(cdn: BaseUrl) -> Self {
        Self { cdn }
    }

    /// The URL of an attachment's file.
    #[must_use]
    pub fn of(&self, attachment: &Attachment) -> String {
        let segment = filename::url_segment(&attachment.filename);
        let segment = utf8_percent_encode(&segment, SEGMENT);
        self.cdn.join(&format!("/attachments/partners/{}/{}/{segment}", attachment.partner_id, attachment.id))
    }

    /// The attachment that a URL of our own CDN names; `None` if the URL is not one of ours. A URL under our CDN that
    /// names no file is `Some(None)`. The URL parser has normalised host case, default port and dot segments, and the
    /// query is ignored.
    #[must_use]
    pub fn own(&self, url: &str) -> Option<Option<AttachmentId>> {
        let url = Url::parse(url).ok()?;
        let base = self.cdn.as_url();
        if url.origin() != base.origin() {
            return None;
        }
        let path = percent_decode_str(url.path()).decode_utf8().ok()?;
        let below = path.strip_prefix(base.path().trim_end_matches('/'))?.strip_prefix("/attachments/")?;
        let mut segments = below.split('/');
        Some(match (segments.next(), segments.nth(1)) {
            (Some("partners"), Some(id)) => AttachmentId::parse(id),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_below_our_base_are_ours() {
        let urls = FileUrls::new(BaseUrl::parse("https://cdn.example.com/files").expect("URL"));
        let id = AttachmentId::new();
        for (url, expected) in [
            (format!("https://CDN.example.com:443/files/attachments/partners/p/{id}/a.jpg?x=1"), Some(Some(id))),
            (format!("https://cdn.example.com/x/../files/attachments/partners/p/{id}/a.jpg"), Some(Some(id))),
            (format!("https://cdn.example.com/files/%61ttachments/partners/p/{id}/a.jpg"), Some(Some(id))),
            ("https://cdn.example.com/files/attachments/nothing".to_owned(), Some(None)),
            (format!("http://cdn.example.com/files/attachments/partners/p/{id}/a.jpg"), None),
            (format!("https://cdn.example.com:444/files/attachments/partners/p/{id}/a.jpg"), None),
            (format!("https://other.example.com/files/attachments/partners/p/{id}/a.jpg"), None),
            ("https://cdn.example.com/other".to_owned(), None),
            ("no URL".to_owned(), None),
        ] {
            assert_eq!(urls.own(&url), expected, "{url}");
        }
    }
}
