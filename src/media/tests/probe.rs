//! Tests the dimensions and durations determined for the samples.

use super::{content, path};
use crate::media::table::named;
use crate::media::{Claim, Ingest, MediaInfo, by_extension, probe, resolve};
use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Cursor, Read, Seek, SeekFrom};

#[test]
fn durations_of_samples_match() {
    // Most samples last 2.5 s; some have a frame or two of padding in addition.
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
        let found = probed(name);
        let duration = found.duration_ms.expect(name);
        assert!(duration.abs_diff(expected) <= 50, "{name}: {duration}");
    }
    for name in ["tune.mid", "clip.mpg", "clip.avi"] {
        assert_eq!(probed(name), MediaInfo::default(), "{name}");
    }
}

#[test]
fn encoder_padding_is_excluded_from_duration() {
    for name in ["song-vbr-xing.mp3", "song-cbr-id3v2.mp3"] {
        assert_eq!(probed(name).duration_ms, Some(2500), "{name}");
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
        let found = probed(name);
        assert_eq!(
            (found.width, found.height),
            (Some(width), Some(height)),
            "{name}"
        );
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

/// A reader that counts how often it is read.
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
    // Each application segment has 64 KiB, so that each takes a read of its own.
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

fn probed(name: &str) -> MediaInfo {
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
