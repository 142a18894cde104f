//! State that handlers and middleware share.

use std::path::PathBuf;
use std::sync::Arc;

use crate::attachments::Attachments;
use crate::budget::{AtCapacity, Budget, Reservation};
use crate::config::Limits;
use crate::id::PartnerId;
use crate::messages::Messages;
use crate::metrics::Metrics;
use crate::partners::Partners;
use crate::send::Sends;

/// The use cases, and the budgets and limits of HTTP itself.
#[derive(Clone, Debug)]
pub struct HttpState {
    pub(crate) attachments: Arc<Attachments>,
    pub(crate) sends: Arc<Sends>,
    pub(crate) messages: Arc<Messages>,
    pub(crate) partners: Arc<Partners>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) budgets: Budgets,
    pub(crate) metrics: Metrics,
    /// Folder of the unnamed temporary files that hold large responses.
    pub(crate) spool_dir: PathBuf,
}

/// Budgets of what clients can make the server hold before a use case is called.
#[derive(Clone, Debug)]
pub(crate) struct Budgets {
    /// Bytes of JSON bodies that are being read or handled.
    pub(crate) json_bytes: Budget,
    /// Running requests that came through a trusted proxy.
    pub(crate) proxied_requests: Budget,
    /// Large JSON bodies that are being parsed.
    pub(crate) large_bodies: Budget,
}

impl Budgets {
    pub(crate) fn new(limits: &Limits, metrics: &Metrics) -> Self {
        Self {
            json_bytes: Budget::new("json_bytes", limits.json_bytes(), metrics),
            proxied_requests: Budget::new("proxied_requests", limits.proxied_requests(), metrics),
            large_bodies: Budget::new("large_bodies", limits.large_bodies(), metrics),
        }
    }
}

impl HttpState {
    /// Waits for a permit to parse a large JSON body of a partner.
    pub(crate) async fn parse_permit(&self, partner: PartnerId) -> Result<Reservation, AtCapacity> {
        let large_bodies = &self.budgets.large_bodies;
        large_bodies.reserve(&partner.to_string(), 1).await
    }
}
