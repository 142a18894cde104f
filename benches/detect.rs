//! Benchmarks media type detection on the accepted files of `tests/corpus`. Run it with
//! `cargo bench --bench detect`; `bench/detect.sh` compares it with the `file` command.
//!
//! Prints one line per file with tab-separated columns: file, acceptable types, detected type, and
//! the time in microseconds with the file in memory, and with the file opened for each run.

use haversack::media::{Claim, Ingest, identify, resolve};
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Cursor, Read, Seek};
use std::path::Path;
use std::time::{Duration, Instant};

/// Duration of each measurement, in which detection is repeated: one run is too short for the
/// clock.
const MEASUREMENT: Duration = Duration::from_millis(5);

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let manifest = fs::read_to_string(corpus.join("manifest.tsv"))?;
    for line in manifest.lines().filter(|line| !line.starts_with('#')) {
        let mut columns = line.split('\t');
        let (Some(name), Some(expected)) = (columns.next(), columns.next()) else {
            continue;
        };
        if expected == "reject" {
            continue;
        }
        let others = line
            .split("alt=")
            .skip(1)
            .filter_map(|rest| rest.split([';', '\t']).next());
        let acceptable: Vec<_> = std::iter::once(expected).chain(others).collect();
        let path = corpus.join(name);
        let bytes = fs::read(&path)?;
        let detected = detect(Cursor::new(&bytes), name)?;
        let in_memory = microseconds(|| detect(Cursor::new(&bytes), name))?;
        let opened = microseconds(|| detect(File::open(&path)?, name))?;
        println!(
            "{name}\t{}\t{detected}\t{in_memory:.3}\t{opened:.3}",
            acceptable.join(",")
        );
    }
    Ok(())
}

/// Detects the type of a file from its content and filename, without a declared type.
fn detect(reader: impl Read + Seek, filename: &str) -> io::Result<&'static str> {
    let claim = Claim {
        filename,
        declared: None,
    };
    Ok(resolve(identify(reader)?, &claim, Ingest::Upload)
        .map_or("reject", |media_type| media_type.name))
}

fn microseconds(detect: impl Fn() -> io::Result<&'static str>) -> io::Result<f64> {
    let start = Instant::now();
    let mut runs = 0_u32;
    while start.elapsed() < MEASUREMENT {
        black_box(detect()?);
        runs += 1;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(runs))
}
