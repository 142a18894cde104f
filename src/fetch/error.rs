//! Errors of a fetch, with messages for the developer who supplied the URL. Except for its status
//! code, nothing that an origin sends is repeated: a message must not disclose the response of an
//! internal host.

use std::io;
use std::time::Duration;

use super::meter::Flood;
use super::url::InvalidUrl;
use crate::budget::AtCapacity;

/// The reason why a file could not be fetched. The message continues "could not fetch URL: ".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    #[error("port {0} is not allowed; only 443 is, unless the operator allows more")]
    Port(u16),
    #[error("its host is a name for local use, not a public one")]
    LocalName,
    /// An address that is not public, or a name that resolves to one.
    #[error("its address is not public")]
    NotPublic,
    /// A redirect to a URL of this server that is not the URL of a file.
    #[error("it redirects to this server, but not to a file that is stored here")]
    OwnUrl,
    /// A host with the address of this server.
    #[error("its host is this server under another name; use the URL that this server gave")]
    OwnAddress,
    /// The name has no address, or the lookup failed.
    #[error("its host name could not be resolved")]
    Unresolved,
    #[error("its host name could not be resolved within {} s", .0.as_secs())]
    ResolveTimeout(Duration),
    /// No address accepted a TCP connection.
    #[error("the host does not accept connections")]
    Unreachable,
    #[error("the host did not accept a connection within {} s", .0.as_secs())]
    ConnectTimeout(Duration),
    /// The TLS handshake failed.
    #[error("{0}")]
    Tls(&'static str),
    #[error("the host sent nothing for {} s", .0.as_secs())]
    Idle(Duration),
    /// The deadline of the whole fetch passed.
    #[error("it took longer than {} s", .0.as_secs())]
    TooSlow(Duration),
    #[error("the header of the answer is larger than {0} bytes")]
    HeaderTooLarge(usize),
    #[error("the host's answer is not valid HTTP")]
    Protocol,
    #[error("the connection ended before the whole file had come")]
    Truncated,
    /// A status without a file.
    #[error("the host answered {0}")]
    Status(u16),
    #[error("it redirects more than {0} times")]
    TooManyRedirects(usize),
    #[error("it redirects to a URL that cannot be fetched: {0}")]
    BadRedirect(InvalidUrl),
    #[error("it redirects without saying where to")]
    NoLocation,
    /// A content coding, although the request excludes it.
    #[error("the host sent the file with a content encoding; it must send it as it is")]
    Encoded,
    /// A part of the file, although the request is for the whole.
    #[error("the host sent only a part of the file")]
    Partial,
    /// The file exceeds the maximum size, in bytes.
    #[error("the file is larger than {}", ByteSize(*.0))]
    TooLarge(u64),
    /// The origin sends much more than the file.
    #[error("the host sent far more than the file: {0}")]
    Flood(Flood),
    /// The budget of fetches or of temporary bytes is exhausted.
    #[error(transparent)]
    AtCapacity(AtCapacity),
    /// An error after a redirect.
    #[error("after a redirect: {0}")]
    Redirected(Box<Error>),
}

impl Error {
    /// Returns the value of the metrics label `outcome`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Url(_) | Self::BadRedirect(_) | Self::NoLocation | Self::TooManyRedirects(_) => {
                "bad_url"
            }
            Self::Port(_) | Self::LocalName | Self::NotPublic | Self::OwnUrl | Self::OwnAddress => {
                "forbidden"
            }
            Self::Unresolved | Self::ResolveTimeout(_) => "dns",
            Self::Unreachable | Self::ConnectTimeout(_) => "connect",
            Self::Tls(_) => "tls",
            Self::Idle(_) | Self::TooSlow(_) => "timeout",
            Self::HeaderTooLarge(_)
            | Self::Protocol
            | Self::Truncated
            | Self::Encoded
            | Self::Partial => "protocol",
            Self::Status(_) => "status",
            Self::TooLarge(_) => "too_large",
            Self::Flood(_) => "flood",
            Self::AtCapacity(_) => "at_capacity",
            Self::Redirected(error) => error.kind(),
        }
    }

    /// Returns the innermost error, without [`Self::Redirected`].
    #[must_use]
    pub fn cause(&self) -> &Self {
        match self {
            Self::Redirected(error) => error.cause(),
            error => error,
        }
    }

    /// Maps an error of an HTTP exchange.
    pub(super) fn from_http(error: &hyper::Error, header_limit: usize) -> Self {
        if error.is_parse_too_large() {
            Self::HeaderTooLarge(header_limit)
        } else if error.is_incomplete_message() || io_error(error).is_some() {
            Self::Truncated
        } else {
            Self::Protocol
        }
    }

    /// Maps an error of a TLS handshake.
    pub(super) fn from_tls(error: &io::Error) -> Self {
        use rustls::CertificateError as C;
        let Some(error) = error
            .get_ref()
            .and_then(|error| error.downcast_ref::<rustls::Error>())
        else {
            return Self::Tls("the host ended the TLS handshake");
        };
        Self::Tls(match error {
            rustls::Error::InvalidCertificate(problem) => match problem {
                C::Expired | C::ExpiredContext { .. } => "the host's certificate has expired",
                C::NotValidYet | C::NotValidYetContext { .. } => {
                    "the host's certificate is not valid yet"
                }
                C::NotValidForName | C::NotValidForNameContext { .. } => {
                    "the host's certificate is for another name"
                }
                C::UnknownIssuer => {
                    "the host's certificate is not signed by an authority that is trusted here"
                }
                _ => "the host's certificate is not valid",
            },
            _ => "no TLS connection could be made with the host",
        })
    }
}

fn io_error(error: &hyper::Error) -> Option<&io::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

/// Displays a size in MiB if it is a whole number of them.
struct ByteSize(u64);

impl std::fmt::Display for ByteSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const MIB: u64 = 1024 * 1024;
        if self.0 > 0 && self.0.is_multiple_of(MIB) {
            write!(f, "{} MiB", self.0 / MIB)
        } else {
            write!(f, "{} bytes", self.0)
        }
    }
}
