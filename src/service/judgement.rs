//! Looking at what a file holds before anybody else does.

use super::Service;
use crate::blob::{self, SealedBlob};
use crate::media::{self, Measures, MediaType, Names, Refusal, Route};

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
        sealed: Box<dyn SealedBlob>,
        filename: String,
        declared: Option<&'static MediaType>,
        route: Route,
    ) -> Result<(Box<dyn SealedBlob>, Result<Judged, Refusal>), blob::Error> {
        let _turn = self.judging.acquire().await.expect("never closed");
        let judge = move || {
            let found = media::identify(sealed.content()?).map_err(blob::Error::Unreadable)?;
            let judged = match media::settle(found, &Names { filename: &filename, declared }, route) {
                Ok(media_type) => Ok(Judged { media_type, measures: media::measure(sealed.content()?, media_type) }),
                Err(refusal) => Err(refusal),
            };
            Ok((sealed, judged))
        };
        let (sealed, judged) = tokio::task::spawn_blocking(judge).await.map_err(|_| blob::Error::Stopped)??;
        self.metrics.judged(judged.as_ref().map_or("refused", |judged| judged.media_type.name));
        Ok((sealed, judged))
    }
}
