//! Several servers on one PostgreSQL database: ordering, uniqueness and limits across servers.
//! Needs `HAVERSACK_TEST_DATABASE_URL`, which `tests/cluster/with-postgres.sh` sets.

#![expect(unreachable_pub, reason = "a test has no public interface")]

mod delivery;
mod doctor;
mod sends;
mod tables;

use std::sync::Arc;

use haversack::delivery::{Gateway, Loopback};
use haversack_testkit::TestApp;

/// Starts two servers on one database.
async fn two() -> [TestApp; 2] {
    two_with(|| Arc::new(Loopback)).await
}

async fn two_with(gateway: impl Fn() -> Arc<dyn Gateway>) -> [TestApp; 2] {
    assert!(
        std::env::var("HAVERSACK_TEST_DATABASE_URL").is_ok(),
        "see tests/cluster/with-postgres.sh"
    );
    let first = TestApp::with_gateway(gateway(), |_| {}).await;
    let second = first.start_peer(gateway()).await;
    [first, second]
}
