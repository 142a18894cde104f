//! The rule: which type a file is settled on, given what its bytes are and what it is called. Reads no bytes.

use super::names::{of_extension, refused_extension};
use super::sniff::{Content, TextKind};
use super::table::{Family, MediaType, named};
use crate::quote::shown;

/// How a file came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Uploaded, with a declared type that its sender answers for.
    Upload,
    /// Fetched from a URL, where the name counts and what the other server says of it is a hint.
    Url,
}

/// What a file is called.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// Its name.
    pub filename: &'a str,
    /// The type declared for it: on upload by its sender, else by the response it came in.
    pub declared: Option<&'static MediaType>,
}

/// Why a file is not accepted, as a sentence without a full stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not an accepted type, or not what it is called.
    #[error("{0}")]
    Unsupported(String),
    /// An accepted type under the extension of another one; by URL only.
    #[error("{0}")]
    Mismatch(String),
}

/// Settles what type a file is.
///
/// # Errors
/// The file is not accepted.
pub fn settle(content: Content, called: &Names<'_>, route: Route) -> Result<&'static MediaType, Refusal> {
    let filename = shown(called.filename);
    if let Some(refused) = refused_extension(called.filename) {
        return unsupported(format!("{filename} has the extension .{refused}, which is not supported"));
    }
    match content {
        Content::Empty => unsupported(format!("{filename} is empty")),
        Content::Unknown => unsupported(format!("{filename} is no file of a supported type")),
        Content::Refused(noun) => unsupported(format!("{filename} holds {noun}, which is not supported")),
        Content::Damaged(noun) => unsupported(format!("{filename} holds {noun}")),
        Content::Binary { kind, or } => binary(kind, or, called, route),
        Content::Text(kind) => text(kind, called, route),
    }
}

/// What is behind the last dot of a name, if it can be an extension.
fn extension(filename: &str) -> Option<&str> {
    // Some systems drop dots and blanks at the end of a name when they store it.
    let (stem, extension) = filename.trim_end_matches(['.', ' ']).rsplit_once('.')?;
    let usual = (1..=10).contains(&extension.len()) && extension.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (usual && !stem.is_empty()).then_some(extension)
}

fn binary(
    kind: &'static MediaType,
    or: Option<&'static MediaType>,
    called: &Names<'_>,
    route: Route,
) -> Result<&'static MediaType, Refusal> {
    let named = extension(called.filename).and_then(of_extension);
    // Where the bytes leave it open, the name decides, and after it what was declared.
    let kind = match or {
        Some(or) if named == Some(or) => or,
        Some(or) if named != Some(kind) && called.declared == Some(or) => or,
        _ => kind,
    };
    if let Some(named) = named.filter(|named| !passes(kind, named, route)) {
        return mismatch(called.filename, kind, named, route);
    }
    // What another server says of its file is not held against the bytes.
    match called.declared {
        Some(declared) if route == Route::Upload && !passes(kind, declared, route) => {
            mismatch(called.filename, kind, declared, route)
        }
        _ => Ok(kind),
    }
}

/// Whether content of `kind` may be called `called`.
fn passes(kind: &MediaType, called: &MediaType, route: Route) -> bool {
    let same_family = kind.family == called.family && matches!(kind.family, Family::Image | Family::Media);
    let zipped = kind.family == Family::Package && called.name == "application/zip";
    kind == called || zipped || same_family && (route == Route::Upload || interchangeable(kind, called))
}

/// Whether two types are one to those who name files: containers that grew from one another, stills of one format.
fn interchangeable(kind: &MediaType, called: &MediaType) -> bool {
    const STILLS: [&str; 2] = ["image/heic", "image/heif"];
    const MOVIES: [&str; 4] = ["video/mp4", "video/x-m4v", "video/quicktime", "video/3gpp"];
    let both = |group: &[&str]| group.contains(&kind.name) && group.contains(&called.name);
    both(&STILLS) || both(&MOVIES) || (kind.name, called.name) == ("audio/x-m4a", "video/mp4")
}

fn text(kind: TextKind, called: &Names<'_>, route: Route) -> Result<&'static MediaType, Refusal> {
    let own = kind.media_type();
    // On upload, text that was declared as a picture is as wrong as a picture that was declared as text.
    let declared = called.declared.filter(|declared| declared.family == Family::Text);
    if let (Route::Upload, Some(other), None) = (route, called.declared, declared) {
        return mismatch(called.filename, own, other, route);
    }
    let agreed = declared.filter(|declared| kind.reads_as(declared));
    match extension(called.filename) {
        None => Ok(agreed.filter(|agreed| by_name_only(own) || !by_name_only(agreed)).unwrap_or(own)),
        Some(extension) => match (of_extension(extension), agreed) {
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

/// Types that any text is, if it is called so: nothing in their bytes tells them apart.
fn by_name_only(media_type: &MediaType) -> bool {
    matches!(media_type.name, "text/plain" | "text/csv" | "text/markdown")
}

impl TextKind {
    /// The type that goes by the content alone.
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

    /// Whether text of this kind may be called `called`.
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

/// A supported type under the name of another one.
fn mismatch(filename: &str, kind: &MediaType, called: &MediaType, route: Route) -> Result<&'static MediaType, Refusal> {
    let filename = shown(filename);
    match route {
        Route::Upload => unsupported(format!("{filename} holds {}, not {}", kind.noun, called.noun)),
        Route::Url => {
            let extension = kind.extensions.first().copied().unwrap_or_default();
            let (noun, name) = (kind.noun, kind.name);
            let upload = if passes(kind, called, Route::Upload) { ", or upload it instead" } else { "" };
            let remedy = format!("name it .{extension}{upload}");
            Err(Refusal::Mismatch(format!("{filename} is {noun} ({name}); {remedy}")))
        }
    }
}

fn unsupported(sentence: String) -> Result<&'static MediaType, Refusal> {
    Err(Refusal::Unsupported(sentence))
}

#[cfg(test)]
mod tests;
