//! Chooses the type of a file from its detected content, filename and declared type. Reads no bytes.

use super::lookup::{by_extension, refused_extension};
use super::sniff::{Detected, TextKind};
use super::table::{Family, MediaType, named};
use crate::quote::shown;

/// How a file was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingest {
    /// Uploaded; the sender vouches for the declared type.
    Upload,
    /// Fetched from a URL; the extension must fit the content, and the response's `Content-Type` is a hint.
    Url,
}

/// The claims about a file.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    pub filename: &'a str,
    /// The declared type: from the sender of an upload, or from the `Content-Type` of a response.
    pub declared: Option<&'static MediaType>,
}

/// The reason why a file is rejected, as a sentence without a full stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The type is not accepted, or the content does not match the claims.
    #[error("{0}")]
    Unsupported(String),
    /// An accepted type under the extension of another one; only for URLs.
    #[error("{0}")]
    Mismatch(String),
}

/// Chooses the type of a file.
///
/// # Errors
/// The file is rejected.
pub fn resolve(
    content: Detected,
    called: &Claim<'_>,
    route: Ingest,
) -> Result<&'static MediaType, Rejection> {
    let filename = shown(called.filename);
    if let Some(refused) = refused_extension(called.filename) {
        return unsupported(format!(
            "{filename} has the extension .{refused}, which is not supported"
        ));
    }
    match content {
        Detected::Empty => unsupported(format!("{filename} is empty")),
        Detected::Unknown => unsupported(format!("{filename} is no file of a supported type")),
        Detected::Unsupported(noun) => {
            unsupported(format!("{filename} holds {noun}, which is not supported"))
        }
        Detected::Damaged(noun) => unsupported(format!("{filename} holds {noun}")),
        Detected::Binary { kind, or } => binary(kind, or, called, route),
        Detected::Text(kind) => text(kind, called, route),
    }
}

/// Returns the text after the last dot of a filename, if it is plausible as an extension.
fn extension(filename: &str) -> Option<&str> {
    // Some systems strip trailing dots and spaces when they store a name.
    let (stem, extension) = filename.trim_end_matches(['.', ' ']).rsplit_once('.')?;
    let usual = (1..=10).contains(&extension.len())
        && extension.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (usual && !stem.is_empty()).then_some(extension)
}

fn binary(
    kind: &'static MediaType,
    or: Option<&'static MediaType>,
    called: &Claim<'_>,
    route: Ingest,
) -> Result<&'static MediaType, Rejection> {
    let named = extension(called.filename).and_then(by_extension);
    // If the content is ambiguous, the extension decides, and after it the declared type.
    let kind = match or {
        Some(or) if named == Some(or) => or,
        Some(or) if named != Some(kind) && called.declared == Some(or) => or,
        _ => kind,
    };
    if let Some(named) = named.filter(|named| !passes(kind, named, route)) {
        return mismatch(called.filename, kind, named, route);
    }
    // The `Content-Type` of a response cannot overrule the content.
    match called.declared {
        Some(declared) if route == Ingest::Upload && !passes(kind, declared, route) => {
            mismatch(called.filename, kind, declared, route)
        }
        _ => Ok(kind),
    }
}

/// Returns true if content of type `kind` may be claimed to be of type `called`.
fn passes(kind: &MediaType, called: &MediaType, route: Ingest) -> bool {
    let same_family =
        kind.family == called.family && matches!(kind.family, Family::Image | Family::Media);
    let zipped = kind.family == Family::Package && called.name == "application/zip";
    kind == called
        || zipped
        || same_family && (route == Ingest::Upload || interchangeable(kind, called))
}

/// Returns true for types that users do not distinguish: related containers, and HEIC and HEIF stills.
fn interchangeable(kind: &MediaType, called: &MediaType) -> bool {
    const STILLS: [&str; 2] = ["image/heic", "image/heif"];
    const MOVIES: [&str; 4] = ["video/mp4", "video/x-m4v", "video/quicktime", "video/3gpp"];
    let both = |group: &[&str]| group.contains(&kind.name) && group.contains(&called.name);
    both(&STILLS) || both(&MOVIES) || (kind.name, called.name) == ("audio/x-m4a", "video/mp4")
}

fn text(
    kind: TextKind,
    called: &Claim<'_>,
    route: Ingest,
) -> Result<&'static MediaType, Rejection> {
    let own = kind.media_type();
    // On upload, text declared to be a binary type is rejected, as is binary content declared to be text.
    let declared = called
        .declared
        .filter(|declared| declared.family == Family::Text);
    if let (Ingest::Upload, Some(other), None) = (route, called.declared, declared) {
        return mismatch(called.filename, own, other, route);
    }
    let agreed = declared.filter(|declared| kind.reads_as(declared));
    match extension(called.filename) {
        None => Ok(agreed
            .filter(|agreed| by_name_only(own) || !by_name_only(agreed))
            .unwrap_or(own)),
        Some(extension) => match (by_extension(extension), agreed) {
            (Some(named), _) if kind.reads_as(named) => Ok(named),
            (Some(named), _) => mismatch(called.filename, own, named, route),
            (None, Some(agreed)) => Ok(agreed),
            (None, None) => unsupported(format!(
                "{} holds {}, and .{extension} is no extension of a supported type",
                called.filename, own.noun
            )),
        },
    }
}

/// Returns true for types that any text can have: only the filename or declared type distinguishes them.
fn by_name_only(media_type: &MediaType) -> bool {
    matches!(media_type.name, "text/plain" | "text/csv" | "text/markdown")
}

impl TextKind {
    /// Returns the type that the content alone implies.
    fn media_type(self) -> &'static MediaType {
        named(match self {
            Self::Vcard => "text/vcard",
            Self::Calendar => "text/calendar",
            Self::Svg => "image/svg+xml",
            Self::Html | Self::Fragment => "text/html",
            Self::Xml => "text/xml",
            Self::Json => "application/json",
            Self::Rtf => "text/rtf",
            Self::Scalar | Self::Mixed | Self::Plain => "text/plain",
        })
    }

    /// Returns true if text of this kind may be claimed to be of type `called`.
    fn reads_as(self, called: &MediaType) -> bool {
        let markup = matches!(self, Self::Svg | Self::Html | Self::Fragment | Self::Xml);
        by_name_only(called)
            || self.media_type() == called
            || match called.name {
                "text/html" => matches!(self, Self::Xml | Self::Mixed),
                "text/xml" => markup,
                "application/json" => self == Self::Scalar,
                _ => false,
            }
    }
}

/// Builds the rejection of a file whose content has another type than its name or declaration claims.
fn mismatch(
    filename: &str,
    kind: &MediaType,
    called: &MediaType,
    route: Ingest,
) -> Result<&'static MediaType, Rejection> {
    let filename = shown(filename);
    match route {
        Ingest::Upload => unsupported(format!(
            "{filename} holds {}, not {}",
            kind.noun, called.noun
        )),
        Ingest::Url => {
            let extension = kind.extensions.first().copied().unwrap_or_default();
            let (noun, name) = (kind.noun, kind.name);
            let upload = if passes(kind, called, Ingest::Upload) {
                ", or upload it instead"
            } else {
                ""
            };
            let remedy = format!("name it .{extension}{upload}");
            Err(Rejection::Mismatch(format!(
                "{filename} is {noun} ({name}); {remedy}"
            )))
        }
    }
}

fn unsupported(sentence: String) -> Result<&'static MediaType, Rejection> {
    Err(Rejection::Unsupported(sentence))
}

#[cfg(test)]
mod tests;
