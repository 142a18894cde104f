//! Durations of audio and video.

pub(crate) mod audio;
pub(crate) mod mp4;
