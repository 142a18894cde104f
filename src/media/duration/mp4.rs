//! Determines the duration of MP4 movies (ISO/IEC 14496-12), fragmented or not. Reads no samples.

use crate::media::atoms::{Atom, atom, child, find, inside};
use crate::media::bounded_reader::BoundedReader;

use std::io::{self, Read, Seek};

/// Timing of one track.
struct Track {
    id: u32,
    timescale: u32,
    /// Sample duration that applies if neither the track run nor the fragment gives one.
    default: u32,
    /// End of the track as known so far, in units of its timescale.
    reach: u64,
}

/// Returns the movie's duration in milliseconds.
pub(in crate::media) fn duration<R: Read + Seek>(
    source: &mut BoundedReader<R>,
) -> io::Result<Option<u64>> {
    let len = source.len();
    let Some(movie) = find(source, 0, len, *b"moov")?.map(|movie| movie.before(len)) else {
        return Ok(None);
    };
    let Some(header) = inside(source, movie, *b"mvhd")? else {
        return Ok(None);
    };
    let (timescale, whole) = times(source, header.start)?;
    let Some(extends) = inside(source, movie, *b"mvex")? else {
        return Ok(millis(whole, timescale));
    };
    let mut tracks = tracks(source, movie, extends)?;
    // Fragments are walked even if the header gives the duration, to reject impossible track runs.
    fragments(source, movie.end, &mut tracks)?;
    if let Some(header) = inside(source, extends, *b"mehd")? {
        let width = if source.at(header.start, 1)? == [1] {
            8
        } else {
            4
        };
        let fragmented = source.uint(header.start + 4, width, false)?.unwrap_or(0);
        if let Some(millis) = millis(fragmented, timescale) {
            return Ok(Some(millis));
        }
    }
    let fragmented = tracks
        .iter()
        .filter_map(|track| millis(track.reach, track.timescale))
        .max();
    Ok(fragmented.max(millis(whole, timescale)))
}

/// Converts a duration from timescale units to milliseconds. Returns `None` if the result is 0 or
/// does not fit, or if the timescale is 0.
fn millis(units: u64, timescale: u32) -> Option<u64> {
    let millis = u128::from(units) * 1000 / u128::from(timescale).max(1);
    u64::try_from(millis)
        .ok()
        .filter(|&millis| millis > 0 && timescale > 0)
}

/// Reads the timescale and the duration from a movie header or a media header, which start alike
/// (sections 8.2.2 and 8.4.2). A duration of all ones means unknown and is returned as 0.
fn times<R: Read + Seek>(source: &mut BoundedReader<R>, at: u64) -> io::Result<(u32, u64)> {
    let (scale, width) = if source.at(at, 1)? == [1] {
        (20, 8)
    } else {
        (12, 4)
    };
    let timescale = source.be32(at + scale)?.unwrap_or(0);
    let duration = source.uint(at + scale + 4, width, false)?.unwrap_or(0);
    let unknown = if width == 8 {
        u64::MAX
    } else {
        u64::from(u32::MAX)
    };
    Ok((timescale, if duration == unknown { 0 } else { duration }))
}

/// Returns the movie's tracks, each with its duration before any fragments.
fn tracks<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    movie: Atom,
    extends: Atom,
) -> io::Result<Vec<Track>> {
    let mut tracks = Vec::new();
    let mut at = movie.start;
    // Visits as many boxes as format detection does, and keeps at most the first hundred valid
    // tracks.
    for _ in 0..1000 {
        let Some(track) = child(source, at, movie)?.filter(|_| tracks.len() < 100) else {
            break;
        };
        at = track.end;
        if track.name != *b"trak" {
            continue;
        }
        let Some(header) = inside(source, track, *b"tkhd")? else {
            continue;
        };
        let Some(media) = inside(source, track, *b"mdia")? else {
            continue;
        };
        let Some(media) = inside(source, media, *b"mdhd")? else {
            continue;
        };
        let id = if source.at(header.start, 1)? == [1] {
            20
        } else {
            12
        };
        let Some(id) = source.be32(header.start + id)? else {
            continue;
        };
        let (timescale, reach) = times(source, media.start)?;
        tracks.push(Track {
            id,
            timescale,
            default: 0,
            reach,
        });
    }
    let mut at = extends.start;
    for _ in 0..100 {
        let Some(defaults) = child(source, at, extends)? else {
            break;
        };
        at = defaults.end;
        let track = source.be32(defaults.start + 4)?;
        if let Some(track) = tracks
            .iter_mut()
            .find(|known| defaults.name == *b"trex" && Some(known.id) == track)
        {
            track.default = source.be32(defaults.start + 12)?.unwrap_or(0);
        }
    }
    Ok(tracks)
}

/// Walks the movie fragments (section 8.8) from offset `at` on, and adds their durations to the
/// tracks.
fn fragments<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    mut at: u64,
    tracks: &mut [Track],
) -> io::Result<()> {
    let len = source.len();
    while let Some(fragment) = atom(source, at, len)?.map(|fragment| fragment.before(len)) {
        at = fragment.end;
        let mut inner = fragment.start;
        while fragment.name == *b"moof"
            && let Some(part) = child(source, inner, fragment)?
        {
            inner = part.end;
            if part.name == *b"traf" {
                track_fragment(source, part, tracks)?;
            }
        }
    }
    Ok(())
}

/// Rejects a fragment in which a track run claims more samples than the file has bytes, because a
/// decoder would count them one by one. All tracks are checked.
fn check_runs<R: Read + Seek>(source: &mut BoundedReader<R>, fragment: Atom) -> io::Result<()> {
    let mut at = fragment.start;
    while let Some(run) = child(source, at, fragment)? {
        at = run.end;
        let count = if run.name == *b"trun" {
            source.be32(run.start + 4)?
        } else {
            None
        };
        if count.is_some_and(|count| u64::from(count) > source.len()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a run of more samples than the file has bytes",
            ));
        }
    }
    Ok(())
}

fn track_fragment<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    fragment: Atom,
    tracks: &mut [Track],
) -> io::Result<()> {
    check_runs(source, fragment)?;
    let Some(header) = inside(source, fragment, *b"tfhd")? else {
        return Ok(());
    };
    let Some((flags, id)) = source
        .be32(header.start)?
        .zip(source.be32(header.start + 4)?)
    else {
        return Ok(());
    };
    let Some(track) = tracks.iter_mut().find(|track| track.id == id) else {
        return Ok(());
    };
    let mut default = track.default;
    if flags & 0x08 != 0 {
        let before = if flags & 0x01 != 0 { 8 } else { 0 } + if flags & 0x02 != 0 { 4 } else { 0 };
        default = source.be32(header.start + 8 + before)?.unwrap_or(0);
    }
    if let Some(time) = inside(source, fragment, *b"tfdt")? {
        let width = if source.at(time.start, 1)? == [1] {
            8
        } else {
            4
        };
        track.reach = source.uint(time.start + 4, width, false)?.unwrap_or(0);
    }
    let mut at = fragment.start;
    while let Some(run) = child(source, at, fragment)? {
        at = run.end;
        if run.name == *b"trun" {
            track.reach = track
                .reach
                .saturating_add(run_duration(source, run, default)?);
        }
    }
    Ok(())
}

/// Returns the sum of the sample durations in a track run (section 8.8.8).
fn run_duration<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    run: Atom,
    default: u32,
) -> io::Result<u64> {
    let Some((flags, count)) = source.be32(run.start)?.zip(source.be32(run.start + 4)?) else {
        return Ok(0);
    };
    if flags & 0x100 == 0 {
        return Ok(u64::from(count) * u64::from(default));
    }
    let optional = |bits: u32| u64::from((flags & bits).count_ones()) * 4;
    let (mut at, step) = (run.start + 8 + optional(0x5), optional(0xf00));
    let mut sum = 0;
    for _ in 0..count {
        match source.be32(at)?.filter(|_| at < run.end) {
            Some(duration) => sum += u64::from(duration),
            None => break,
        }
        at += step;
    }
    Ok(sum)
}
