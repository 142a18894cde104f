//! Identifies ISO base media files (ISO/IEC 14496-12) and their ancestor QuickTime: MP4, M4A, MOV,
//! 3GP and HEIC. The type follows from the brands in the file, or from its tracks where the brands
//! are generic. Reads no samples.

use super::atoms::{Atom, atom, child, find, inside};
use super::bounded_reader::BoundedReader;
use super::sniff::Detected;
use std::io::{self, Read, Seek};

/// Identifies a file by its first box: `ftyp`, or a box with which older QuickTime files start.
pub(super) fn identify<R: Read + Seek>(
    source: &mut BoundedReader<R>,
) -> io::Result<Option<Detected>> {
    let len = source.len();
    let Some(first) = atom(source, 0, len)? else {
        return Ok(None);
    };
    match &first.name {
        b"ftyp" | b"styp" if first.end > len || first.end - first.start < 4 => Ok(Some(
            Detected::Damaged("the start of an MP4 file and nothing else"),
        )),
        b"ftyp" | b"styp" => branded(source, first).map(Some),
        b"moov" | b"mdat" | b"wide" | b"free" | b"skip" | b"pnot" | b"uuid" => {
            if let Some(brands) = late_brands(source, first)? {
                return branded(source, brands).map(Some);
            }
            let movie = find(source, 0, len, *b"moov")?.filter(|movie| movie.end <= len);
            let movie = match movie {
                // The names of these boxes can occur by chance, so a movie box must contain a movie
                // header.
                Some(movie) => match inside(source, movie, *b"mvhd")? {
                    Some(header) => Some(header),
                    // A compressed movie box has no readable movie header.
                    None => inside(source, movie, *b"cmov")?,
                },
                None => None,
            };
            Ok(movie.map(|_| Detected::of("video/quicktime")))
        }
        _ => Ok(None),
    }
}

/// Returns the `ftyp` box of a file in which padding boxes precede it. `first` is the file's first
/// box.
fn late_brands<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    first: Atom,
) -> io::Result<Option<Atom>> {
    let len = source.len();
    let mut last = first;
    for _ in 0..8 {
        match atom(source, last.end, len)?.filter(|_| last.name != *b"moov") {
            Some(found) if found.name == *b"ftyp" => {
                return Ok(Some(found).filter(|ftyp| ftyp.end <= len && ftyp.end - ftyp.start >= 4));
            }
            Some(other) => last = other,
            None => break,
        }
    }
    Ok(None)
}

/// Brands of HEVC images and image sequences (ISO/IEC 23008-12 annex B).
const HEVC: [&[u8; 4]; 8] = [
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs",
];
/// Brands of images that use another codec than HEVC, or any codec.
const STILL_IMAGES: [&[u8; 4]; 12] = [
    b"mif1", b"mif2", b"mif3", b"msf1", b"miaf", b"1pic", b"unif", b"jpeg", b"jpgs", b"avci",
    b"avcs", b"MiHE",
];

fn branded<R: Read + Seek>(source: &mut BoundedReader<R>, ftyp: Atom) -> io::Result<Detected> {
    let Some(major) = source.array::<4>(ftyp.start)? else {
        return Ok(Detected::Unknown);
    };
    let listed = usize::try_from(ftyp.end - ftyp.start)
        .unwrap_or(usize::MAX)
        .min(1024);
    let (brands, _) = source.at(ftyp.start, listed)?.as_chunks::<4>();
    // The second word of an `ftyp` box is the minor version, not a brand.
    let compatible =
        |wanted: &[&[u8; 4]]| brands.iter().skip(2).any(|brand| wanted.contains(&brand));
    let still = STILL_IMAGES.contains(&&major);
    let (hevc, avif) = (compatible(&HEVC), compatible(&[b"avif", b"avis"]));
    match &major {
        b"avif" | b"avis" => return Ok(Detected::Unsupported("an AVIF image")),
        _ if still && avif => return Ok(Detected::Unsupported("an AVIF image")),
        b"crx " => return Ok(Detected::Unsupported("a camera's raw image")),
        b"jpx " | b"jp2 " | b"mjp2" | b"jpm " => {
            return Ok(Detected::Unsupported("a JPEG 2000 image"));
        }
        [b'3', b'g', b'2', _] | b"kddi" => return Ok(Detected::Unsupported("a 3GPP2 video")),
        b"jxl " => return Ok(Detected::Unsupported("a JPEG XL image")),
        b"aax " | b"aaxc" => return Ok(Detected::Unsupported("an Audible book")),
        b"F4V " | b"F4A " | b"f4v " => return Ok(Detected::Unsupported("a Flash video")),
        _ => {}
    }
    if still || HEVC.contains(&&major) {
        // An image sequence has a movie box instead of a `meta` box.
        let len = source.len();
        let content =
            find(source, ftyp.end, len, *b"meta")?.or(find(source, ftyp.end, len, *b"moov")?);
        return Ok(match content {
            None => Detected::Damaged("a HEIF image that is cut short"),
            Some(_) if !still => Detected::of("image/heic"),
            Some(_) if hevc => Detected::either("image/heic", "image/heif"),
            Some(_) => Detected::of("image/heif"),
        });
    }
    let Some(tracks) = tracks(source, ftyp.end)? else {
        return Ok(Detected::Damaged(
            "an MP4 file that is cut short: its index is missing",
        ));
    };
    // QuickTime alone has tracks of drawings, music and panoramas.
    let other = tracks.other && major == *b"qt  ";
    if !tracks.audio && !tracks.video && !tracks.hidden && !other {
        return Ok(Detected::Damaged("an MP4 file without sound and pictures"));
    }
    Ok(match &major {
        b"M4A " | b"M4B " | b"M4P " => Detected::of("audio/x-m4a"),
        b"M4V " | b"M4VH" | b"M4VP" => Detected::of("video/x-m4v"),
        b"qt  " => Detected::of("video/quicktime"),
        [b'3', b'g', _, _] => Detected::of("video/3gpp"),
        _ if tracks.audio && !tracks.video => Detected::of("audio/x-m4a"),
        _ => Detected::either("video/mp4", "video/x-m4v"),
    })
}

/// The kinds of tracks that a movie has.
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Clone, Copy, Debug, Default)]
struct Tracks {
    audio: bool,
    video: bool,
    /// Has a track of any other kind that is content in itself, unlike subtitles, metadata and
    /// hints.
    other: bool,
    /// Can have tracks that detection does not see, because the movie box is missing (fragments) or
    /// compressed.
    hidden: bool,
}

/// Returns the kinds of tracks in the movie that starts at or after `from`, or `None` if there is
/// neither a complete movie box nor a fragment.
fn tracks<R: Read + Seek>(source: &mut BoundedReader<R>, from: u64) -> io::Result<Option<Tracks>> {
    let len = source.len();
    let mut tracks = Tracks::default();
    let Some(movie) = find(source, from, len, *b"moov")? else {
        return Ok(find(source, from, len, *b"moof")?.map(|_| Tracks {
            hidden: true,
            ..tracks
        }));
    };
    if movie.end > len {
        return Ok(None);
    }
    let mut at = movie.start;
    // Movies have a handful of tracks; the bound stops crafted files.
    for _ in 0..1000 {
        let Some(track) = child(source, at, movie)? else {
            break;
        };
        at = track.end;
        tracks.hidden |= track.name == *b"cmov";
        if track.name != *b"trak" {
            continue;
        }
        let Some(media) = inside(source, track, *b"mdia")? else {
            continue;
        };
        let Some(handler) = inside(source, media, *b"hdlr")? else {
            continue;
        };
        match source.array(handler.start + 8)?.as_ref() {
            Some(b"soun") => tracks.audio = true,
            Some(b"vide") => tracks.video = true,
            Some(b"text" | b"sbtl" | b"subt" | b"clcp" | b"tmcd" | b"meta" | b"hint" | [0, ..])
            | None => {}
            Some(_) => tracks.other = true,
        }
    }
    Ok(Some(tracks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn boxed(name: &[u8], content: &[u8]) -> Vec<u8> {
        let size = u32::try_from(8 + content.len()).expect("small");
        [&size.to_be_bytes(), name, content].concat()
    }

    fn ftyp(brands: &[&[u8; 4]]) -> Vec<u8> {
        let (major, rest) = brands.split_first().expect("a major brand");
        boxed(
            b"ftyp",
            &[
                major.as_slice(),
                &[0; 4],
                &rest.iter().copied().flatten().copied().collect::<Vec<u8>>(),
            ]
            .concat(),
        )
    }

    fn movie(handlers: &[&[u8; 4]]) -> Vec<u8> {
        let track = |handler: &&[u8; 4]| {
            let handler = boxed(b"hdlr", &[&[0; 8], handler.as_slice(), &[0; 12]].concat());
            boxed(
                b"trak",
                &boxed(b"mdia", &[boxed(b"mdhd", &[0; 24]), handler].concat()),
            )
        };
        let tracks: Vec<u8> = handlers.iter().flat_map(track).collect();
        boxed(b"moov", &[boxed(b"mvhd", &[0; 100]), tracks].concat())
    }

    fn found(bytes: &[u8]) -> Option<Detected> {
        identify(&mut BoundedReader::new(Cursor::new(bytes)).expect("in-memory I/O"))
            .expect("in-memory I/O")
    }

    #[test]
    fn generic_brands_are_resolved_by_tracks() {
        let neutral = Detected::either("video/mp4", "video/x-m4v");
        for (brands, handlers, expected) in [
            ([b"isom", b"mp42"], [b"vide", b"soun"], neutral),
            (
                [b"isom", b"mp42"],
                [b"soun", b"soun"],
                Detected::of("audio/x-m4a"),
            ),
            (
                [b"dash", b"iso6"],
                [b"soun", b"meta"],
                Detected::of("audio/x-m4a"),
            ),
            ([b"mp42", b"3gp4"], [b"soun", b"vide"], neutral),
            (
                [b"M4A ", b"isom"],
                [b"soun", b"vide"],
                Detected::of("audio/x-m4a"),
            ),
            (
                [b"M4VH", b"isom"],
                [b"soun", b"vide"],
                Detected::of("video/x-m4v"),
            ),
            (
                [b"qt  ", b"qt  "],
                [b"soun", b"soun"],
                Detected::of("video/quicktime"),
            ),
            (
                [b"3gp5", b"isom"],
                [b"soun", b"soun"],
                Detected::of("video/3gpp"),
            ),
            (
                [b"3g2a", b"isom"],
                [b"soun", b"vide"],
                Detected::Unsupported("a 3GPP2 video"),
            ),
            (
                [b"crx ", b"isom"],
                [b"vide", b"vide"],
                Detected::Unsupported("a camera's raw image"),
            ),
        ] {
            let file = [ftyp(&brands), boxed(b"mdat", &[0; 9]), movie(&handlers)].concat();
            assert_eq!(
                found(&file),
                Some(expected),
                "{:?}",
                brands[0].escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn still_image_brands_are_distinguished() {
        let either = Detected::either("image/heic", "image/heif");
        for (brands, expected) in [
            (vec![b"heic", b"mif1"], Detected::of("image/heic")),
            (vec![b"heix", b"mif1", b"heic"], Detected::of("image/heic")),
            (vec![b"hevc", b"msf1"], Detected::of("image/heic")),
            (vec![b"mif1", b"heic"], either),
            (vec![b"msf1", b"mif1", b"hevc"], either),
            (vec![b"mif1"], Detected::of("image/heif")),
            (vec![b"jpeg", b"mif1"], Detected::of("image/heif")),
            (
                vec![b"avif", b"mif1"],
                Detected::Unsupported("an AVIF image"),
            ),
            (
                vec![b"avis", b"msf1"],
                Detected::Unsupported("an AVIF image"),
            ),
            (
                vec![b"mif1", b"miaf", b"avif"],
                Detected::Unsupported("an AVIF image"),
            ),
            (
                vec![b"mif3", b"avif"],
                Detected::Unsupported("an AVIF image"),
            ),
        ] {
            let file = [ftyp(&brands), boxed(b"meta", &[0; 40])].concat();
            assert_eq!(found(&file), Some(expected), "{brands:?}");
            let cut = ftyp(&brands);
            let refused = matches!(expected, Detected::Unsupported(_));
            assert_eq!(
                matches!(found(&cut), Some(Detected::Damaged(_))),
                !refused,
                "{brands:?} alone"
            );
        }
    }

    #[test]
    fn boxes_with_64_bit_or_open_ended_size_are_read() {
        let wide = [b"\0\0\0\x01mdat\0\0\0\0\0\0\0\x14".as_slice(), &[7; 4]].concat();
        let mut last = movie(&[b"vide"]);
        last[..4].fill(0);
        let expected = Some(Detected::either("video/mp4", "video/x-m4v"));
        assert_eq!(found(&[ftyp(&[b"isom"]), wide, last].concat()), expected);
        // An `ftyp` box of 256 bytes starts like an icon file, and one of 512 bytes like a cursor
        // file.
        for brands in [60, 124] {
            let file = [ftyp(&vec![b"isom"; brands + 1]), movie(&[b"vide"])].concat();
            assert_eq!(crate::media::identify(Cursor::new(file)).ok(), expected);
        }
    }

    #[test]
    fn movie_without_audio_or_video_is_damaged() {
        for (handlers, whole) in [
            (vec![], false),
            (vec![b"text", b"sbtl"], false),
            (vec![b"text", b"soun"], true),
            (vec![b"subt", b"vide"], true),
        ] {
            for brand in [b"isom", b"M4A ", b"M4V ", b"qt  ", b"3gp5"] {
                let file = [ftyp(&[brand]), movie(&handlers)].concat();
                assert_eq!(
                    matches!(found(&file), Some(Detected::Binary { .. })),
                    whole,
                    "{handlers:?}"
                );
                assert_eq!(
                    matches!(found(&file), Some(Detected::Damaged(_))),
                    !whole,
                    "{handlers:?}"
                );
            }
        }
        for (brand, whole) in [(b"qt  ", true), (b"isom", false)] {
            let panorama = [ftyp(&[brand]), movie(&[b"text", b"pano"])].concat();
            assert_eq!(
                matches!(found(&panorama), Some(Detected::Binary { .. })),
                whole
            );
        }
        let compressed = boxed(b"moov", &boxed(b"cmov", &[0; 40]));
        assert_eq!(
            found(&[ftyp(&[b"qt  "]), compressed].concat()),
            Some(Detected::of("video/quicktime"))
        );
    }

    #[test]
    fn brands_after_padding_boxes_are_found() {
        let wanted = Detected::either("video/mp4", "video/x-m4v");
        for front in [b"free", b"skip", b"wide", b"uuid"] {
            let front = boxed(front, &[0; 16]).repeat(3);
            assert_eq!(
                found(&[front.clone(), ftyp(&[b"isom"]), movie(&[b"vide"])].concat()),
                Some(wanted)
            );
            let index_first = [front.clone(), movie(&[b"vide"]), ftyp(&[b"isom"])].concat();
            assert_eq!(found(&index_first), Some(Detected::of("video/quicktime")));
            let avif = [front, ftyp(&[b"avif"]), boxed(b"meta", &[0; 40])].concat();
            assert_eq!(found(&avif), Some(Detected::Unsupported("an AVIF image")));
        }
    }

    /// Tests crafted files of 10 MiB, in which each track has a box that claims the rest of the
    /// file, including the later tracks.
    #[test]
    fn tracks_that_claim_the_rest_of_the_file_take_a_bounded_number_of_steps() {
        const SIZE: usize = 10 << 20;
        let open =
            |name: &[u8], content: &[u8]| [&[0x7f, 0xff, 0xff, 0xff], name, content].concat();
        let tkhd = boxed(b"tkhd", &[1; 24]);
        let handler = boxed(b"hdlr", &[0; 16]);
        let claiming = boxed(b"trak", &[tkhd, open(b"mdia", &handler)].concat());
        let spaced = boxed(
            b"trak",
            &[open(b"mdia", b""), boxed(b"free", &[0; 8192])].concat(),
        );
        let crumbs = boxed(b"trak", &open(b"mdia", &boxed(b"free", b"").repeat(100)));
        let extends = boxed(b"mvex", &[]);
        for track in [claiming, spaced, crumbs] {
            let tracks = track.repeat(SIZE / track.len());
            let file = [
                ftyp(&[b"isom"]),
                boxed(
                    b"moov",
                    &[boxed(b"mvhd", &[0; 100]), extends.clone(), tracks].concat(),
                ),
            ]
            .concat();
            let mut source = BoundedReader::new(Cursor::new(&file)).expect("in-memory I/O");
            let content = identify(&mut source).expect("in-memory I/O");
            assert_eq!(
                content,
                Some(Detected::Damaged("an MP4 file without sound and pictures"))
            );
            assert!(source.steps_used() < 400_000, "{}", source.steps_used());

            let mut source = BoundedReader::new(Cursor::new(&file)).expect("in-memory I/O");
            assert_eq!(
                crate::media::duration::mp4::duration(&mut source).expect("in-memory I/O"),
                None
            );
            assert!(source.steps_used() < 400_000, "{}", source.steps_used());
        }
    }

    #[test]
    fn movie_without_index_is_damaged_unless_fragmented() {
        let start = [ftyp(&[b"isom"]), boxed(b"mdat", &[0; 100])].concat();
        assert!(matches!(found(&start), Some(Detected::Damaged(_))));
        let mut cut = [start.clone(), movie(&[b"vide"])].concat();
        cut.truncate(cut.len() - 1);
        assert!(matches!(found(&cut), Some(Detected::Damaged(_))));
        let fragment = [start, boxed(b"moof", &[])].concat();
        assert_eq!(
            found(&fragment),
            Some(Detected::either("video/mp4", "video/x-m4v"))
        );
    }

    #[test]
    fn quicktime_files_without_ftyp_are_identified() {
        for first in [b"wide", b"skip", b"free", b"mdat", b"pnot"] {
            let file = [boxed(first, &[0; 12]), movie(&[b"vide"])].concat();
            assert_eq!(found(&file), Some(Detected::of("video/quicktime")));
        }
        assert_eq!(
            found(&movie(&[b"vide"])),
            Some(Detected::of("video/quicktime"))
        );
        assert_eq!(found(&boxed(b"mdat", &[0; 99])), None);
        assert_eq!(
            found(&[boxed(b"free", &[]), boxed(b"moov", &[0; 99])].concat()),
            None
        );
    }
}
