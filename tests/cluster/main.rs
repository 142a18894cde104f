//! Faults of a real cluster: two servers, as processes, on one PostgreSQL and one Garage, behind one address. Needs what
//! `tests/cluster/with-postgres.sh tests/cluster/with-garage.sh` sets; `just test-cluster` does that.

#![expect(unreachable_pub, reason = "a test has no public interface")]

mod faults;
mod load;
mod outages;
mod pair;
mod start;
#[path = "../it/support/mod.rs"]
mod support;

use std::time::Duration;

use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard};

/// The tests stop what others need, so there is one at a time. What one that failed left stopped is started.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    for part in [Part::Postgres, Part::Garage] {
        part.ctl(&["start"]).await;
    }
    turn
}

/// Something of the cluster that can be stopped and started.
#[derive(Clone, Copy)]
enum Part {
    Postgres,
    Garage,
}

impl Part {
    /// Runs its program with these words.
    async fn ctl(self, words: &[&str]) {
        let variable = match self {
            Self::Postgres => "HAVERSACK_TEST_POSTGRES_CTL",
            Self::Garage => "HAVERSACK_TEST_GARAGE_CTL",
        };
        let program =
            std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: see just test-cluster"));
        let status = Command::new(program).args(words).status().await.expect("the program runs");
        assert!(status.success(), "{words:?}: {status}");
    }

    /// Stops it for as long as an outage is to last, and starts it again.
    async fn outage(self) {
        self.ctl(&["stop"]).await;
        tokio::time::sleep(outage()).await;
        self.ctl(&["start"]).await;
    }
}

/// How long an outage lasts.
fn outage() -> Duration {
    let seconds = std::env::var("HAVERSACK_CLUSTER_OUTAGE_SECONDS");
    Duration::from_secs(seconds.map_or(3, |seconds| seconds.parse().expect("a number")))
}
