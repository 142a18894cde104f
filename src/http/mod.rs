//! HTTP: the server, the API, and the files.

pub mod api;
pub mod files;
pub mod server;
