//! Faults under load: a component fails and recovers. No acknowledged data may be lost, clients
//! receive retryable errors, and recovery needs no operator.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::load::{Allowed, Load, verify};
use crate::pair::Pair;
use crate::{Part, alone, outage};

/// Enough rounds that the clients are spread over different steps at any moment.
const SOME: usize = 20;

/// After the fault: continues the load until the servers are ready, then runs a load that tolerates
/// no errors, then verifies all acknowledged data.
async fn recovers(pair: &Pair, mut load: Load, what: &str) {
    let start = Instant::now();
    load.during(pair.ready()).await;
    let ready = start.elapsed();
    load.rounds(SOME).await;
    let seen = Arc::clone(&load.seen);
    load.stop().await;
    let told = seen.told();
    let mut load = Load::start(pair, &seen, Allowed::default());
    load.rounds(SOME).await;
    load.stop().await;
    let verifying = Instant::now();
    verify(pair, &seen).await;
    pair.are_well();
    println!(
        "{what}: {told}; ready after {ready:?}; in the end {}",
        seen.told()
    );
    println!(
        "{what}: all files verified and all messages delivered after {:?}",
        verifying.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_server_loses_no_acknowledged_data() {
    let _alone = alone().await;
    let mut pair = Pair::start().await;
    let allowed = Allowed {
        cuts: true,
        ..Allowed::default()
    };
    let mut load = Load::start(&pair, &Arc::default(), allowed);
    for index in [0, 1, 0, 1, 0, 1] {
        load.rounds(SOME).await;
        pair.kill(index);
        // The other server handles the load alone.
        load.rounds(SOME).await;
        load.during(pair.restart(index)).await;
    }
    assert!(
        load.seen.cuts.load(Ordering::SeqCst) > 0,
        "both servers were killed while they handled requests"
    );
    recovers(&pair, load, "killing each node three times").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_restart_loses_no_acknowledged_data() {
    let _alone = alone().await;
    let pair = Pair::start().await;
    let allowed = Allowed {
        unavailable: true,
        unavailable_to_texts: true,
        ..Allowed::default()
    };
    let mut load = Load::start(&pair, &Arc::default(), allowed);
    for mode in ["fast", "immediate", "fast", "immediate"] {
        load.rounds(SOME).await;
        load.uploads_used_after(Part::Postgres.ctl(&["restart", mode]))
            .await;
    }
    load.rounds(SOME).await;
    load.during(Part::Postgres.outage()).await;
    assert!(
        load.seen.unavailable.load(Ordering::SeqCst) > 0,
        "PostgreSQL was restarted under load"
    );
    recovers(&pair, load, "restarting PostgreSQL").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garage_outage_loses_no_acknowledged_data() {
    let _alone = alone().await;
    let pair = Pair::start().await;
    let allowed = Allowed {
        unavailable: true,
        short_files: true,
        no_bucket: true,
        ..Allowed::default()
    };
    let mut load = Load::start(&pair, &Arc::default(), allowed);
    load.rounds(SOME).await;
    load.uploads_used_after(Part::Garage.ctl(&["stop"])).await;
    let before = load.seen.texts.load(Ordering::SeqCst);
    load.during(tokio::time::sleep(outage())).await;
    let texts = load.seen.texts.load(Ordering::SeqCst) - before;
    load.during(Part::Garage.ctl(&["start"])).await;
    assert!(texts > 0, "text messages are accepted during the outage");
    assert!(
        load.seen.unavailable.load(Ordering::SeqCst) > 0,
        "Garage was unavailable under load"
    );
    println!("without Garage: {texts} texts were sent");
    recovers(&pair, load, "stopping Garage").await;
}
