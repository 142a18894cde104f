use super::scan::Blank;
use super::*;
use proptest::prelude::*;
use std::io::Write;

fn file(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().expect("file");
    file.write_all(bytes).expect("write");
    file
}

fn stripped(bytes: &[u8]) -> Vec<u8> {
    let mut clean = bytes.to_vec();
    for patch in patches(&mut file(bytes)).expect("readable") {
        let at = usize::try_from(patch.at).expect("small");
        clean[at..at + patch.bytes.len()].copy_from_slice(&patch.bytes);
    }
    clean
}

fn corpus(name: &str) -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/").to_owned() + name)
        .expect(name)
}

#[test]
fn file_without_private_metadata_is_unchanged() {
    for name in [
        "photo.jpg",
        "screenshot.png",
        "clip.mp4",
        "voice.m4a",
        "notes.txt",
        "animated.png",
    ] {
        let bytes = corpus(name);
        assert!(stripped(&bytes) == bytes, "{name}");
    }
}

#[test]
fn locations_and_serial_numbers_are_blanked() {
    let blanked = |blank: Blank, text: &[u8]| {
        let mut block = text.to_vec();
        blank(&mut block);
        String::from_utf8(block).expect("text")
    };
    assert_eq!(
        blanked(isobmff::blank_iso_6709, b"+37.3318-122.0312+010.000/x"),
        "+00.0000-000.0000+000.000/x"
    );
    assert_eq!(
        blanked(isobmff::blank_iso_6709, b"+12025550100"),
        "+12025550100",
        "a phone number is not a location"
    );
    let attributes = b"<x:xmpmeta exif:GPSLatitude=\"52,31N\" tiff:Model='X' aux:SerialNumber='123'/></x:xmpmeta>";
    let clean = "<x:xmpmeta exif:GPSLatitude=\"      \" tiff:Model='X' aux:SerialNumber='   '/></x:xmpmeta>";
    assert_eq!(blanked(xmp::blank, attributes), clean);
    let spaced = b"<rdf:RDF exif:GPSLatitude = \"52,31N\"/></rdf:RDF>";
    assert_eq!(
        blanked(xmp::blank, spaced),
        "<rdf:RDF exif:GPSLatitude = \"      \"/></rdf:RDF>"
    );
    let nested = b"<y:xmpmeta><exif:GPSLatitude xml:lang=\"x\"><rdf:li>52</rdf:li></exif:GPSLatitude></y:xmpmeta>";
    let clean = format!(
        "<y:xmpmeta><exif:GPSLatitude xml:lang=\"x\">{}</exif:GPSLatitude></y:xmpmeta>",
        " ".repeat(19)
    );
    assert_eq!(blanked(xmp::blank, nested), clean);
    assert_eq!(
        blanked(isobmff::blank_iso_6709, b"+374520-1220130/"),
        "+000000-0000000/"
    );
    let elements = b"<x:xmpmeta><exif:GPSLatitude>52,31N</exif:GPSLatitude></x:xmpmeta>";
    assert_eq!(
        blanked(xmp::blank, elements),
        "<x:xmpmeta><exif:GPSLatitude>      </exif:GPSLatitude></x:xmpmeta>"
    );
}

/// Builds a PNG file from the types and data of its chunks.
fn png(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in chunks {
        let body = [&kind[..], data].concat();
        bytes.extend(u32::try_from(data.len()).expect("short").to_be_bytes());
        bytes.extend_from_slice(&body);
        bytes.extend(crc32fast::hash(&body).to_be_bytes());
    }
    bytes
}

#[test]
fn png_text_chunks_with_metadata_become_unknown_chunks() {
    let zeros = |length: usize| vec![0; length];
    let large = [
        b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta exif:GPSLatitude='1'/>".to_vec(),
        vec![b' '; 300_000],
    ]
    .concat();
    let clean_large = String::from_utf8(large.clone())
        .expect("text")
        .replace("'1'", "' '")
        .into_bytes();
    let with = [
        (b"IHDR", &b"x"[..]),
        (b"zTXt", b"Raw profile type exif\0\0abc"),
        (b"tEXt", b"exif:GPSLatitude\x0052"),
        (b"tEXt", b"Title\0x"),
        (b"iTXt", &large),
    ];
    let without = [
        (b"IHDR", &b"x"[..]),
        (b"prVt", &zeros(26)),
        (b"prVt", &zeros(19)),
        (b"tEXt", b"Title\0x"),
        (b"iTXt", &clean_large),
    ];
    assert!(stripped(&png(&with)) == png(&without));
}

#[test]
fn file_with_too_much_metadata_is_rejected() {
    let many = b"Exif\0\0II*\0\x08\0\0\0\0\0".repeat(MAX_BLOCKS + 1);
    assert!(patches(&mut file(&many)).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_keep_their_size(bytes in proptest::collection::vec(any::<u8>(), 0..300), which in 0..6_usize) {
        let start = [&b"Exif\0\0II*\0\x08\0\0\0"[..], b"Exif\0\0MM\0*\0\0\0\x08", b"eXIfII*\0\x08\0\0\0", b"<x:xmpmeta :GPS",
            b"\xa9xyz", b"loci\0\0\0\0"][which];
        let whole = [start, &bytes].concat();
        prop_assert_eq!(stripped(&whole).len(), whole.len());
    }
}
