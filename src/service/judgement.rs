//! Looking at what a file holds before anybody else does.

use super::{Error, Service, uploads};
use crate::blob::{self, SealedBlob};
use crate::budget::AtCapacity;
use crate::convert::{self, Stripped, private};
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

/// Of failures that are the machine's and not the file's.
impl From<convert::Error> for InspectError {
    fn from(error: convert::Error) -> Self {
        use crate::sandbox::Error as Decoder;
        match error {
            convert::Error::Decoder(Decoder::TimedOut(_)) => AtCapacity::of_server().into(),
            convert::Error::Io(error) | convert::Error::Decoder(Decoder::Io(error)) => {
                blob::Error::of_read(error).into()
            }
            _ => blob::Error::Stopped.into(),
        }
    }
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
            // Before anything is stored: private metadata must not be found beside the file that recipients get.
            let _permit = self.budgets.inspections.reserve(&partner.to_string(), 1).await?;
            let stripped = self.converter.strip_metadata(sealed.content()?).await?;
            sealed.check()?;
            return Ok(match stripped {
                Stripped::File(file) => (self.seal_file(file).await?, judged),
                Stripped::Unchanged => (sealed, judged),
                Stripped::Refused(why) => {
                    let why = format!("places and serial numbers cannot be removed from this file: {why}");
                    (sealed, Err(Refusal::Unsupported(why)))
                }
            });
        }
        Ok((sealed, judged))
    }
}
