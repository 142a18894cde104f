//! Updates the metric of undelivered messages.

use std::sync::Arc;

use crate::db::outbox;
use crate::service::database::Holder;
use crate::service::{Error, Service};

pub(super) async fn run(service: Arc<Service>) -> Result<(), Error> {
    let waiting = outbox::count(&mut *service.db.read(Holder::Background).await?).await?;
    let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
    service.metrics.outbox.set(waiting);
    Ok(())
}
