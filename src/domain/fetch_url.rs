//! Parses untrusted URLs. Accepts https URLs with one unambiguous reading, and rejects those that
//! parsers disagree about. Resolves nothing; host and port are checked by the egress policy
//! ([`crate::fetch::EgressPolicy`]).

use std::fmt;

use sha2::{Digest, Sha256};
use url::{Host, Url};

use crate::quote::shown;

/// Maximum length of a URL in bytes.
pub const MAX_URL_LENGTH: usize = 2048;
/// Maximum length in bytes of a host name and of its labels (RFC 1035 section 2.3.4).
const MAX_NAME_LENGTH: usize = 253;
const MAX_LABEL_LENGTH: usize = 63;

/// Reasons why a text is rejected as a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    #[error("it does not start with https://")]
    NotHttps,
    #[error("it is longer than 2048 bytes")]
    TooLong,
    #[error("it is not a valid URL")]
    Malformed,
    /// A backslash or control character, which RFC 3986 does not allow. Some parsers read
    /// backslashes as slashes, and drop control characters.
    #[error("it holds a backslash or a control character; percent-encode it")]
    Ambiguous,
    /// A user name or password before the host (`user:password@`).
    #[error("it holds a user name or password; only what is public can be fetched")]
    Credentials,
    /// An IPv4 address in a notation that only some parsers accept, or a percent-encoded host.
    #[error(
        "its host is written in an unusual form; write a name, or an address as 192.0.2.1 or [2001:db8::1]"
    )]
    UnusualHost,
    #[error("its host name is too long")]
    NameTooLong,
}

/// An https URL that every parser reads alike.
#[derive(Clone, PartialEq, Eq)]
pub struct FetchUrl(Url);

impl FetchUrl {
    /// Parses an https URL.
    ///
    /// # Errors
    /// The text is not an https URL, or is ambiguous.
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        if text.len() > MAX_URL_LENGTH {
            return Err(InvalidUrl::TooLong);
        }
        let rest = match text.split_at_checked("https://".len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https://") => rest,
            _ => return Err(InvalidUrl::NotHttps),
        };
        if text.contains(|c: char| c == '\\' || c.is_control()) {
            return Err(InvalidUrl::Ambiguous);
        }
        let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
        if authority.is_empty() {
            return Err(InvalidUrl::Malformed);
        }
        if authority.contains('@') {
            return Err(InvalidUrl::Credentials);
        }
        if authority.contains('%') {
            return Err(InvalidUrl::UnusualHost);
        }
        let url = Url::parse(text).map_err(|_| InvalidUrl::Malformed)?;
        match url.host() {
            // 0x7f.1, 2130706433 and 017700000001 are 127.0.0.1 for some parsers and names for
            // others.
            Some(Host::Ipv4(ip)) if written_host(authority) != ip.to_string() => {
                return Err(InvalidUrl::UnusualHost);
            }
            Some(Host::Domain(name)) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                if name.len() > MAX_NAME_LENGTH
                    || name.split('.').any(|label| label.len() > MAX_LABEL_LENGTH)
                {
                    return Err(InvalidUrl::NameTooLong);
                }
                if name.split('.').any(str::is_empty) {
                    return Err(InvalidUrl::Malformed);
                }
            }
            Some(_) => {}
            None => return Err(InvalidUrl::Malformed),
        }
        Ok(Self(url))
    }

    /// Resolves the value of a `Location` header against this URL (RFC 9110 section 10.2.2).
    pub(crate) fn join(&self, location: &str) -> Result<Self, InvalidUrl> {
        if location.is_empty() || location.contains(|c: char| c == '\\' || c.is_control()) {
            return Err(InvalidUrl::Ambiguous);
        }
        if location.starts_with("//") {
            return Self::parse(&format!("https:{location}"));
        }
        // RFC 3986 section 3.1. A value with a scheme is parsed as an absolute URL, so `https:path`
        // is rejected.
        let scheme =
            location.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')));
        if scheme.is_some_and(|end| end > 0 && location[end..].starts_with(':')) {
            return Self::parse(location);
        }
        Self::parse(
            self.0
                .join(location)
                .map_err(|_| InvalidUrl::Malformed)?
                .as_str(),
        )
    }

    #[must_use]
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// Returns the host name in lower case without a trailing dot, or the address.
    pub(crate) fn host(&self) -> Host<&str> {
        match self.0.host().expect("checked when parsed") {
            Host::Domain(name) => Host::Domain(name.strip_suffix('.').unwrap_or(name)),
            address => address,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.0
            .port_or_known_default()
            .expect("https has a default port")
    }

    /// Returns the value of the `Host` header: the host, and the port unless it is 443.
    pub(crate) fn authority(&self) -> String {
        let host = self.host();
        self.0
            .port()
            .map_or_else(|| host.to_string(), |port| format!("{host}:{port}"))
    }

    /// Returns a hash for storing and comparing the URL without its query, which can contain
    /// secrets.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut url = self.0.clone();
        url.set_fragment(None);
        base16ct::lower::encode_string(&Sha256::digest(url.as_str()))
    }
}

/// Omits the query, which can contain a signature, from logs and messages.
impl fmt::Display for FetchUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "https://{}{}",
            shown(&self.authority()),
            shown(self.0.path())
        )?;
        if self.0.query().is_some() {
            f.write_str("?...")
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for FetchUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Returns the host of an authority without userinfo, verbatim.
fn written_host(authority: &str) -> &str {
    authority
        .split_once(':')
        .map_or(authority, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ambiguous_or_insecure_url_is_rejected() {
        for (text, reason) in [
            ("", InvalidUrl::NotHttps),
            ("http://example.com/a", InvalidUrl::NotHttps),
            ("https:/example.com/a", InvalidUrl::NotHttps),
            (" https://example.com/a", InvalidUrl::NotHttps),
            ("https:\\\\example.com/a", InvalidUrl::NotHttps),
            ("https://", InvalidUrl::Malformed),
            ("https:///example.com/", InvalidUrl::Malformed),
            ("https://?a", InvalidUrl::Malformed),
            ("https://:443/", InvalidUrl::Malformed),
            ("https://a..example/", InvalidUrl::Malformed),
            ("https://example.com:x/", InvalidUrl::Malformed),
            ("https://example.com\\a", InvalidUrl::Ambiguous),
            ("https://exam\tple.com/", InvalidUrl::Ambiguous),
            ("https://example.com/a\r\nb", InvalidUrl::Ambiguous),
            ("https://a@example.com/", InvalidUrl::Credentials),
            ("https://a:b@example.com/", InvalidUrl::Credentials),
            ("https://exampl%65.com/", InvalidUrl::UnusualHost),
            ("https://0x5d.0xb8.0xd7.0x0e/", InvalidUrl::UnusualHost),
            ("https://1572394766/", InvalidUrl::UnusualHost),
            ("https://93.184.215.14./", InvalidUrl::UnusualHost),
            ("https://93.184.55054/", InvalidUrl::UnusualHost),
        ] {
            assert_eq!(FetchUrl::parse(text).expect_err(text), reason, "{text}");
        }
        let path = "a".repeat(MAX_URL_LENGTH - "https://example.com/".len());
        assert!(FetchUrl::parse(&format!("https://example.com/{path}")).is_ok());
        assert_eq!(
            FetchUrl::parse(&format!("https://example.com/{path}a")),
            Err(InvalidUrl::TooLong)
        );
        assert_eq!(
            FetchUrl::parse(&format!("https://{}.example/", "a".repeat(64))),
            Err(InvalidUrl::NameTooLong)
        );
    }

    #[test]
    fn redirect_location_is_parsed_like_a_url() {
        let base = FetchUrl::parse("https://example.com/a/b?c#d").expect("URL");
        for (location, expected) in [
            ("c.jpg", Ok("https://example.com/a/c.jpg")),
            ("/c:d", Ok("https://example.com/c:d")),
            ("?x", Ok("https://example.com/a/b?x")),
            ("//other.example/c", Ok("https://other.example/c")),
            ("https://other.example/c", Ok("https://other.example/c")),
            ("", Err(InvalidUrl::Ambiguous)),
            ("http://example.com/", Err(InvalidUrl::NotHttps)),
            ("https:c", Err(InvalidUrl::NotHttps)),
            ("//2130706433/", Err(InvalidUrl::UnusualHost)),
            ("https://2130706433/", Err(InvalidUrl::UnusualHost)),
            ("\\\\other.example", Err(InvalidUrl::Ambiguous)),
            ("//a@other.example/", Err(InvalidUrl::Credentials)),
            ("javascript:alert(1)", Err(InvalidUrl::NotHttps)),
        ] {
            let joined = base.join(location);
            assert_eq!(
                joined
                    .as_ref()
                    .map(|url| url.as_url().as_str())
                    .map_err(|e| *e),
                expected,
                "{location}"
            );
        }
    }

    #[test]
    fn query_is_hidden_in_display_but_part_of_fingerprint() {
        let url = |text| FetchUrl::parse(text).expect("URL");
        let signed = url("https://example.com./a.jpg?signature=secret");
        assert_eq!(signed.to_string(), "https://example.com/a.jpg?...");
        assert_eq!(format!("{signed:?}"), signed.to_string());
        assert_ne!(
            signed.fingerprint(),
            url("https://example.com./a.jpg?signature=other").fingerprint()
        );
        assert_eq!(
            url("https://a.example/#x").fingerprint(),
            url("https://A.example/").fingerprint()
        );
    }

    proptest! {
        #[test]
        fn accepted_url_round_trips(text in "(https://)?[a-z0-9.:@%/\\\\\\[\\]#?x-]{0,40}") {
            if let Ok(url) = FetchUrl::parse(&text) {
                let again = FetchUrl::parse(url.as_url().as_str()).expect("accepted before");
                prop_assert_eq!(again, url);
            }
        }
    }
}
