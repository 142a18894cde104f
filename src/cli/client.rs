//! A small client of the API, for `haversack send`. It trusts the server with the key and with what is sent, and with
//! nothing else: answers are bounded in size and time, redirects are not followed, and the key goes to no other origin.

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

/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;
/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The slowest upload that is waited for, in bytes a second.
const MIN_UPLOAD_RATE: u64 = 1024;

/// The client.
pub(super) struct ApiClient {
    http: Client,
    base: BaseUrl,
    api_key: String,
    /// How long the server may take for the header of an answer, for its body, and to take a piece of an upload.
    timeout: Duration,
}

/// Where to upload a file.
#[derive(Deserialize)]
pub(super) struct Upload {
    pub(super) attachment_id: ServerText,
    #[serde(rename = "upload_url")]
    url: ServerText,
    required_headers: BTreeMap<String, ServerText>,
}

/// What is uploaded.
pub(super) struct Body {
    pub(super) content: reqwest::Body,
    pub(super) content_type: &'static str,
    pub(super) size: u64,
    /// Bytes of it that have been taken so far.
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
        // There may be one already; either serves.
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
            // One answer for one request: nothing that a server could send besides is kept.
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

    /// Uploads a body to where the API said, without the key.
    pub(super) async fn put(&self, upload: &Upload, body: Body) -> anyhow::Result<()> {
        let url = upload_url(self.base.as_url(), &upload.url)?;
        let headers = upload_headers(&upload.required_headers, body.content_type, body.size)?;
        let answer = self
            .http
            .put(url)
            .headers(headers)
            .body(body.content)
            .send();
        let response = self.taken(answer, body.size, &body.taken).await?;
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

    /// The answer to an upload, as long as the server goes on taking it.
    async fn taken(
        &self,
        answer: impl Future<Output = reqwest::Result<Response>>,
        size: u64,
        taken: &AtomicU64,
    ) -> anyhow::Result<Response> {
        let mut answer = std::pin::pin!(answer);
        let deadline =
            Instant::now() + 2 * self.timeout + Duration::from_secs(size / MIN_UPLOAD_RATE);
        let mut before = 0;
        loop {
            if let Ok(answered) = timeout(self.timeout, &mut answer).await {
                return answered
                    .map_err(reqwest::Error::without_url)
                    .context("the upload was cut off");
            }
            let now = taken.load(Ordering::Relaxed);
            if now == before {
                bail!(
                    "the server took nothing of the upload for {} s",
                    self.timeout.as_secs()
                );
            }
            if Instant::now() >= deadline {
                bail!("the server takes less than {MIN_UPLOAD_RATE} bytes of the upload a second");
            }
            before = now;
        }
    }

    async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let base = self.base.as_url();
        let seconds = self.timeout.as_secs();
        let response = timeout(self.timeout, request.bearer_auth(&self.api_key).send())
            .await
            .with_context(|| format!("{base} sent no answer within {seconds} s"))?
            .map_err(reqwest::Error::without_url)
            .with_context(|| format!("cannot reach {base}: is haversack serve running?"))?;
        let status = response.status();
        if status.is_redirection() {
            bail!(
                "{base} answered {status}: redirects are not followed, so that the key goes nowhere else"
            );
        }
        let body = self.body(response).await?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .with_context(|| format!("unexpected answer of {base}"));
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

    /// The body of an answer, if it is not too large and comes in time.
    async fn body(&self, mut response: Response) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        let read = async {
            while let Some(chunk) = response
                .chunk()
                .await
                .map_err(reqwest::Error::without_url)?
            {
                if body.len() + chunk.len() > MAX_ANSWER {
                    bail!(
                        "the server's answer is larger than {} MiB",
                        MAX_ANSWER / 1024 / 1024
                    );
                }
                body.extend_from_slice(&chunk);
            }
            Ok(())
        };
        let seconds = self.timeout.as_secs();
        timeout(self.timeout, read)
            .await
            .with_context(|| format!("the answer was not whole after {seconds} s"))??;
        Ok(body)
    }
}

fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// The URL to upload to: of http only if the API is, and without credentials, which would be sent as `Authorization`.
fn upload_url(base: &Url, url: &ServerText) -> anyhow::Result<Url> {
    let parsed = Url::parse(url.as_sent())
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"));
    let parsed = parsed.with_context(|| format!("the upload URL {url} is no http or https URL"))?;
    if has_credentials(&parsed) {
        bail!("the upload URL holds a user name or password");
    }
    if base.scheme() == "https" && parsed.scheme() != "https" {
        bail!("the upload URL is not https, although the API is");
    }
    Ok(parsed)
}

/// The headers of an upload: those that a presigned PUT needs, and no others that the server may want.
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
                    value.context("the Content-Type for the upload is none")?,
                );
            }
            "content-length" if value.as_sent() == size.to_string() => {}
            "content-length" => {
                bail!("the server wants Content-Length {value} for an upload of {size} bytes")
            }
            _ => bail!(
                "the server wants the header {} with the upload; only Content-Type and Content-Length are sent",
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
    fn an_upload_url_is_no_less_safe_than_the_api() {
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
    fn an_upload_has_the_headers_of_a_presigned_put_alone() {
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
