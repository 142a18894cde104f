//! Removes locations from the user data and the metadata of QuickTime and 3GPP files.

use super::scan::{Blank, Signature};

/// Byte sequences by which a location is found: in user data and metadata values of the QuickTime
/// File Format, and in the 3GPP location box (TS 26.244 section 8).
pub(super) const SIGNATURES: [Signature; 3] = [
    signature(b"\xa9xyz", 4, blank_iso_6709),
    signature(b"loci\0\0\0\0", 8, blank_loci),
    signature(b"data\0\0\0\x01", 8, blank_iso_6709),
];

const fn signature(bytes: &'static [u8], payload: usize, blank: Blank) -> Signature {
    Signature {
        bytes,
        payload,
        blank,
    }
}

/// Zeroes the digits of an ISO 6709 location, such as `+37.3318-122.0312+010.000/`, near the start
/// of a block.
pub(super) fn blank_iso_6709(block: &mut [u8]) {
    const SEARCH_WINDOW: usize = 16;
    const MAX_LENGTH: usize = 64;
    let Some(start) = block
        .iter()
        .take(SEARCH_WINDOW)
        .position(|byte| matches!(byte, b'+' | b'-'))
    else {
        return;
    };
    let is_of_location =
        |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'/');
    let length = block[start..]
        .iter()
        .take(MAX_LENGTH)
        .take_while(|byte| is_of_location(byte))
        .count();
    let text = &mut block[start..start + length];
    let signs = text
        .iter()
        .filter(|byte| matches!(byte, b'+' | b'-'))
        .count();
    if signs >= 2 && (text.contains(&b'.') || text.ends_with(b"/")) {
        text.iter_mut()
            .filter(|byte| byte.is_ascii_digit())
            .for_each(|digit| *digit = b'0');
    }
}

/// Blanks the fields of a 3GPP location box: name, role, longitude, latitude and altitude, up to
/// the text that follows them.
fn blank_loci(block: &mut [u8]) {
    const FIXED: usize = 13;
    const MAX_NAME: usize = 256;
    // The box contains a language code, then the zero-terminated name of the place.
    let Some(name) = block
        .get(2..)
        .and_then(|rest| rest.iter().take(MAX_NAME).position(|byte| *byte == 0))
    else {
        return;
    };
    if let Some(bytes) = block.get_mut(2..2 + name) {
        bytes.fill(b' ');
    }
    if let Some(bytes) = block.get_mut(2 + name + 1..2 + name + 1 + FIXED) {
        bytes.fill(0);
    }
}
