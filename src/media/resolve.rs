//! Chooses the type of a file from its detected content, filename and declared type. Reads no
//! bytes.

use super::lookup::{by_extension, refused_extension};
use super::sniff::{Detected, TextKind};
use super::table::{Family, MediaType, named};
use crate::quote::shown;

/// How the server received a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingest {
    /// Uploaded by the sender, who vouches for the declared type.
    Upload,
    /// Fetched from a URL. The extension must fit the content, and the response's `Content-Type` is
    /// only a hint.
    Url,
}

/// Claims about a file: its filename and its declared type.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    pub filename: &'a str,
    /// Declared type: from the sender of an upload, or from the `Content-Type` of a fetched
    /// response.
    pub declared: Option<&'static MediaType>,
}

/// Reasons why a file is rejected. Each message is a sentence without a full stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The type is not accepted, or the content does not match the filename or the declared type.
    #[error("{0}")]
    Unsupported(String),
    /// The file has an accepted type, but the extension of another one. Occurs only for URLs.
    #[error("{0}")]
    Mismatch(String),
}

/// Chooses the type of a file from its content, filename and declared type.
///
/// # Errors
/// The file is rejected, because its type is not accepted or contradicts a claim.
pub fn resolve(
    content: Detected,
    claim: &Claim<'_>,
    route: Ingest,
) -> Result<&'static MediaType, Rejection> {
    let filename = shown(claim.filename);
    if let Some(refused) = refused_extension(claim.filename) {
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
        Detected::Binary {
            media_type,
            alternative,
        } => binary(media_type, alternative, claim, route),
        Detected::Text(kind) => text(kind, claim, route),
    }
}

/// Returns the text after a filename's last dot if it is plausible as an extension.
fn extension(filename: &str) -> Option<&str> {
    // Some systems strip trailing dots and spaces when they store a filename, so they are ignored.
    let (stem, extension) = filename.trim_end_matches(['.', ' ']).rsplit_once('.')?;
    let usual = (1..=10).contains(&extension.len())
        && extension.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (usual && !stem.is_empty()).then_some(extension)
}

fn binary(
    detected: &'static MediaType,
    alternative: Option<&'static MediaType>,
    claim: &Claim<'_>,
    route: Ingest,
) -> Result<&'static MediaType, Rejection> {
    let named = extension(claim.filename).and_then(by_extension);
    // If the content fits two types, the filename extension decides between them, or else the
    // declared type.
    let media_type = match alternative {
        Some(other) if named == Some(other) => other,
        Some(other) if named != Some(detected) && claim.declared == Some(other) => other,
        _ => detected,
    };
    if let Some(named) = named.filter(|named| !passes(media_type, named, route)) {
        return mismatch(claim.filename, media_type, named, route);
    }
    // A response's `Content-Type` cannot overrule the content, unlike the type declared for an
    // upload.
    match claim.declared {
        Some(declared) if route == Ingest::Upload && !passes(media_type, declared, route) => {
            mismatch(claim.filename, media_type, declared, route)
        }
        _ => Ok(media_type),
    }
}

/// Returns true if content of type `kind` is accepted under the claim that it is of type `claimed`.
fn passes(kind: &MediaType, claimed: &MediaType, route: Ingest) -> bool {
    let same_family =
        kind.family == claimed.family && matches!(kind.family, Family::Image | Family::Media);
    let zipped = kind.family == Family::Package && claimed.name == "application/zip";
    kind == claimed
        || zipped
        || same_family && (route == Ingest::Upload || interchangeable(kind, claimed))
}

/// Returns true for two types between which users do not distinguish: related containers, or HEIC
/// and HEIF stills.
fn interchangeable(kind: &MediaType, claimed: &MediaType) -> bool {
    const STILL_IMAGES: [&str; 2] = ["image/heic", "image/heif"];
    const MOVIES: [&str; 4] = ["video/mp4", "video/x-m4v", "video/quicktime", "video/3gpp"];
    let both = |group: &[&str]| group.contains(&kind.name) && group.contains(&claimed.name);
    both(&STILL_IMAGES)
        || both(&MOVIES)
        || (kind.name, claimed.name) == ("audio/x-m4a", "video/mp4")
}

fn text(kind: TextKind, claim: &Claim<'_>, route: Ingest) -> Result<&'static MediaType, Rejection> {
    let own = kind.media_type();
    // On upload, text declared to be of a binary type is rejected. The reverse is rejected as well.
    let declared = claim
        .declared
        .filter(|declared| declared.family == Family::Text);
    if let (Ingest::Upload, Some(other), None) = (route, claim.declared, declared) {
        return mismatch(claim.filename, own, other, route);
    }
    let agreed = declared.filter(|declared| kind.reads_as(declared));
    match extension(claim.filename) {
        None => Ok(agreed
            .filter(|agreed| by_name_only(own) || !by_name_only(agreed))
            .unwrap_or(own)),
        Some(extension) => match (by_extension(extension), agreed) {
            (Some(named), _) if kind.reads_as(named) => Ok(named),
            (Some(named), _) => mismatch(claim.filename, own, named, route),
            (None, Some(agreed)) => Ok(agreed),
            (None, None) => unsupported(format!(
                "{} holds {}, and .{extension} is no extension of a supported type",
                claim.filename, own.noun
            )),
        },
    }
}

/// Returns true for types that any text can have, so that only the filename or the declared type
/// distinguishes them.
fn by_name_only(media_type: &MediaType) -> bool {
    matches!(media_type.name, "text/plain" | "text/csv" | "text/markdown")
}

impl TextKind {
    /// Returns the type that this kind of text has if the claims say nothing else.
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

    /// Returns true if text of this kind is accepted under the claim that it is of type `claimed`.
    fn reads_as(self, claimed: &MediaType) -> bool {
        let markup = matches!(self, Self::Svg | Self::Html | Self::Fragment | Self::Xml);
        by_name_only(claimed)
            || self.media_type() == claimed
            || match claimed.name {
                "text/html" => matches!(self, Self::Xml | Self::Mixed),
                "text/xml" => markup,
                "application/json" => self == Self::Scalar,
                _ => false,
            }
    }
}

/// Builds the rejection of a file whose content has another type than its name or declaration
/// claims.
fn mismatch(
    filename: &str,
    kind: &MediaType,
    claimed: &MediaType,
    route: Ingest,
) -> Result<&'static MediaType, Rejection> {
    let filename = shown(filename);
    match route {
        Ingest::Upload => unsupported(format!(
            "{filename} holds {}, not {}",
            kind.noun, claimed.noun
        )),
        Ingest::Url => {
            let extension = kind.extensions.first().copied().unwrap_or_default();
            let (noun, name) = (kind.noun, kind.name);
            let upload = if passes(kind, claimed, Ingest::Upload) {
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
