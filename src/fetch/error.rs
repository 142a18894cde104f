//! Defines the errors of a fetch, with messages for the developer who supplied the URL. Messages
//! repeat nothing that an origin sends except its status code, because they must not disclose the
//! response of an internal host.

use std::io;
use std::time::Duration;

use super::meter::Flood;
use crate::budget::AtCapacity;
use crate::domain::fetch_url::InvalidUrl;

/// Reasons why a file could not be fetched. Each message continues "could not fetch URL: ".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    #[error("port {0} is not allowed; only 443 is, unless the operator allows more")]
    Port(u16),
    #[error("its host is a name for local use, not a public one")]
    LocalName,
    /// The host is, or resolves to, an address that is not public.
    #[error("its address is not public")]
    NotPublic,
    /// The origin redirects to a URL of this server that is not the URL of a file.
    #[error("it redirects to this server, but not to a file that is stored here")]
    OwnUrl,
    /// The host has the address of this server.
    #[error("its host is this server under another name; use the URL that this server gave")]
    OwnAddress,
    /// The host name has no address, or the lookup failed.
    #[error("its host name could not be resolved")]
    Unresolved,
    #[error("its host name could not be resolved within {} s", .0.as_secs())]
    ResolveTimeout(Duration),
    /// No address of the host accepted a TCP connection.
    #[error("the host does not accept connections")]
    Unreachable,
    #[error("the host did not accept a connection within {} s", .0.as_secs())]
    ConnectTimeout(Duration),
    /// The TLS handshake failed; the field is the message.
    #[error("{0}")]
    Tls(&'static str),
    #[error("the host sent nothing for {} s", .0.as_secs())]
    Idle(Duration),
    /// The whole fetch exceeded its time limit, which is the field.
    #[error("it took longer than {} s", .0.as_secs())]
    TooSlow(Duration),
    #[error("the header of the answer is larger than {0} bytes")]
    HeaderTooLarge(usize),
    #[error("the host's answer is not valid HTTP")]
    Protocol,
    #[error("the connection ended before the whole file had come")]
    Truncated,
    /// The origin answered with this status code and no file.
    #[error("the host answered {0}")]
    Status(u16),
    #[error("it redirects more than {0} times")]
    TooManyRedirects(usize),
    #[error("it redirects to a URL that cannot be fetched: {0}")]
    BadRedirect(InvalidUrl),
    #[error("it redirects without saying where to")]
    NoLocation,
    /// The origin applied a content coding, although the request excludes it.
    #[error("the host sent the file with a content encoding; it must send it as it is")]
    Encoded,
    /// The origin sent a part of the file, although the request is for the whole.
    #[error("the host sent only a part of the file")]
    Partial,
    /// The file exceeds the maximum size, which is the field, in bytes.
    #[error("the file is larger than {}", ByteSize(*.0))]
    TooLarge(u64),
    /// The origin sent far more bytes than the file has.
    #[error("the host sent far more than the file: {0}")]
    Flood(Flood),
    /// The budget for concurrent fetches or for temporary bytes is exhausted.
    #[error(transparent)]
    AtCapacity(AtCapacity),
    /// Any other error, but after a redirect rather than at the URL that the caller supplied.
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

    /// Returns the error without the [`Self::Redirected`] around it.
    #[must_use]
    pub fn cause(&self) -> &Self {
        match self {
            Self::Redirected(error) => error.cause(),
            error => error,
        }
    }

    /// Converts an error of an HTTP exchange to the fetch error that is shown to the caller.
    pub(super) fn from_http(error: &hyper::Error, header_limit: usize) -> Self {
        if error.is_parse_too_large() {
            Self::HeaderTooLarge(header_limit)
        } else if error.is_incomplete_message() || io_error(error).is_some() {
            Self::Truncated
        } else {
            Self::Protocol
        }
    }

    /// Converts an error of a TLS handshake to the fetch error that is shown to the caller.
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

/// Displays a size in MiB if it is a whole number of MiB.
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
