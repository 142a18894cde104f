//! Defines the validators of HTTP responses.

/// Validators of a response, for a later conditional request (RFC 9110 section 8.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validators {
    /// Fingerprint of the URL after redirects. The validators are sent to this URL only.
    pub url: String,
    pub etag: Option<String>,
    pub last_modified: Option<String>,
}
