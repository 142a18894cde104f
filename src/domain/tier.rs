//! How long files are kept: for good, or for a day or two.

use std::time::Duration;

use crate::clock::Timestamp;

/// How long an ephemeral file is there, from the moment its bytes are.
///
/// The promise is that bytes and metadata are gone between 24 and 48 hours after the upload. This is the middle, so that
/// the clock may be wrong by almost 12 hours either way, or jump by that at any time, and the promise still holds. What
/// is left to do at that moment, removing row and bytes, takes the sweeper less than a minute of the last 12 hours.
pub const EPHEMERAL_LIFE: Duration = Duration::from_hours(36);

/// The longest upload window of an ephemeral file, whatever the setting says: what is uploaded at its start and not asked
/// for until it is gone must be gone in time as well.
pub const LONGEST_EPHEMERAL_WINDOW: Duration = Duration::from_hours(6);

/// How long the URL of an ephemeral file is good (Linq Partner API v3, ephemeral tier).
pub const FILE_URL_LIFE: Duration = Duration::from_mins(15);

/// Whether files are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Until they are deleted.
    Persistent,
    /// For [`EPHEMERAL_LIFE`].
    Ephemeral,
}

impl Tier {
    /// The name operators use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Persistent => "persistent",
            Self::Ephemeral => "ephemeral",
        }
    }

    /// By that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Persistent, Self::Ephemeral].into_iter().find(|tier| tier.as_str() == name)
    }

    /// When a file is gone that came at a moment; `None`: never.
    #[must_use]
    pub fn purge_at(self, came_at: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Persistent => None,
            Self::Ephemeral => Some(came_at + EPHEMERAL_LIFE),
        }
    }
}
