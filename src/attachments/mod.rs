//! The life of an attachment: create, upload, inspect, build its variant, download.

pub(crate) mod blob_deletion;
pub mod create;
pub(crate) mod direct_uploads;
pub mod download;
pub(crate) mod file_url;
pub(crate) mod inspect;
pub(crate) mod pending_quota;
pub mod upload;
pub(crate) mod upload_body;
pub(crate) mod variants;
