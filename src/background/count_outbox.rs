//! Updates the metric that counts undelivered messages.

use super::Background;
use crate::attachments::Error;
use crate::db::admission::Holder;
use crate::db::outbox;

pub(super) async fn run(background: &Background) -> Result<(), Error> {
    let mut db = background.db.read(Holder::Background).await?;
    let waiting = outbox::count(&mut db).await?;
    let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
    background.metrics.outbox.set(waiting);
    Ok(())
}
