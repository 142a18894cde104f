//! Detects media types: holds the table of accepted types, sniffs content, and chooses a file's
//! type from its content, filename and declared type. Pure: callers pass readers in, and nothing
//! from the rest of the crate is imported.

mod archive;
mod atoms;
mod bounded_reader;
mod chunks;
mod duration;
mod frames;
mod image;
mod isobmff;
mod json;
mod lookup;
mod markup;
mod office;
mod ole;
mod probe;
mod rejected;
mod resolve;
mod sniff;
mod table;
mod text;
mod tiff;
mod zip_container;

pub use lookup::{Declared, by_extension, declared, from_content_type_header, refused_extension};
pub use probe::{MediaInfo, probe};
pub use resolve::{Claim, Ingest, Rejection, resolve};
pub use sniff::{Detected, TextKind, identify};
pub use table::{Disposition, Family, MediaType, TYPES};

#[cfg(test)]
mod tests;
