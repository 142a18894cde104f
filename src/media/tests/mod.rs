//! Tests that the type of every sample in the corpus is detected.

mod probe;
mod robustness;

use super::table::named;
use super::{
    Claim, Detected, Ingest, MediaType, Rejection, TYPES, TextKind, by_extension, identify, resolve,
};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::LazyLock;

/// A sample file in the manifest, with its expected type and acceptable alternatives.
struct Sample {
    name: &'static str,
    expected: Vec<&'static str>,
}

static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let manifest = include_str!("../../../tests/corpus/manifest.tsv");
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
    /// Returns true if the chosen type or the rejection is one of the expected outcomes.
    fn allows(&self, outcome: &Result<&'static MediaType, Rejection>) -> bool {
        let outcome = outcome
            .as_ref()
            .map_or("reject", |media_type| media_type.name);
        self.expected.contains(&outcome)
    }

    fn resolved(
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
            let outcome = sample.resolved(declared, Ingest::Upload);
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
        let outcome = sample.resolved(None, Ingest::Url);
        match (sample.resolved(None, Ingest::Upload), outcome) {
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
