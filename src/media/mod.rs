//! Media type detection: the table of accepted types, content sniffing, and the choice of a file's type
//! from its content, filename and declared type. Pure: callers pass readers in, and nothing from the rest
//! of the crate is imported.

mod archive;
mod chunks;
mod foreign;
mod frames;
mod image;
mod isobmff;
mod markup;
mod measure;
mod movie;
mod names;
mod ole;
mod package;
mod settle;
mod sniff;
mod sound;
mod source;
mod table;
mod text;

pub use measure::{Measures, measure};
pub use names::{Declared, declared, of_content_type_header, of_extension, refused_extension};
pub use settle::{Names, Refusal, Route, settle};
pub use sniff::{Content, TextKind, identify};
pub use table::{Disposition, Family, MediaType, TYPES};

#[cfg(test)]
mod tests;
