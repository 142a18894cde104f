//! Fetches from an origin that sends arbitrary bytes over HTTP/2, after its SETTINGS: the fetch
//! ends, and stays within its allowance. Input: the size of the pieces, the number of repetitions
//! of the second half, and the bytes.
#![no_main]

use haversack::fetch::fuzzing::{Replay, drive};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [piece, repeats, bytes @ ..] = input else {
        return;
    };
    let (once, repeated) = bytes.split_at(bytes.len() / 2);
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let sent = [&settings[..], once, &repeated.repeat(1 << (repeats % 16))].concat();
    if sent.len() > 600_000 {
        return;
    }
    // A paused clock jumps to the next timeout when all tasks are idle.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let length = sent.len();
    let driven = runtime
        .expect("a runtime")
        .block_on(drive(Replay::new(sent, usize::from(*piece) * 16), true));
    assert!(
        driven.raw <= driven.allowance,
        "{} of {}",
        driven.raw,
        driven.allowance
    );
    if let Ok(file) = driven.file {
        assert!(file.concat().len() <= length);
    }
});
