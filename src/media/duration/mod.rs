//! Durations of sound and films.

pub(crate) mod audio;
pub(crate) mod mp4;
