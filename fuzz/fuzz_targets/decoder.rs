//! Decodes arbitrary bytes with a decoder of the child process, chosen by the first byte. Findings
//! are memory errors and endless loops; a panic or a failed allocation affects one file and is
//! ignored.
#![no_main]

use haversack::transcode::worker::{PPM, TIFF, WAVEFORM, decode};
use libfuzzer_sys::fuzz_target;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else {
        return;
    };
    let mut file = tempfile::tempfile().expect("file");
    file.write_all(bytes).expect("write");
    let output = tempfile::tempfile().expect("file");
    let (name, argument) =
        [(TIFF, None), (PPM, Some("6")), (WAVEFORM, None)][usize::from(*choice) % 3];
    let _ = catch_unwind(AssertUnwindSafe(|| decode(name, argument, file, output)));
});
