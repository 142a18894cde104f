//! Why a fetch failed, in words for the developer whose URL it was. Nothing that a host said is repeated but the number
//! of its status: what an internal host says is nobody's business.

use std::io;
use std::time::Duration;

use super::meter::Flood;
use super::url::InvalidUrl;
use crate::budget::AtCapacity;

/// Why a file could not be fetched. The text goes on after "could not fetch URL: ".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not one that can be fetched.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// The port is not one that may be connected to.
    #[error("port {0} is not allowed; only 443 is, unless the operator allows more")]
    Port(u16),
    /// A name that is never a public host's.
    #[error("its host is a name for local use, not a public one")]
    LocalName,
    /// An address that is not public, or a name that has one.
    #[error("its address is not public")]
    NotPublic,
    /// A redirect to this server that names no file of its own.
    #[error("it redirects to this server, but not to a file that is stored here")]
    OwnUrl,
    /// A host whose address is that of this server.
    #[error("its host is this server under another name; use the URL that this server gave")]
    OwnAddress,
    /// The name has no address, or its servers do not answer.
    #[error("its host name could not be resolved")]
    Unresolved,
    /// The name's servers took too long.
    #[error("its host name could not be resolved within {} s", .0.as_secs())]
    ResolveTimeout(Duration),
    /// Nobody took the connection.
    #[error("the host does not accept connections")]
    Unreachable,
    /// Nobody answered the connection.
    #[error("the host did not accept a connection within {} s", .0.as_secs())]
    ConnectTimeout(Duration),
    /// No TLS connection came about.
    #[error("{0}")]
    Tls(&'static str),
    /// The host sent nothing for too long.
    #[error("the host sent nothing for {} s", .0.as_secs())]
    Idle(Duration),
    /// All of it took too long.
    #[error("it took longer than {} s", .0.as_secs())]
    TooSlow(Duration),
    /// The answer's header is too large.
    #[error("the header of the answer is larger than {0} bytes")]
    HeaderTooLarge(usize),
    /// What came is not HTTP.
    #[error("the host's answer is not valid HTTP")]
    Protocol,
    /// The connection ended early.
    #[error("the connection ended before the whole file had come")]
    Cut,
    /// A status that brings no file.
    #[error("the host answered {0}")]
    Status(u16),
    /// Redirected too often.
    #[error("it redirects more than {0} times")]
    TooManyRedirects(usize),
    /// Redirected to nothing that can be fetched.
    #[error("it redirects to a URL that cannot be fetched: {0}")]
    BadRedirect(InvalidUrl),
    /// Redirected without saying where to.
    #[error("it redirects without saying where to")]
    NoLocation,
    /// The body is compressed although that was not asked for.
    #[error("the host sent the file with a content encoding; it must send it as it is")]
    Encoded,
    /// A part of the file although the whole was asked for.
    #[error("the host sent only a part of the file")]
    Partial,
    /// The file is larger than is accepted: the most bytes that are.
    #[error("the file is larger than {}", Megabytes(*.0))]
    TooLarge(u64),
    /// The host sends what is not the file.
    #[error("the host sent far more than the file: {0}")]
    Flood(Flood),
    /// The budget of fetches or of temporary bytes is used up.
    #[error(transparent)]
    AtCapacity(AtCapacity),
    /// It failed after a redirect.
    #[error("after a redirect: {0}")]
    Redirected(Box<Error>),
}

impl Error {
    /// A short name of it, for metrics.
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
            | Self::Cut
            | Self::Encoded
            | Self::Partial => "protocol",
            Self::Status(_) => "status",
            Self::TooLarge(_) => "too_large",
            Self::Flood(_) => "flood",
            Self::AtCapacity(_) => "at_capacity",
            Self::Redirected(error) => error.kind(),
        }
    }

    /// The same without what tells that it came after a redirect.
    #[must_use]
    pub fn cause(&self) -> &Self {
        match self {
            Self::Redirected(error) => error.cause(),
            error => error,
        }
    }

    /// What went wrong in an exchange, from the HTTP library's error.
    pub(super) fn from_http(error: &hyper::Error, header_limit: usize) -> Self {
        if error.is_parse_too_large() {
            Self::HeaderTooLarge(header_limit)
        } else if error.is_incomplete_message() || io_error(error).is_some() {
            Self::Cut
        } else {
            Self::Protocol
        }
    }

    /// What went wrong in a TLS handshake.
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

/// A size in the unit people say it in.
struct Megabytes(u64);

impl std::fmt::Display for Megabytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const MIB: u64 = 1024 * 1024;
        if self.0 > 0 && self.0.is_multiple_of(MIB) {
            write!(f, "{} MiB", self.0 / MIB)
        } else {
            write!(f, "{} bytes", self.0)
        }
    }
}
