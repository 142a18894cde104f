//! Any bytes as any type: what is measured has to be possible.
#![no_main]

use haversack::media::{Detected, TYPES, identify, probe};
use libfuzzer_sys::fuzz_target;
use std::io::Cursor;

fuzz_target!(|input: &[u8]| {
    // What the bytes are, so that samples reach their own reader; and a type that they are not.
    let kind = match identify(Cursor::new(input)) {
        Ok(Detected::Binary { kind, .. }) => kind,
        _ => &TYPES[input.len() % TYPES.len()],
    };
    let media_info = probe(Cursor::new(input.to_vec()), kind);
    assert!(media_info.duration_ms.is_none_or(|millis| millis > 0 && millis / 10 <= 8 * input.len() as u64));
    assert!(media_info.width != Some(0) && media_info.height != Some(0));
});
