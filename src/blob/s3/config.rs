//! Defines the address of a bucket and its credentials.

use std::fmt;

use rusty_s3::{Bucket, Credentials, UrlStyle};
use url::Url;

/// URL style of the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S3Style {
    /// `https://endpoint/bucket/object`
    Path,
    /// `https://bucket.endpoint/object`
    Virtual,
}

/// Credentials; omitted from `Debug` output.
#[derive(Clone)]
pub struct S3Credentials(pub(super) Credentials);

impl S3Credentials {
    /// Creates credentials from an access key and its secret; temporary credentials also have a
    /// session token.
    #[must_use]
    pub fn new(key: &str, secret: &str, token: Option<&str>) -> Self {
        Self(match token {
            Some(token) => Credentials::new_with_token(key, secret, token),
            None => Credentials::new(key, secret),
        })
    }
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("S3Credentials")
    }
}

/// A validated bucket address with prefix and credentials.
#[derive(Clone, Debug)]
pub struct S3Config {
    pub(super) bucket: Bucket,
    pub(super) prefix: String,
    pub(super) credentials: S3Credentials,
}

impl S3Config {
    /// Creates the configuration of a bucket at an endpoint. All objects are stored below `prefix`,
    /// which is empty or ends in a slash.
    ///
    /// # Errors
    /// The reason why the bucket URL is invalid, as a sentence.
    pub fn new(
        endpoint: Url,
        style: S3Style,
        bucket: &str,
        region: String,
        prefix: String,
        credentials: S3Credentials,
    ) -> Result<Self, String> {
        let url_style = match style {
            S3Style::Path => UrlStyle::Path,
            S3Style::Virtual => UrlStyle::VirtualHost,
        };
        let valid_bucket =
            Bucket::new(endpoint, url_style, bucket.to_owned(), region).map_err(|error| {
                format!(
                    "bucket {bucket:?} and that endpoint do not form a URL ({error}); style=path may help"
                )
            })?;
        Ok(Self {
            bucket: valid_bucket,
            prefix,
            credentials,
        })
    }

    /// Returns the bucket location as shown to operators.
    #[must_use]
    pub fn location(&self) -> String {
        format!(
            "{}{} in region {}",
            self.bucket.base_url(),
            self.prefix,
            self.bucket.region()
        )
    }
}
