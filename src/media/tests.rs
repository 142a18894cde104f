//! Detection of all samples in the corpus, intact and damaged.

use super::bounded_reader::BoundedReader;
use super::probe::duration;
use super::sniff::inspected;
use super::table::named;
use super::{
    Claim, Detected, Ingest, MediaInfo, MediaType, Rejection, TYPES, TextKind, by_extension,
    identify, probe, resolve,
};
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A file of the manifest, with its expected type and acceptable alternatives.
struct Sample {
    name: &'static str,
    expected: Vec<&'static str>,
}

static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let manifest = include_str!("../../tests/corpus/manifest.tsv");
    let lines = manifest.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let mut columns = line.split('\t');
            let name = columns.next().expect("a name");
            let expected = columns.next().into_iter();
            let others = line
                .split("alt=")
                .skip(1)
                .filter_map(|rest| rest.split([';', '\t']).next());
            Sample {
                name,
                expected: expected.chain(others).collect(),
            }
        })
        .collect()
});

fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus")).join(name)
}

fn content(name: &str) -> Detected {
    identify(File::open(path(name)).expect(name)).expect(name)
}

impl Sample {
    /// Returns true if the outcome is one of the expected types.
    fn allows(&self, outcome: &Result<&'static MediaType, Rejection>) -> bool {
        let outcome = outcome
            .as_ref()
            .map_or("reject", |media_type| media_type.name);
        self.expected.contains(&outcome)
    }

    fn settled(
        &self,
        declared: Option<&'static MediaType>,
        route: Ingest,
    ) -> Result<&'static MediaType, Rejection> {
        resolve(
            content(self.name),
            &Claim {
                filename: self.name,
                declared,
            },
            route,
        )
    }
}

#[test]
fn samples_get_expected_type_on_upload() {
    assert!(SAMPLES.len() > 300);
    for sample in SAMPLES.iter() {
        let own = TYPES
            .iter()
            .find(|media_type| media_type.name == sample.expected[0]);
        let extension = sample
            .name
            .rsplit_once('.')
            .and_then(|(_, extension)| by_extension(extension));
        let declared = match own {
            Some(own) => vec![Some(own)],
            None => vec![
                None,
                extension,
                Some(named("text/plain")),
                Some(named("application/zip")),
            ],
        };
        for declared in declared {
            let outcome = sample.settled(declared, Ingest::Upload);
            assert!(
                sample.allows(&outcome),
                "{} as {declared:?}: {outcome:?}",
                sample.name
            );
        }
    }
}

#[test]
fn samples_by_url_match_upload_unless_extension_differs() {
    let mut mismatches = BTreeSet::new();
    for sample in SAMPLES.iter() {
        let outcome = sample.settled(None, Ingest::Url);
        match (sample.settled(None, Ingest::Upload), outcome) {
            (Ok(_), Err(Rejection::Mismatch(_))) => {
                mismatches.insert(sample.name);
            }
            (Err(_), Err(_)) => {}
            (upload, by_url) => assert_eq!(upload, by_url, "{}", sample.name),
        }
    }
    let expected = [
        "heic-named.jpg",
        "jpeg-named.png",
        "m4a-named.mp3",
        "mp3-named.m4a",
        "png-named.jpg",
    ];
    assert_eq!(mismatches, BTreeSet::from(expected));
}

#[test]
fn refused_samples_are_refused_under_every_accepted_name() {
    for sample in SAMPLES
        .iter()
        .filter(|sample| sample.expected == ["reject"])
    {
        let content = content(sample.name);
        if !matches!(
            content,
            Detected::Unsupported(_) | Detected::Damaged(_) | Detected::Empty | Detected::Unknown
        ) {
            continue;
        }
        for media_type in TYPES {
            let filename = format!("a.{}", media_type.extensions[0]);
            let names = Claim {
                filename: &filename,
                declared: Some(media_type),
            };
            assert!(
                resolve(content, &names, Ingest::Upload).is_err(),
                "{} as {filename}",
                sample.name
            );
        }
    }
}

#[test]
fn durations_of_samples_match() {
    // Most samples last 2.5 s; some include a frame or two of padding.
    for (name, expected) in [
        ("voice.m4a", 2500),
        ("voice-alac.m4a", 2500),
        ("voice-fragmented.m4a", 2523),
        ("voice-faststart.m4a", 2500),
        ("recording-isom.m4a", 2500),
        ("voice.aac", 2531),
        ("voice-id3.aac", 2531),
        ("stereo-48k.aac", 2531),
        ("song-cbr-id3v1.mp3", 2556),
        ("song-vbr-xing.mp3", 2500),
        ("song-vbr-noxing.mp3", 2534),
        ("song-mpeg2-lsf.mp3", 2560),
        ("layer2.mp2", 2507),
        ("sound.wav", 2500),
        ("sound-float.wav", 2500),
        ("sound-u8.wav", 2500),
        ("sound-alaw.wav", 2500),
        ("sound-ima.wav", 2551),
        ("sound-extensible24.wav", 1000),
        ("sound-rf64.wav", 2500),
        ("sound-streamed.wav", 2500),
        ("sound.aiff", 2500),
        ("sound-sowt.aifc", 2500),
        ("sound-alaw.aifc", 2500),
        ("voice-pcm.caf", 2500),
        ("voice-pcm-be.caf", 2500),
        ("voice-pcm-open-ended.caf", 2500),
        ("voice-ima4.caf", 2500),
        ("voice-alac.caf", 2510),
        ("voice-aac.caf", 2500),
        ("voice-opus.caf", 2520),
        ("voice.amr", 2500),
        ("voice-wb.amr", 3380),
        ("voice-amr.3gp", 2500),
        ("clip.mp4", 1500),
        ("clip-fragmented.mp4", 1500),
        ("clip.mov", 1500),
        ("clip-no-ftyp.mov", 1500),
        ("clip.m4v", 1500),
        ("phone-clip.mp4", 1022),
    ] {
        let found = measured(name);
        let duration = found.duration_ms.expect(name);
        assert!(duration.abs_diff(expected) <= 50, "{name}: {duration}");
    }
    for name in ["tune.mid", "clip.mpg", "clip.avi"] {
        assert_eq!(measured(name), MediaInfo::default(), "{name}");
    }
}

#[test]
fn encoder_padding_is_excluded_from_duration() {
    for name in ["song-vbr-xing.mp3", "song-cbr-id3v2.mp3"] {
        assert_eq!(measured(name).duration_ms, Some(2500), "{name}");
    }
}

#[test]
fn implausible_durations_are_not_reported() {
    // The Xing header claims an impossible number of frames, so the frames are counted instead.
    let mut bytes = fs::read(path("song-vbr-xing.mp3")).expect("sample");
    let at = memchr::memmem::find(&bytes, b"Xing").expect("a header") + 8;
    bytes[at..at + 4].fill(0x7f);
    let duration = probe(Cursor::new(bytes), named("audio/mpeg"))
        .duration_ms
        .expect("a duration");
    assert!(duration.abs_diff(2560) <= 50, "{duration}");

    let mut bytes = fs::read(path("voice.m4a")).expect("sample");
    let at = memchr::memmem::find(&bytes, b"mvhd").expect("a header") + 4 + 16;
    bytes[at..at + 4].copy_from_slice(&0x7fff_ffff_u32.to_be_bytes());
    assert_eq!(
        probe(Cursor::new(bytes), named("audio/x-m4a")).duration_ms,
        None
    );
}

#[test]
fn dimensions_of_samples_match() {
    for (name, width, height) in [
        ("photo.jpg", 160, 120),
        ("photo-progressive.jpg", 160, 120),
        ("photo-exif-rotated.jpg", 160, 120),
        ("screenshot.png", 160, 120),
        ("iphone-cgbi.png", 17, 7),
        ("animation.gif", 40, 40),
        ("photo.heic", 160, 120),
        ("photo-jpeg-coded.heif", 160, 120),
        ("scan-be.tif", 160, 120),
        ("bigtiff.tif", 60, 40),
        ("photo.bmp", 160, 120),
        ("photo-lossy.webp", 160, 120),
        ("photo-lossless.webp", 160, 120),
        ("photo-alpha-vp8x.webp", 160, 120),
        ("favicon-png256.ico", 256, 256),
    ] {
        let found = measured(name);
        assert_eq!(
            (found.width, found.height),
            (Some(width), Some(height)),
            "{name}"
        );
    }
}

#[test]
fn pdf_with_any_whitespace_and_leading_text_is_identified() {
    let found = |bytes: &[u8]| identify(Cursor::new(bytes)).expect("in-memory I/O");
    let pdf = Detected::of("application/pdf");
    for blank in [" ", "\t", "\r", "\n", "\r\n", "\x0c", "\0"] {
        let document =
            format!("%PDF-1.4\n1{blank}0{blank}obj\n<<>>\nendobj\nstartxref\n9\n%%EOF\n");
        assert_eq!(found(document.as_bytes()), pdf, "{blank:?}");
        assert_eq!(
            found(format!("\x01\x02 {document}").as_bytes()),
            pdf,
            "{blank:?}"
        );
        for words in ["Content-Type: application/pdf\r\n\r\n", "x"] {
            assert_eq!(
                found(format!("{words}{document}").as_bytes()),
                pdf,
                "{words} {blank:?}"
            );
        }
        for other in ["<p>", "\u{feff}\n<html>", "MZ"] {
            assert_ne!(
                found(format!("{other}{document}").as_bytes()),
                pdf,
                "{other} {blank:?}"
            );
        }
        let far = "-".repeat(1024) + &document;
        assert_ne!(found(far.as_bytes()), pdf);
    }
    for text in [
        "%PDF-1.4 has no endobj",
        "A document starts with %PDF-1.4 and 1 0 obj, and ends with %%EOF",
        "A document is:\n%PDF-1.4\n1 0 obj\n",
        "A document is:\n%PDF-1.4\n1 0 obj\nstartxref\n%%EOF\nand that is all",
    ] {
        assert!(
            matches!(found(text.as_bytes()), Detected::Text(_)),
            "{text}"
        );
    }
}

#[test]
fn byte_order_mark_before_signature_is_ignored() {
    let wide = |text: &str, order: fn(u16) -> [u8; 2]| {
        "\u{feff}"
            .encode_utf16()
            .chain(text.encode_utf16())
            .flat_map(order)
            .collect::<Vec<_>>()
    };
    let rtf = "{\\rtf1 a}";
    let script = "#!/bin/sh\n";
    for (bytes, expected) in [
        (rtf.into(), Detected::Text(TextKind::Rtf)),
        (
            ["\u{feff}", rtf].concat().into_bytes(),
            Detected::Text(TextKind::Rtf),
        ),
        (
            ["\r\n", rtf].concat().into_bytes(),
            Detected::Text(TextKind::Rtf),
        ),
        (
            ["\n", rtf, "\x01"].concat().into_bytes(),
            Detected::of("text/rtf"),
        ),
        (script.into(), Detected::Unsupported("a script")),
        (
            ["\u{feff}", script].concat().into_bytes(),
            Detected::Unsupported("a script"),
        ),
        (
            wide(script, u16::to_le_bytes),
            Detected::Unsupported("a script"),
        ),
        (
            wide(script, u16::to_be_bytes),
            Detected::Unsupported("a script"),
        ),
        (
            wide("# !", u16::to_le_bytes),
            Detected::Text(TextKind::Plain),
        ),
        (
            ["\n", script].concat().into_bytes(),
            Detected::Text(TextKind::Plain),
        ),
    ] {
        assert_eq!(
            identify(Cursor::new(&bytes)).expect("in-memory I/O"),
            expected,
            "{}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn zip_with_split_marker_is_accepted_and_pkpasses_is_refused() {
    let zip = fs::read(path("archive.zip"))
        .or_else(|_| fs::read(path("plain.zip")))
        .expect("a sample");
    for mark in [b"PK00".as_slice(), b"PK\x07\x08"] {
        assert_eq!(
            identify(Cursor::new([mark, &zip].concat())).expect("in-memory I/O"),
            Detected::of("application/zip")
        );
    }
    let called = |filename| {
        resolve(
            Detected::of("application/zip"),
            &Claim {
                filename,
                declared: None,
            },
            Ingest::Upload,
        )
    };
    assert!(called("passes.zip").is_ok());
    assert!(called("passes.pkpasses").is_err());
}

#[test]
fn rejections_of_brands_name_the_format() {
    for (brand, noun) in [
        (b"jxl ", "a JPEG XL image"),
        (b"aax ", "an Audible book"),
        (b"aaxc", "an Audible book"),
    ] {
        let file = [b"\0\0\0\x10ftyp".as_slice(), brand, b"\0\0\0\0"].concat();
        assert_eq!(
            identify(Cursor::new(file)).expect("in-memory I/O"),
            Detected::Unsupported(noun)
        );
    }
}

#[test]
fn smaller_budget_never_changes_an_accepted_type() {
    for sample in SAMPLES.iter() {
        let whole = content(sample.name);
        let file = || {
            BoundedReader::new(File::open(path(sample.name)).expect(sample.name))
                .expect(sample.name)
        };
        let mut full = file();
        inspected(&mut full).expect(sample.name);
        // The samples are small, so they need a small part of the budget.
        assert!(full.steps() < 20_000, "{}: {}", sample.name, full.steps());
        for steps in (0..full.steps()).step_by(7) {
            let found = inspected(&mut file().leave(steps)).expect(sample.name);
            let accepted = matches!(found, Detected::Binary { .. });
            assert!(
                !accepted || found == whole,
                "{} after {steps} steps: {found:?}",
                sample.name
            );
        }
        if let Detected::Binary { kind, .. } = whole {
            let mut full = file();
            let known = duration(&mut full, kind).expect(sample.name);
            let least = duration(&mut file().leave(full.steps().saturating_sub(1)), kind)
                .expect(sample.name);
            assert!(least.is_none(), "{}: {least:?}, not {known:?}", sample.name);
        }
    }
}

#[test]
fn run_of_more_samples_than_bytes_makes_the_duration_unknown() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/trun_count.m4a");
    let file = File::open(path).expect("file");
    assert_eq!(
        probe(file, by_extension("m4a").expect("a type")).duration_ms,
        None
    );
}

/// A reader that counts its reads.
struct CountingReader<'a>(Cursor<Vec<u8>>, &'a Cell<u32>);

impl Read for CountingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1.set(self.1.get() + 1);
        self.0.read(buffer)
    }
}

impl Seek for CountingReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
fn picture_of_endless_segments_is_measured_within_its_read_budget() {
    // Application segments of 64 KiB each, so that each takes a read.
    let segment = [&b"\xff\xe1\xff\xff"[..], &vec![0; 65_533]].concat();
    let bytes = [&b"\xff\xd8"[..], &segment.repeat(100)].concat();
    let tiny = [&b"\xff\xd8"[..], &b"\xff\xe1\0\x02".repeat(1_000_000)].concat();
    let jpeg = by_extension("jpg").expect("a type");
    for bytes in [bytes, tiny] {
        let reads = Cell::new(0);
        assert_eq!(
            probe(CountingReader(Cursor::new(bytes), &reads), jpeg).width,
            None
        );
        assert!(reads.get() <= 2010, "{} reads", reads.get());
    }
}

fn measured(name: &str) -> MediaInfo {
    let media_type = resolve(
        content(name),
        &Claim {
            filename: name,
            declared: None,
        },
        Ingest::Upload,
    )
    .expect(name);
    probe(File::open(path(name)).expect(name), media_type)
}

/// Identifies and measures `bytes` and chooses a type. Any result is right, if it takes less than 2 s.
fn survive(bytes: &[u8]) {
    let started = Instant::now();
    let content = identify(Cursor::new(bytes)).expect("in-memory I/O");
    if let Detected::Binary { kind, .. } = content {
        probe(Cursor::new(bytes.to_vec()), kind);
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
        survive(&bytes);
    }

    #[test]
    fn arbitrary_bytes_after_signature_are_processed_in_time(
        sample in 0..SAMPLES.len(),
        keep in 1_usize..64,
        bytes in prop::collection::vec(any::<u8>(), 0..2048),
    ) {
        let head = &CONTENTS[sample][..keep.min(CONTENTS[sample].len())];
        survive(&[head, &bytes].concat());
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
        survive(&bytes);
    }
}
