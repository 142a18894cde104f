//! How long a movie is (ISO/IEC 14496-12), whole or in fragments. Reads no samples.

use super::isobmff::{Atom, atom, find};
use super::source::Source;
use std::io::{self, Read, Seek};

/// Fragments and runs that are looked at; a day of recording in pieces of a second has about as many.
const STEPS: u32 = 200_000;
/// Samples whose durations are added up one by one.
const SAMPLES: u32 = 8_000_000;

/// A track, and how far its fragments reach.
struct Track {
    id: u32,
    timescale: u32,
    /// Of a sample, where neither run nor fragment say.
    default: u32,
    reach: u64,
}

/// The duration in milliseconds.
pub(super) fn duration<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Option<u64>> {
    let len = source.len();
    let Some(movie) = find(source, 0, len, *b"moov")? else { return Ok(None) };
    let Some(header) = find(source, movie.start, movie.end, *b"mvhd")? else { return Ok(None) };
    let (timescale, whole) = times(source, header.start)?;
    let Some(extends) = find(source, movie.start, movie.end, *b"mvex")? else {
        return Ok(millis(whole, timescale));
    };
    if let Some(header) = find(source, extends.start, extends.end, *b"mehd")? {
        let width = if source.at(header.start, 1)? == [1] { 8 } else { 4 };
        let fragmented = source.uint(header.start + 4, width, false)?.unwrap_or(0);
        if let Some(millis) = millis(fragmented, timescale) {
            return Ok(Some(millis));
        }
    }
    let mut tracks = tracks(source, movie, extends)?;
    fragments(source, movie.end, &mut tracks)?;
    let longest = tracks.iter().filter_map(|track| millis(track.reach, track.timescale)).max();
    Ok(longest.max(millis(whole, timescale)))
}

/// Units as milliseconds, where that makes sense.
fn millis(units: u64, timescale: u32) -> Option<u64> {
    let millis = u128::from(units) * 1000 / u128::from(timescale).max(1);
    u64::try_from(millis).ok().filter(|&millis| millis > 0 && timescale > 0)
}

/// Timescale and duration of a movie header or a media header (sections 8.2.2 and 8.4.2), which start alike. All ones
/// is an unknown duration.
fn times<R: Read + Seek>(source: &mut Source<R>, at: u64) -> io::Result<(u32, u64)> {
    let (scale, width) = if source.at(at, 1)? == [1] { (20, 8) } else { (12, 4) };
    let timescale = source.be32(at + scale)?.unwrap_or(0);
    let duration = source.uint(at + scale + 4, width, false)?.unwrap_or(0);
    let unknown = if width == 8 { u64::MAX } else { u64::from(u32::MAX) };
    Ok((timescale, if duration == unknown { 0 } else { duration }))
}

/// The tracks of the movie, each with what it has of its own before the fragments.
fn tracks<R: Read + Seek>(source: &mut Source<R>, movie: Atom, extends: Atom) -> io::Result<Vec<Track>> {
    let mut tracks = Vec::new();
    let mut at = movie.start;
    while let Some(child) = atom(source, at, movie.end)?.filter(|_| tracks.len() < 100) {
        at = child.end;
        if child.name != *b"trak" {
            continue;
        }
        let child = Atom { end: child.end.min(movie.end), ..child };
        let Some(header) = find(source, child.start, child.end, *b"tkhd")? else { continue };
        let Some(media) = find(source, child.start, child.end, *b"mdia")? else { continue };
        let Some(media) = find(source, media.start, media.end, *b"mdhd")? else { continue };
        let id = if source.at(header.start, 1)? == [1] { 20 } else { 12 };
        let Some(id) = source.be32(header.start + id)? else { continue };
        let (timescale, reach) = times(source, media.start)?;
        tracks.push(Track { id, timescale, default: 0, reach });
    }
    let mut at = extends.start;
    for _ in 0..100 {
        let Some(child) = atom(source, at, extends.end)? else { break };
        at = child.end;
        let track = source.be32(child.start + 4)?;
        if let Some(track) = tracks.iter_mut().find(|known| child.name == *b"trex" && Some(known.id) == track) {
            track.default = source.be32(child.start + 12)?.unwrap_or(0);
        }
    }
    Ok(tracks)
}

/// Follows the fragments (section 8.8) from `at` on.
fn fragments<R: Read + Seek>(source: &mut Source<R>, mut at: u64, tracks: &mut [Track]) -> io::Result<()> {
    let len = source.len();
    let (mut steps, mut samples) = (STEPS, SAMPLES);
    while let Some(fragment) = atom(source, at, len)? {
        at = fragment.end;
        let mut inner = fragment.start;
        while fragment.name == *b"moof"
            && let Some(child) = atom(source, inner, fragment.end.min(len))?
        {
            inner = child.end;
            // Not beyond its parent, or the same bytes could be gone through again and again.
            let child = Atom { end: child.end.min(fragment.end), ..child };
            if child.name == *b"traf" {
                track_fragment(source, child, tracks, &mut steps, &mut samples)?;
            }
            let Some(left) = steps.checked_sub(1) else { return Ok(()) };
            steps = left;
        }
        let Some(left) = steps.checked_sub(1) else { return Ok(()) };
        steps = left;
    }
    Ok(())
}

fn track_fragment<R: Read + Seek>(
    source: &mut Source<R>,
    fragment: Atom,
    tracks: &mut [Track],
    steps: &mut u32,
    samples: &mut u32,
) -> io::Result<()> {
    let Some(header) = find(source, fragment.start, fragment.end, *b"tfhd")? else { return Ok(()) };
    let Some((flags, id)) = source.be32(header.start)?.zip(source.be32(header.start + 4)?) else { return Ok(()) };
    let Some(track) = tracks.iter_mut().find(|track| track.id == id) else { return Ok(()) };
    let mut default = track.default;
    if flags & 0x08 != 0 {
        let before = if flags & 0x01 != 0 { 8 } else { 0 } + if flags & 0x02 != 0 { 4 } else { 0 };
        default = source.be32(header.start + 8 + before)?.unwrap_or(0);
    }
    if let Some(time) = find(source, fragment.start, fragment.end, *b"tfdt")? {
        let width = if source.at(time.start, 1)? == [1] { 8 } else { 4 };
        track.reach = source.uint(time.start + 4, width, false)?.unwrap_or(0);
    }
    let mut at = fragment.start;
    while let Some(run) = atom(source, at, fragment.end)?.filter(|_| *steps > 0) {
        at = run.end;
        *steps -= 1;
        if run.name == *b"trun" {
            track.reach = track.reach.saturating_add(run_duration(source, run, default, samples)?);
        }
    }
    Ok(())
}

/// The sum of the durations of a run's samples (section 8.8.8).
fn run_duration<R: Read + Seek>(source: &mut Source<R>, run: Atom, default: u32, samples: &mut u32) -> io::Result<u64> {
    let Some((flags, count)) = source.be32(run.start)?.zip(source.be32(run.start + 4)?) else { return Ok(0) };
    if flags & 0x100 == 0 {
        return Ok(u64::from(count) * u64::from(default));
    }
    let optional = |bits: u32| u64::from((flags & bits).count_ones()) * 4;
    let (mut at, step) = (run.start + 8 + optional(0x5), optional(0xf00));
    let mut sum = 0;
    for _ in 0..count.min(*samples) {
        match source.be32(at)?.filter(|_| at < run.end) {
            Some(duration) => sum += u64::from(duration),
            None => break,
        }
        at += step;
        *samples -= 1;
    }
    Ok(sum)
}
