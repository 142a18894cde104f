//! Tests that detection stays within its time and step budget for damaged and crafted files.

use super::{SAMPLES, content, path};
use crate::media::bounded_reader::BoundedReader;
use crate::media::probe::duration;
use crate::media::sniff::identify_within;
use crate::media::{Claim, Detected, Ingest, identify, probe, resolve};
use proptest::prelude::*;
use std::fs::{self, File};
use std::io::Cursor;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

#[test]
fn smaller_budget_never_changes_an_accepted_type() {
    for sample in SAMPLES.iter() {
        let whole = content(sample.name);
        let file = || {
            BoundedReader::new(File::open(path(sample.name)).expect(sample.name))
                .expect(sample.name)
        };
        let mut full = file();
        identify_within(&mut full).expect(sample.name);
        // The samples are small, so identifying one must take only a small part of the step budget.
        assert!(
            full.steps_used() < 20_000,
            "{}: {}",
            sample.name,
            full.steps_used()
        );
        for steps in (0..full.steps_used()).step_by(7) {
            let found = identify_within(&mut file().with_budget(steps)).expect(sample.name);
            let accepted = matches!(found, Detected::Binary { .. });
            assert!(
                !accepted || found == whole,
                "{} after {steps} steps: {found:?}",
                sample.name
            );
        }
        if let Detected::Binary { media_type, .. } = whole {
            let mut full = file();
            let known = duration(&mut full, media_type).expect(sample.name);
            let truncated = duration(
                &mut file().with_budget(full.steps_used().saturating_sub(1)),
                media_type,
            )
            .expect(sample.name);
            assert!(
                truncated.is_none(),
                "{}: {truncated:?}, not {known:?}",
                sample.name
            );
        }
    }
}

/// Identifies and probes `bytes`, and chooses a type. Checks only that this takes less than 2 s;
/// any type is a valid result.
fn process(bytes: &[u8]) {
    let started = Instant::now();
    let content = identify(Cursor::new(bytes)).expect("in-memory I/O");
    if let Detected::Binary { media_type, .. } = content {
        probe(Cursor::new(bytes.to_vec()), media_type);
    }
    for filename in ["a", "a.jpg", "a.txt"] {
        let _ = resolve(
            content,
            &Claim {
                filename,
                declared: None,
            },
            Ingest::Url,
        );
    }
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
}

static CONTENTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    SAMPLES
        .iter()
        .map(|sample| fs::read(path(sample.name)).expect(sample.name))
        .collect()
});

proptest! {
    #[test]
    fn arbitrary_bytes_are_processed_in_time(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        process(&bytes);
    }

    #[test]
    fn arbitrary_bytes_after_signature_are_processed_in_time(
        sample in 0..SAMPLES.len(),
        keep in 1_usize..64,
        bytes in prop::collection::vec(any::<u8>(), 0..2048),
    ) {
        let head = &CONTENTS[sample][..keep.min(CONTENTS[sample].len())];
        process(&[head, &bytes].concat());
    }

    #[test]
    fn damaged_samples_are_processed_in_time(
        sample in 0..SAMPLES.len(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..24),
        near_start in any::<bool>(),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
        tail in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = CONTENTS[sample].clone();
        for (at, byte) in flips {
            if !bytes.is_empty() {
                let range = if near_start { bytes.len().min(256) } else { bytes.len() };
                bytes[at.index(range)] = byte;
            }
        }
        if cut {
            bytes.truncate(length.index(bytes.len() + 1));
        }
        bytes.extend(tail);
        process(&bytes);
    }
}
