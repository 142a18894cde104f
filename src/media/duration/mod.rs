//! Determines the duration of audio and video files.

pub(crate) mod audio;
pub(crate) mod mp4;
