//! Removes private values from XMP packets (ISO 16684-1), whatever container they are in.

use memchr::memmem;

use super::scan::Signature;

pub(super) const SIGNATURES: [Signature; 2] = [signature(b":xmpmeta"), signature(b"<rdf:RDF")];

const fn signature(bytes: &'static [u8]) -> Signature {
    Signature {
        bytes,
        payload: 0,
        blank,
    }
}

/// XMP properties whose values are blanked (Exif 2.32 metadata for XMP, CIPA DC-010).
const PROPERTIES: [&[u8]; 6] = [
    b":GPS",
    b":SerialNumber",
    b":BodySerialNumber",
    b":LensSerialNumber",
    b":CameraOwnerName",
    b":ImageUniqueID",
];

/// Blanks the values of private attributes (`exif:GPSLatitude="..."`) and the content of private
/// elements (`<exif:GPSLatitude>...</exif:GPSLatitude>`). This takes one pass, in which no value or
/// tag is searched twice.
pub(super) fn blank(block: &mut [u8]) {
    let end = [&b":xmpmeta>"[..], b"</rdf:RDF>"]
        .iter()
        .filter_map(|end| memmem::rfind(block, end))
        .max();
    let end = end.unwrap_or(block.len());
    let block = &mut block[..end];
    let (mut from, mut tag_end) = (0, 0);
    while let Some(found) = memchr::memchr(b':', &block[from..]) {
        let colon = from + found;
        from = colon + 1;
        if !PROPERTIES
            .iter()
            .any(|property| block[colon..].starts_with(property))
        {
            continue;
        }
        let name = from;
        from += block[name..]
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric())
            .count();
        let length = from - name;
        let equals = from
            + block[from..]
                .iter()
                .take_while(|byte| byte.is_ascii_whitespace())
                .count();
        if block.get(equals) == Some(&b'=') {
            from = blank_attribute(block, equals + 1);
        } else if is_start_tag(block, name) {
            if tag_end < from {
                tag_end = memchr::memchr(b'>', &block[from..]).map_or(block.len(), |at| from + at);
            }
            if tag_end < block.len() && block[tag_end - 1] != b'/' {
                let name = block[name..name + length].to_vec();
                from = blank_element(block, tag_end + 1, &name);
            }
        }
    }
}

/// Maximum length of an XML namespace prefix; longer ones are not recognised.
const MAX_PREFIX: usize = 64;

/// Returns true if the name at `name` belongs to a start tag, `<prefix:name`.
fn is_start_tag(block: &[u8], name: usize) -> bool {
    let before = block[..name - 1]
        .iter()
        .rev()
        .take(MAX_PREFIX)
        .find(|byte| !byte.is_ascii_alphanumeric());
    before == Some(&b'<')
}

/// Blanks the quoted attribute value that follows offset `at`. Returns the offset at which it ends.
fn blank_attribute(block: &mut [u8], at: usize) -> usize {
    let quotes = block[at..]
        .iter()
        .take(16)
        .position(|byte| matches!(byte, b'"' | b'\''));
    let Some(open) = quotes.map(|open| at + open) else {
        return at;
    };
    let value = &mut block[open..];
    let length = memchr::memchr(value[0], &value[1..]).unwrap_or(value.len() - 1);
    value[1..=length].fill(b' ');
    open + 1 + length
}

/// Blanks the content between a start tag that ends at offset `start` and the end tag of the same
/// name. Returns the offset at which the content ends.
fn blank_element(block: &mut [u8], start: usize, name: &[u8]) -> usize {
    let end = memmem::find_iter(&block[start..], b"</")
        .map(|at| start + at)
        .find(|at| {
            let tag = &block[at + 2..];
            let colon = tag.iter().take(32).position(|byte| *byte == b':');
            colon.is_some_and(|colon| tag[colon + 1..].starts_with(name))
        });
    let end = end.unwrap_or(block.len());
    block[start..end].fill(b' ');
    end
}
