//! Looking at what a file holds before anybody else does.

use super::upload;
use crate::blob::{self, StagedBlob};
use crate::budget::AtCapacity;
use crate::id::PartnerId;
use crate::media::{self, Claim, Ingest, MediaInfo, MediaType, Rejection};
use crate::service::{Error, Service};
use crate::transcode::{self, Stripped, strip_metadata};

/// Why a file could not be inspected; this says nothing of the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InspectError {
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
    #[error(transparent)]
    Blob(#[from] blob::Error),
}

/// Of failures that are the machine's and not the file's.
impl From<transcode::Error> for InspectError {
    fn from(error: transcode::Error) -> Self {
        use crate::sandbox::Error as Decoder;
        match error {
            transcode::Error::Decoder(Decoder::TimedOut(_)) => AtCapacity::of_server().into(),
            transcode::Error::Io(error) | transcode::Error::Decoder(Decoder::Io(error)) => {
                blob::Error::from_read(error).into()
            }
            _ => blob::Error::TaskFailed.into(),
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

impl From<InspectError> for upload::Error {
    fn from(error: InspectError) -> Self {
        match error {
            InspectError::AtCapacity(refused) => refused.into(),
            InspectError::Blob(error) => error.into(),
        }
    }
}

/// What a file was found to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inspected {
    /// Its type.
    pub media_type: &'static MediaType,
    /// What could be measured.
    pub media_info: MediaInfo,
}

impl Service {
    /// Finds out what a file is, and whether that fits its name and declared type.
    ///
    /// # Errors
    /// It cannot be read. What it holds is never an error here, but a [`Rejection`] inside.
    pub(crate) async fn inspect(
        &self,
        partner: PartnerId,
        sealed: Box<dyn StagedBlob>,
        filename: String,
        declared: Option<&'static MediaType>,
        route: Ingest,
    ) -> Result<(Box<dyn StagedBlob>, Result<Inspected, Rejection>), InspectError> {
        let permit = self
            .budgets
            .inspections
            .reserve(&partner.to_string(), 1)
            .await?;
        let inspect = move || {
            // Held until the blocking task ends, even if the caller was cancelled.
            let _permit = permit;
            let found = media::identify(sealed.content()?).map_err(blob::Error::from_read)?;
            let inspected = match media::resolve(
                found,
                &Claim {
                    filename: &filename,
                    declared,
                },
                route,
            ) {
                Ok(media_type) => Ok(Inspected {
                    media_type,
                    media_info: media::probe(sealed.content()?, media_type),
                }),
                Err(refusal) => Err(refusal),
            };
            sealed.check()?;
            Ok::<_, blob::Error>((sealed, inspected))
        };
        let (sealed, inspected) = tokio::task::spawn_blocking(inspect)
            .await
            .map_err(|_| blob::Error::TaskFailed)??;
        self.metrics.inspected(
            inspected
                .as_ref()
                .map_or("refused", |inspected| inspected.media_type.name),
        );
        if let Ok(Inspected { media_type, .. }) = &inspected
            && self.strip_private_metadata
            && strip_metadata::may_contain_metadata(media_type.name)
        {
            // Before anything is stored: private metadata must not be found beside the file that recipients get.
            let _permit = self
                .budgets
                .inspections
                .reserve(&partner.to_string(), 1)
                .await?;
            let stripped = self.converter.strip_metadata(sealed.content()?).await?;
            sealed.check()?;
            return Ok(match stripped {
                Stripped::File(file) => (self.stage_file(file).await?, inspected),
                Stripped::Unchanged => (sealed, inspected),
                Stripped::Refused(why) => {
                    let why = format!(
                        "places and serial numbers cannot be removed from this file: {why}"
                    );
                    (sealed, Err(Rejection::Unsupported(why)))
                }
            });
        }
        Ok((sealed, inspected))
    }
}
