//! Identifies arbitrary bytes and resolves their type. Input: a filename, a line feed and the
//! bytes; or only bytes, so that sample files can be seeds.
#![no_main]

use haversack::media::{Claim, Ingest, TYPES, identify, resolve};
use libfuzzer_sys::fuzz_target;
use std::io::Cursor;

fuzz_target!(|input: &[u8]| {
    let whole = identify(Cursor::new(input)).expect("in-memory I/O");
    let mut parts = input.splitn(2, |&byte| byte == b'\n');
    let filename = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let rest = identify(Cursor::new(parts.next().unwrap_or_default())).expect("in-memory I/O");
    for content in [whole, rest] {
        for declared in [None, TYPES.get(input.len() % TYPES.len())] {
            for route in [Ingest::Upload, Ingest::Url] {
                let _ = resolve(
                    content,
                    &Claim {
                        filename: &filename,
                        declared,
                    },
                    route,
                );
            }
        }
    }
});
