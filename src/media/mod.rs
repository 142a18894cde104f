//! Media types: which are accepted, under which names, and how each is served. Pure: no I/O, and nothing of ours
//! is imported.

mod table;

pub use table::{Declared, Disposition, MediaType, TYPES, declared, of_extension, refused_extension};
