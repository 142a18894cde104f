//! Inspects a complete file before it is published: determines its type, dimensions and duration,
//! and removes private metadata.

use super::{Attachments, Error, upload};
use crate::blob::{self, StagedBlob};
use crate::budget::AtCapacity;
use crate::id::PartnerId;
use crate::media::{self, Claim, Ingest, MediaInfo, MediaType, Rejection};
use crate::transcode::{self, Stripped, strip_metadata};

/// Reasons why a file could not be inspected, other than the file's content.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InspectError {
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
    #[error(transparent)]
    Blob(#[from] blob::Error),
}

/// Converts conversion errors that the machine caused, not the file.
impl From<transcode::Error> for InspectError {
    fn from(error: transcode::Error) -> Self {
        use crate::sandbox::Error as Decoder;
        match error {
            transcode::Error::Decoder(Decoder::TimedOut(_)) => AtCapacity::server().into(),
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

/// Properties of an accepted file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inspected {
    pub media_type: &'static MediaType,
    pub media_info: MediaInfo,
}

impl Attachments {
    /// Inspects a file and checks it against its filename and declared type. Returns the inspected
    /// file: a rewritten one if private metadata was removed, otherwise the given one.
    ///
    /// # Errors
    /// The file cannot be read, or a budget is used up. A file of a type that is not accepted is
    /// not an error: it results in a [`Rejection`].
    pub(crate) async fn inspect(
        &self,
        partner: PartnerId,
        staged: Box<dyn StagedBlob>,
        filename: String,
        declared: Option<&'static MediaType>,
        ingest: Ingest,
    ) -> Result<(Box<dyn StagedBlob>, Result<Inspected, Rejection>), InspectError> {
        let permit = self.inspections.reserve(&partner.to_string(), 1).await?;
        let inspect = move || {
            // The permit is held until the blocking task ends, even if the caller is cancelled.
            let _permit = permit;
            let claim = Claim {
                filename: &filename,
                declared,
            };
            let inspected = identify(&*staged, &claim, ingest)?;
            staged.check()?;
            Ok::<_, blob::Error>((staged, inspected))
        };
        let (staged, inspected) = tokio::task::spawn_blocking(inspect)
            .await
            .map_err(|_| blob::Error::TaskFailed)??;
        self.metrics.inspected(
            inspected
                .as_ref()
                .map_or("refused", |inspected| inspected.media_type.name),
        );
        match inspected {
            Ok(inspected) if self.strips_metadata(inspected.media_type) => {
                self.strip_metadata(partner, staged, inspected).await
            }
            inspected => Ok((staged, inspected)),
        }
    }

    fn strips_metadata(&self, media_type: &MediaType) -> bool {
        self.config.strip_private_metadata && strip_metadata::may_contain_metadata(media_type.name)
    }

    /// Removes locations and serial numbers from a file. This must happen before the file is
    /// published, as the store must not keep a copy with private metadata.
    async fn strip_metadata(
        &self,
        partner: PartnerId,
        staged: Box<dyn StagedBlob>,
        inspected: Inspected,
    ) -> Result<(Box<dyn StagedBlob>, Result<Inspected, Rejection>), InspectError> {
        let _permit = self.inspections.reserve(&partner.to_string(), 1).await?;
        let stripped = self.converter.strip_metadata(staged.content()?).await?;
        staged.check()?;
        Ok(match stripped {
            Stripped::File(file) => (self.stage_file(file).await?, Ok(inspected)),
            Stripped::Unchanged => (staged, Ok(inspected)),
            Stripped::Refused(why) => {
                let why =
                    format!("places and serial numbers cannot be removed from this file: {why}");
                (staged, Err(Rejection::Unsupported(why)))
            }
        })
    }
}

/// Determines a file's type and reads its dimensions and duration. Blocks the thread.
fn identify(
    staged: &dyn StagedBlob,
    claim: &Claim<'_>,
    ingest: Ingest,
) -> Result<Result<Inspected, Rejection>, blob::Error> {
    let detected = media::identify(staged.content()?).map_err(blob::Error::from_read)?;
    let media_type = match media::resolve(detected, claim, ingest) {
        Ok(media_type) => media_type,
        Err(rejection) => return Ok(Err(rejection)),
    };
    Ok(Ok(Inspected {
        media_type,
        media_info: media::probe(staged.content()?, media_type),
    }))
}
