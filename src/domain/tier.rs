//! Defines the retention tiers of files: persistent, or ephemeral with a fixed lifetime.

use std::time::Duration;

use crate::clock::Timestamp;

/// Lifetime of an ephemeral file, counted from the end of its upload.
///
/// The API promises deletion of bytes and metadata between 24 and 48 hours after the upload. The
/// middle of that interval tolerates a clock error or jump of almost 12 hours in either direction.
/// Deleting the row and the bytes takes the sweeper less than a minute of the last 12 hours.
pub const EPHEMERAL_LIFE: Duration = Duration::from_hours(36);

/// Upper bound of the upload window of an ephemeral file, whatever the setting. An unused file
/// uploaded at the start of its window must also be deleted within the promised 48 hours.
pub const MAX_EPHEMERAL_WINDOW: Duration = Duration::from_hours(6);

/// Lifetime of the signed URL of an ephemeral file (Linq Partner API v3, ephemeral tier).
pub const FILE_URL_LIFE: Duration = Duration::from_mins(15);

/// Retention policy of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Kept until deleted explicitly.
    Persistent,
    /// Deleted after [`EPHEMERAL_LIFE`].
    Ephemeral,
}

impl Tier {
    /// Returns the name used by operators.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Persistent => "persistent",
            Self::Ephemeral => "ephemeral",
        }
    }

    /// Parses a name returned by [`Self::as_str`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Persistent, Self::Ephemeral]
            .into_iter()
            .find(|tier| tier.as_str() == name)
    }

    /// Returns the expiry of a file uploaded at `came_at`; `None` for files that do not expire.
    #[must_use]
    pub fn expires_at(self, came_at: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Persistent => None,
            Self::Ephemeral => Some(came_at + EPHEMERAL_LIFE),
        }
    }
}
