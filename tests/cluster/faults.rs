//! Something breaks under load and comes back: nothing acknowledged is lost, clients are asked to come again, and nobody
//! has to do anything.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::load::{Allowed, Load, verify};
use crate::pair::Pair;
use crate::{Part, alone, outage};

/// Enough that every client is in the middle of something else.
const SOME: usize = 20;

/// Once the fault is over: the load goes on, then another to which nothing is allowed, and all of it is there.
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
    println!("{what}: {told}; ready after {ready:?}; in the end {}", seen.told());
    println!("{what}: all of it verified and delivered after {:?}", verifying.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_loses_nothing() {
    let _alone = alone().await;
    let mut pair = Pair::start().await;
    let allowed = Allowed { cuts: true, ..Allowed::default() };
    let mut load = Load::start(&pair, &Arc::default(), allowed);
    for index in [0, 1, 0, 1, 0, 1] {
        load.rounds(SOME).await;
        pair.kill(index);
        // The other one carries on alone.
        load.rounds(SOME).await;
        load.during(pair.restart(index)).await;
    }
    assert!(load.seen.cuts.load(Ordering::SeqCst) > 0, "both were killed while they worked");
    recovers(&pair, load, "killing each node three times").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_that_is_restarted_loses_nothing() {
    let _alone = alone().await;
    let pair = Pair::start().await;
    let allowed = Allowed { unavailable: true, unavailable_to_texts: true, ..Allowed::default() };
    let mut load = Load::start(&pair, &Arc::default(), allowed);
    for mode in ["fast", "immediate", "fast", "immediate"] {
        load.rounds(SOME).await;
        load.uploads_used_after(Part::Postgres.ctl(&["restart", mode])).await;
    }
    load.rounds(SOME).await;
    load.during(Part::Postgres.outage()).await;
    assert!(load.seen.unavailable.load(Ordering::SeqCst) > 0, "it was restarted while they worked");
    recovers(&pair, load, "restarting PostgreSQL").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_garage_that_is_away_for_a_while_loses_nothing() {
    let _alone = alone().await;
    let pair = Pair::start().await;
    let allowed = Allowed { unavailable: true, short_files: true, no_bucket: true, ..Allowed::default() };
    let mut load = Load::start(&pair, &Arc::default(), allowed);
    load.rounds(SOME).await;
    load.uploads_used_after(Part::Garage.ctl(&["stop"])).await;
    let before = load.seen.texts.load(Ordering::SeqCst);
    load.during(tokio::time::sleep(outage())).await;
    let texts = load.seen.texts.load(Ordering::SeqCst) - before;
    load.during(Part::Garage.ctl(&["start"])).await;
    assert!(texts > 0, "text goes out meanwhile");
    assert!(load.seen.unavailable.load(Ordering::SeqCst) > 0, "it was away while they worked");
    println!("without Garage: {texts} texts were sent");
    recovers(&pair, load, "stopping Garage").await;
}
