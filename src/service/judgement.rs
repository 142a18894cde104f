//! Looking at what a file holds before anybody else does.

use std::fs::File;
use std::io;

use super::{Error, Service, uploads};
use crate::blob::{self, SealedBlob};
use crate::budget::AtCapacity;
use crate::convert::private;
use crate::id::PartnerId;
use crate::media::{self, Measures, MediaType, Names, Refusal, Route};

/// Why a file could not be inspected; this says nothing of the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum InspectError {
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
    #[error(transparent)]
    Blob(#[from] blob::Error),
}

impl From<InspectError> for Error {
    fn from(error: InspectError) -> Self {
        match error {
            InspectError::AtCapacity(refused) => refused.into(),
            InspectError::Blob(error) => error.into(),
        }
    }
}

impl From<InspectError> for uploads::Error {
    fn from(error: InspectError) -> Self {
        match error {
            InspectError::AtCapacity(refused) => refused.into(),
            InspectError::Blob(error) => error.into(),
        }
    }
}

/// What a file was found to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judged {
    /// Its type.
    pub media_type: &'static MediaType,
    /// What could be measured.
    pub measures: Measures,
}

impl Service {
    /// Finds out what a file is, and whether that fits its name and declared type.
    ///
    /// # Errors
    /// It cannot be read. What it holds is never an error here, but a [`Refusal`] inside.
    pub(super) async fn judge(
        &self,
        partner: PartnerId,
        sealed: Box<dyn SealedBlob>,
        filename: String,
        declared: Option<&'static MediaType>,
        route: Route,
    ) -> Result<(Box<dyn SealedBlob>, Result<Judged, Refusal>), InspectError> {
        let permit = self.budgets.inspections.reserve(&partner.to_string(), 1).await?;
        let judge = move || {
            // Held until the blocking task ends, even if the caller was cancelled.
            let _permit = permit;
            let found = media::identify(sealed.content()?).map_err(blob::Error::of_read)?;
            let judged = match media::settle(found, &Names { filename: &filename, declared }, route) {
                Ok(media_type) => Ok(Judged { media_type, measures: media::measure(sealed.content()?, media_type) }),
                Err(refusal) => Err(refusal),
            };
            sealed.check()?;
            Ok::<_, blob::Error>((sealed, judged))
        };
        let (sealed, judged) = tokio::task::spawn_blocking(judge).await.map_err(|_| blob::Error::Stopped)??;
        self.metrics.judged(judged.as_ref().map_or("refused", |judged| judged.media_type.name));
        if let Ok(Judged { media_type, .. }) = &judged
            && self.strip_private_metadata
            && private::may_tell(media_type.name)
        {
            return Ok(match self.without_private_metadata(partner, sealed).await? {
                (sealed, Cleaned::File(file)) => {
                    drop(sealed);
                    (self.seal_file(file).await?, judged)
                }
                (sealed, Cleaned::AsItIs) => (sealed, judged),
                (sealed, Cleaned::Refused(why)) => (sealed, Err(Refusal::Unsupported(why))),
            });
        }
        Ok((sealed, judged))
    }

    /// Before anything is stored: what recipients must not learn must not be found beside what they get.
    async fn without_private_metadata(
        &self,
        partner: PartnerId,
        sealed: Box<dyn SealedBlob>,
    ) -> Result<(Box<dyn SealedBlob>, Cleaned), InspectError> {
        let folder = self.converter.folder().to_owned();
        let permit = self.budgets.inspections.reserve(&partner.to_string(), 1).await?;
        let clean = move || {
            let _permit = permit;
            let cleaned = match private::cleaned(&mut *sealed.content()?, &folder) {
                Ok(Some(file)) => Cleaned::File(file),
                Ok(None) => Cleaned::AsItIs,
                // What cannot be cleaned must not pass.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    Cleaned::Refused(format!("the file has {error}, so places and serial numbers cannot be removed"))
                }
                Err(error) => return Err(blob::Error::of_read(error)),
            };
            sealed.check()?;
            Ok::<_, blob::Error>((sealed, cleaned))
        };
        Ok(tokio::task::spawn_blocking(clean).await.map_err(|_| blob::Error::Stopped)??)
    }
}

/// What became of a file that may tell.
enum Cleaned {
    /// This is to be kept instead.
    File(File),
    /// It tells nothing.
    AsItIs,
    /// It cannot be cleaned, and why.
    Refused(String),
}
