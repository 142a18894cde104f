//! Calls the API for `haversack send`. The server receives the API key and the files, but is not
//! trusted beyond that: responses are bounded in size and time, redirects are not followed, and no
//! other origin receives the key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::terminal::ServerText;
use crate::domain::base_url::BaseUrl;

/// Maximum size of a response body, in bytes.
const MAX_RESPONSE: usize = 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Minimum average upload rate, in bytes per second; slower uploads are aborted.
const MIN_UPLOAD_RATE: u64 = 1024;

pub(super) struct ApiClient {
    http: Client,
    base: BaseUrl,
    api_key: String,
    /// Maximum wait for a response header, for a response body, and for the server to accept a
    /// chunk of an upload.
    timeout: Duration,
}

/// Upload instructions in the response to `POST /v3/attachments`.
#[derive(Deserialize)]
pub(super) struct Upload {
    pub(super) attachment_id: ServerText,
    #[serde(rename = "upload_url")]
    url: ServerText,
    required_headers: BTreeMap<String, ServerText>,
}

/// Request body of an upload.
pub(super) struct Body {
    pub(super) content: reqwest::Body,
    pub(super) content_type: &'static str,
    pub(super) size: u64,
    /// Number of bytes that the server has accepted so far.
    pub(super) taken: Arc<AtomicU64>,
}

#[derive(Deserialize)]
struct Failure {
    error: FailureDetail,
    trace_id: ServerText,
}

#[derive(Deserialize)]
struct FailureDetail {
    code: u16,
    message: ServerText,
}

impl ApiClient {
    pub(super) fn new(base_url: &str, api_key: &str, timeout: Duration) -> anyhow::Result<Self> {
        // Fails if a crypto provider is already installed, which works equally well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = base_url
            .parse::<BaseUrl>()
            .map_err(|error| anyhow::anyhow!("--base-url: {error}"))?;
        if has_credentials(base.as_url()) {
            bail!("--base-url must hold no user name or password; give the key with --api-key");
        }
        let http = Client::builder()
            .user_agent(concat!("haversack/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(Policy::none())
            // Without HTTP/2, a server cannot send frames that the client would have to buffer.
            .http1_only()
            .build()?;
        Ok(Self {
            http,
            base,
            api_key: api_key.to_owned(),
            timeout,
        })
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.call(self.http.request(Method::GET, self.base.join(path)))
            .await
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<T> {
        self.call(
            self.http
                .request(Method::POST, self.base.join(path))
                .json(body),
        )
        .await
    }

    /// Uploads a file to the URL that the API returned. The API key is not sent.
    pub(super) async fn put(&self, upload: &Upload, body: Body) -> anyhow::Result<()> {
        let url = upload_url(self.base.as_url(), &upload.url)?;
        let headers = upload_headers(&upload.required_headers, body.content_type, body.size)?;
        let request = self
            .http
            .put(url)
            .headers(headers)
            .body(body.content)
            .send();
        let response = self
            .upload_response(request, body.size, &body.taken)
            .await?;
        let status = response.status();
        if !status.is_success() {
            let text = self.body(response).await?;
            bail!(
                "the upload was refused with {status}: {}",
                ServerText::new(String::from_utf8_lossy(&text))
            );
        }
        Ok(())
    }

    /// Waits for the response to an upload while the server keeps accepting its body.
    async fn upload_response(
        &self,
        response: impl Future<Output = reqwest::Result<Response>>,
        size: u64,
        taken: &AtomicU64,
    ) -> anyhow::Result<Response> {
        let mut response = std::pin::pin!(response);
        let deadline =
            Instant::now() + 2 * self.timeout + Duration::from_secs(size / MIN_UPLOAD_RATE);
        let mut before = 0;
        loop {
            if let Ok(finished) = timeout(self.timeout, &mut response).await {
                return finished
                    .map_err(reqwest::Error::without_url)
                    .context("the upload was interrupted");
            }
            let now = taken.load(Ordering::Relaxed);
            if now == before {
                bail!(
                    "the server accepted no byte of the upload for {} s",
                    self.timeout.as_secs()
                );
            }
            if Instant::now() >= deadline {
                bail!(
                    "the server accepts less than {MIN_UPLOAD_RATE} bytes of the upload per second"
                );
            }
            before = now;
        }
    }

    async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let base = self.base.as_url();
        let seconds = self.timeout.as_secs();
        let response = timeout(self.timeout, request.bearer_auth(&self.api_key).send())
            .await
            .with_context(|| format!("{base} did not respond within {seconds} s"))?
            .map_err(reqwest::Error::without_url)
            .with_context(|| format!("cannot reach {base}: is haversack serve running?"))?;
        let status = response.status();
        if status.is_redirection() {
            bail!(
                "{base} answered {status}: redirects are not followed, because they would receive the API key"
            );
        }
        let body = self.body(response).await?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .with_context(|| format!("unexpected response from {base}"));
        }
        match serde_json::from_slice::<Failure>(&body) {
            Ok(Failure { error, trace_id }) => {
                bail!(
                    "{} (HTTP {}, code {}, trace {trace_id})",
                    error.message,
                    status.as_u16(),
                    error.code
                )
            }
            Err(_) => bail!("{base} answered {status}"),
        }
    }

    /// Reads a response body. Fails if it exceeds the maximum size or the timeout.
    async fn body(&self, mut response: Response) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        let read = async {
            while let Some(chunk) = response
                .chunk()
                .await
                .map_err(reqwest::Error::without_url)?
            {
                if body.len() + chunk.len() > MAX_RESPONSE {
                    bail!(
                        "the server's response is larger than {} MiB",
                        MAX_RESPONSE / 1024 / 1024
                    );
                }
                body.extend_from_slice(&chunk);
            }
            Ok(())
        };
        let seconds = self.timeout.as_secs();
        timeout(self.timeout, read)
            .await
            .with_context(|| format!("the response was not complete after {seconds} s"))??;
        Ok(body)
    }
}

fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// Validates an upload URL that the server returned: https is required if the API uses https, and
/// credentials in the URL are refused, because they would be sent as `Authorization`.
fn upload_url(base: &Url, url: &ServerText) -> anyhow::Result<Url> {
    let parsed = Url::parse(url.as_sent())
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"));
    let parsed =
        parsed.with_context(|| format!("the upload URL {url} is not an http or https URL"))?;
    if has_credentials(&parsed) {
        bail!("the upload URL holds a user name or password");
    }
    if base.scheme() == "https" && parsed.scheme() != "https" {
        bail!("the upload URL is not https, although the API is");
    }
    Ok(parsed)
}

/// Returns the request headers of an upload. Refuses required headers that a presigned PUT does not
/// need, because a hostile server could otherwise make the client send any header.
fn upload_headers(
    required: &BTreeMap<String, ServerText>,
    content_type: &'static str,
    size: u64,
) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    for (name, value) in required {
        match name.to_ascii_lowercase().as_str() {
            "content-type" => {
                let value = HeaderValue::from_str(value.as_sent());
                headers.insert(
                    header::CONTENT_TYPE,
                    value.context("the Content-Type for the upload is invalid")?,
                );
            }
            "content-length" if value.as_sent() == size.to_string() => {}
            "content-length" => {
                bail!("the server requires Content-Length {value} for an upload of {size} bytes")
            }
            _ => bail!(
                "the server requires the header {} with the upload; only Content-Type and Content-Length are sent",
                ServerText::new(name.as_str())
            ),
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upload_url_less_safe_than_the_api_is_refused() {
        let url = |base: &str, url: &str| {
            upload_url(&Url::parse(base).expect(base), &ServerText::new(url)).is_ok()
        };
        for (base, upload, is_fine) in [
            (
                "https://api.example",
                "https://bucket.example/a?signature=b",
                true,
            ),
            (
                "http://127.0.0.1:8080",
                "http://127.0.0.1:8080/uploads/a",
                true,
            ),
            ("http://127.0.0.1:8080", "https://bucket.example/a", true),
            ("https://api.example", "http://bucket.example/a", false),
            (
                "https://api.example",
                "https://user@bucket.example/a",
                false,
            ),
            (
                "https://api.example",
                "https://:password@bucket.example/a",
                false,
            ),
            ("https://api.example", "file:///etc/passwd", false),
            ("https://api.example", "/uploads/a", false),
            ("https://api.example", "", false),
        ] {
            assert_eq!(url(base, upload), is_fine, "{upload}");
        }
    }

    #[test]
    fn upload_with_unexpected_required_header_is_refused() {
        let headers = |required: &[(&str, &str)]| {
            let required = required
                .iter()
                .map(|(name, value)| ((*name).to_owned(), ServerText::new(*value)));
            upload_headers(&required.collect(), "text/plain", 5)
        };
        let sent = headers(&[
            ("content-type", "text/plain; charset=utf-8"),
            ("Content-Length", "5"),
        ])
        .expect("headers");
        assert_eq!(
            (sent.len(), &sent["content-type"]),
            (2, &HeaderValue::from_static("text/plain; charset=utf-8"))
        );
        assert_eq!(headers(&[]).expect("headers")["content-length"], "5");
        for refused in [
            ("Host", "internal.example"),
            ("authorization", "Bearer x"),
            ("Cookie", "a=b"),
            ("Transfer-Encoding", "chunked"),
            ("x-amz-acl", "public-read"),
            ("", ""),
            ("Content-Length", "6"),
            ("Content-Type", "text/plain\r\nHost: x"),
        ] {
            assert!(headers(&[refused]).is_err(), "{refused:?}");
        }
    }
}
