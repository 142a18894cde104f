//! Inspection of a complete file before it is published: its type, its dimensions and duration, and
//! the removal of private metadata.

use super::{Attachments, Error, upload};
use crate::blob::{self, StagedBlob};
use crate::budget::AtCapacity;
use crate::id::PartnerId;
use crate::media::{self, Claim, Ingest, MediaInfo, MediaType, Rejection};
use crate::transcode::{self, Stripped, strip_metadata};

/// Failure to inspect a file, unrelated to what the file contains.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InspectError {
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
    #[error(transparent)]
    Blob(#[from] blob::Error),
}

/// For failures whose cause is the machine and not the file.
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
    /// Inspects a file and checks it against its filename and declared type. Returns the file,
    /// which is another one if private metadata was removed.
    ///
    /// # Errors
    /// The file cannot be read, or a budget is used up. A file that is not accepted is not
    /// an error but a [`Rejection`].
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
            // Held until the blocking task ends, even if the caller was cancelled.
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

    /// Removes locations and serial numbers before anything is published: they must not remain in
    /// the store beside the file that recipients get.
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

/// Determines the type of a file and probes it. Blocks.
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
