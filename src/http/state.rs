//! State that handlers and middleware share.

use std::path::PathBuf;
use std::sync::Arc;

use crate::service::Service;

#[derive(Clone, Debug)]
pub struct HttpState {
    pub(crate) service: Arc<Service>,
    /// Folder of the unnamed temporary files that hold large responses.
    pub(super) spool_dir: PathBuf,
}

impl HttpState {
    #[must_use]
    pub fn new(service: Arc<Service>, spool_dir: PathBuf) -> Self {
        Self { service, spool_dir }
    }
}
