//! Removes private metadata from arbitrary bytes: all patches lie within the file, which keeps its
//! size.
#![no_main]

use haversack::transcode::strip_metadata::patches;
use libfuzzer_sys::fuzz_target;
use std::io::Cursor;

fuzz_target!(|input: &[u8]| {
    let mut file = tempfile::tempfile().expect("file");
    std::io::Write::write_all(&mut file, input).expect("write");
    let Ok(found) = patches(&mut file) else {
        return;
    };
    let mut clean = Cursor::new(input.to_vec());
    for patch in found {
        let at = usize::try_from(patch.at).expect("small");
        clean.get_mut()[at..at + patch.bytes.len()].copy_from_slice(&patch.bytes);
    }
    assert_eq!(clean.get_ref().len(), input.len());
});
