//! Parses the base URLs of this server and of others.

use std::net::SocketAddr;
use std::str::FromStr;

use url::Url;

/// An absolute http or https URL without query, to which paths are appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(Url);

impl BaseUrl {
    /// Returns the base of a server that listens on `address`.
    #[must_use]
    pub fn from_address(address: SocketAddr) -> Self {
        Self(Url::parse(&format!("http://{address}/")).expect("a URL of a socket address is valid"))
    }

    #[must_use]
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// Returns the value of a `Host` header for this URL: its host, and its port unless that is the
    /// default.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        self.0
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Returns the URL with `path`, which starts with `/`, appended.
    #[must_use]
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0.as_str().trim_end_matches('/'))
    }
}

impl FromStr for BaseUrl {
    type Err = InvalidBaseUrl;

    fn from_str(text: &str) -> Result<Self, InvalidBaseUrl> {
        let url = Url::parse(text)
            .map_err(|error| InvalidBaseUrl(format!("{text:?} is not a URL ({error})")))?;
        let plain = matches!(url.scheme(), "http" | "https")
            && url.query().is_none()
            && url.fragment().is_none();
        if !plain || url.cannot_be_a_base() {
            return Err(InvalidBaseUrl(format!(
                "{text:?} must be an http or https URL without ? and #"
            )));
        }
        Ok(Self(url))
    }
}

/// The reason why a text is not a base URL.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidBaseUrl(String);
