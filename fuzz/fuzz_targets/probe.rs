//! Probes arbitrary bytes as any type: reported dimensions and durations are plausible.
#![no_main]

use haversack::media::{Detected, TYPES, identify, probe};
use libfuzzer_sys::fuzz_target;
use std::io::Cursor;

fuzz_target!(|input: &[u8]| {
    // The detected type, so that samples reach their own parser; otherwise any type.
    let media_type = match identify(Cursor::new(input)) {
        Ok(Detected::Binary { media_type, .. }) => media_type,
        _ => &TYPES[input.len() % TYPES.len()],
    };
    let media_info = probe(Cursor::new(input.to_vec()), media_type);
    assert!(
        media_info
            .duration_ms
            .is_none_or(|millis| millis > 0 && millis / 10 <= 8 * input.len() as u64)
    );
    assert!(media_info.width != Some(0) && media_info.height != Some(0));
});
