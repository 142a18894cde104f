//! Any bytes as what an origin sends over HTTP/2, after its SETTINGS: the fetch ends, and reads no more than it may.
//! Input: the size of the pieces that they come in, how often the second half of them is repeated, the bytes.
#![no_main]

use haversack::fetch::fuzzing::{Replay, drive};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [piece, repeats, bytes @ ..] = input else { return };
    let (once, repeated) = bytes.split_at(bytes.len() / 2);
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let sent = [&settings[..], once, &repeated.repeat(1 << (repeats % 16))].concat();
    if sent.len() > 600_000 {
        return;
    }
    // A clock that jumps to the next timeout as soon as nothing else is to be done.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let length = sent.len();
    let driven = runtime.expect("a runtime").block_on(drive(Replay::new(sent, usize::from(*piece) * 16), true));
    assert!(driven.raw <= driven.allowance, "{} of {}", driven.raw, driven.allowance);
    if let Ok(file) = driven.file {
        assert!(file.concat().len() <= length);
    }
});
