//! Fault injection on a real cluster: two server processes on one PostgreSQL and one Garage, behind
//! a load balancer. Needs the environment set by `tests/cluster/with-postgres.sh
//! tests/cluster/with-garage.sh`, as in `just test-cluster`.

#![expect(unreachable_pub, reason = "a test has no public interface")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests may use real time and random input"
)]

mod faults;
mod load;
mod outages;
mod pair;
mod start;

use std::time::Duration;

use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard};

/// Serialises the tests, which stop shared components. Starts components that a failed test left
/// stopped.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    for part in [Part::Postgres, Part::Garage] {
        part.ctl(&["start"]).await;
    }
    turn
}

/// A component that can be stopped and started.
#[derive(Clone, Copy)]
enum Part {
    Postgres,
    Garage,
}

impl Part {
    /// Runs the component's control program with these arguments.
    async fn ctl(self, words: &[&str]) {
        let variable = match self {
            Self::Postgres => "HAVERSACK_TEST_POSTGRES_CTL",
            Self::Garage => "HAVERSACK_TEST_GARAGE_CTL",
        };
        let program = std::env::var(variable)
            .unwrap_or_else(|_| panic!("{variable} is not set: see just test-cluster"));
        let status = Command::new(program)
            .args(words)
            .status()
            .await
            .expect("the program runs");
        assert!(status.success(), "{words:?}: {status}");
    }

    /// Stops the component for the duration of an outage, then starts it.
    async fn outage(self) {
        self.ctl(&["stop"]).await;
        tokio::time::sleep(outage()).await;
        self.ctl(&["start"]).await;
    }
}

/// Duration of an outage.
fn outage() -> Duration {
    let seconds = std::env::var("HAVERSACK_CLUSTER_OUTAGE_SECONDS");
    Duration::from_secs(seconds.map_or(3, |seconds| seconds.parse().expect("a number")))
}
