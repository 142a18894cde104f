//! Analyses audio: determines its channels, sample rate and waveform.

use std::io::{self, Read, Seek, SeekFrom};

use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream};
use symphonia::core::meta::MetadataOptions;

use super::AudioAnalysis;
use crate::blob::RandomAccess;
use crate::domain::attachment::{AudioInfo, WAVEFORM_POINTS};

/// Decodes and analyses the audio in a file. An unsupported format is reported as unknown.
pub(crate) fn analyze_audio(content: Box<dyn RandomAccess>) -> AudioAnalysis {
    decode(content).unwrap_or(AudioAnalysis::Unknown)
}

/// Decodes and analyses the audio in a file. Returns `None` if its format or codec is not
/// supported.
fn decode(content: Box<dyn RandomAccess>) -> Option<AudioAnalysis> {
    let source = MediaSourceStream::new(
        Box::new(Source(content)),
        symphonia::core::io::MediaSourceStreamOptions::default(),
    );
    let mut format = symphonia::default::get_probe()
        .probe(
            &Hint::new(),
            source,
            FormatOptions::default(),
            MetadataOptions::default(),
        )
        .ok()?;
    let track = format.default_track(TrackType::Audio)?;
    let (id, parameters) = (track.id, track.codec_params.as_ref()?.audio()?.clone());
    let options = AudioDecoderOptions::default();
    let mut decoder = symphonia::default::get_codecs()
        .make_audio_decoder(&parameters, &options)
        .ok()?;
    let (mut peaks, mut found, mut samples) = (Peaks::default(), None, Vec::new());
    // A truncated file ends in an error, which is treated as the end of the audio.
    while let Ok(Some(packet)) = format.next_packet() {
        if packet.track_id != id {
            continue;
        }
        let Ok(buffer) = decoder.decode(&packet) else {
            continue;
        };
        let spec = buffer.spec();
        let channels = u32::try_from(spec.channels().count()).ok()?;
        found = Some((channels, spec.rate()));
        buffer.copy_to_vec_interleaved::<f32>(&mut samples);
        for frame in samples.chunks(spec.channels().count().max(1)) {
            peaks.push(
                frame
                    .iter()
                    .fold(0.0, |peak: f32, sample| peak.max(sample.abs())),
            );
        }
    }
    Some(match (found, peaks.waveform()) {
        (Some((channels, sample_rate)), Some(waveform)) => AudioAnalysis::Decoded(AudioInfo {
            channels,
            sample_rate,
            waveform,
        }),
        _ => AudioAnalysis::Undecodable,
    })
}

/// Collects the peaks of blocks of audio frames. When the maximum number of blocks is reached, they
/// are merged in pairs, and later blocks cover twice as many frames. Memory thus does not grow with
/// the length of the audio.
#[derive(Debug)]
pub(crate) struct Peaks {
    blocks: Vec<f32>,
    frames_per_block: usize,
    in_block: usize,
}

impl Default for Peaks {
    fn default() -> Self {
        Self {
            blocks: Vec::new(),
            frames_per_block: 1,
            in_block: 0,
        }
    }
}

impl Peaks {
    /// Maximum number of blocks; a power of two, so that blocks can be merged in pairs.
    const MAX_BLOCKS: usize = 1 << 14;

    /// Adds the peak of one audio frame, from 0 to 1.
    pub(crate) fn push(&mut self, peak: f32) {
        if self.in_block == 0 {
            if self.blocks.len() == Self::MAX_BLOCKS {
                self.blocks = self
                    .blocks
                    .chunks(2)
                    .map(|pair| pair[0].max(pair[1]))
                    .collect();
                self.frames_per_block *= 2;
            }
            self.blocks.push(0.0);
        }
        let block = self.blocks.last_mut().expect("a block was pushed");
        *block = block.max(peak);
        self.in_block = (self.in_block + 1) % self.frames_per_block;
    }

    /// Returns the peaks of audio slices of equal length, scaled to 0 to 255, or `None` if there
    /// was no frame.
    pub(crate) fn waveform(&self) -> Option<Vec<u8>> {
        let count = self.blocks.len();
        if count == 0 {
            return None;
        }
        let slice = |n: usize| {
            let first = n * count / WAVEFORM_POINTS;
            let last = ((n + 1) * count / WAVEFORM_POINTS).max(first + 1);
            let peak = self.blocks[first..last]
                .iter()
                .fold(0.0, |peak: f32, block| peak.max(*block));
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is between 0 and 255"
            )]
            let point = (peak.clamp(0.0, 1.0) * 255.0).round() as u8;
            point
        };
        Some((0..WAVEFORM_POINTS).map(slice).collect())
    }
}

/// Adapts a stored file to the source trait of `symphonia`.
struct Source(Box<dyn RandomAccess>);

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

impl MediaSource for Source {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        self.0.size().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waveform_has_peak_of_each_slice() {
        let mut peaks = Peaks::default();
        assert_eq!(peaks.waveform(), None);
        peaks.push(0.5);
        assert_eq!(peaks.waveform(), Some(vec![128; WAVEFORM_POINTS]));
        for frames in [64 * 3, 100_000, 1_000_000] {
            let mut peaks = Peaks::default();
            (0..frames).for_each(|n| peaks.push(if n == frames / 2 { 2.0 } else { 0.0 }));
            assert!(peaks.blocks.len() <= Peaks::MAX_BLOCKS);
            let waveform = peaks.waveform().expect("a waveform");
            let loud: Vec<usize> = (0..WAVEFORM_POINTS)
                .filter(|slice| waveform[*slice] > 0)
                .collect();
            assert!(loud == [31] || loud == [32], "{frames}: {waveform:?}");
        }
    }
}
