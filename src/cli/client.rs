//! A small client of the API, for `haversack send`.

use anyhow::{Context, bail};
use reqwest::{Client, Method, RequestBuilder};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The client.
pub(super) struct ApiClient {
    http: Client,
    base_url: String,
    api_key: String,
}

/// Where to upload a file.
#[derive(Deserialize)]
pub(super) struct Upload {
    pub(super) attachment_id: String,
    #[serde(rename = "upload_url")]
    pub(super) url: String,
    pub(super) required_headers: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Failure {
    error: FailureDetail,
    trace_id: String,
}

#[derive(Deserialize)]
struct FailureDetail {
    code: u16,
    message: String,
}

impl ApiClient {
    pub(super) fn new(base_url: &str, api_key: &str) -> anyhow::Result<Self> {
        // There may be one already; either serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder().user_agent(concat!("haversack/", env!("CARGO_PKG_VERSION"))).build()?;
        Ok(Self { http, base_url: base_url.trim_end_matches('/').to_owned(), api_key: api_key.to_owned() })
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.call(self.http.request(Method::GET, self.url(path))).await
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> anyhow::Result<T> {
        self.call(self.http.request(Method::POST, self.url(path)).json(body)).await
    }

    /// Uploads a body; `body` is what is sent, the headers are those that the API asked for.
    pub(super) async fn put(&self, upload: &Upload, body: reqwest::Body) -> anyhow::Result<()> {
        let request = self.http.put(&upload.url).body(body);
        let request =
            upload.required_headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        let response = request.send().await.context("the upload was cut off")?;
        if !response.status().is_success() {
            bail!("the upload was refused with {}: {}", response.status(), response.text().await.unwrap_or_default());
        }
        Ok(())
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base_url)
    }

    async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let response = request
            .bearer_auth(&self.api_key)
            .send()
            .await
            .with_context(|| format!("cannot reach {}: is haversack serve running?", self.base_url))?;
        let status = response.status();
        let body = response.text().await?;
        if status.is_success() {
            return serde_json::from_str(&body).with_context(|| format!("unexpected answer of {}", self.base_url));
        }
        match serde_json::from_str::<Failure>(&body) {
            Ok(Failure { error, trace_id }) => {
                bail!("{} (HTTP {}, code {}, trace {trace_id})", error.message, status.as_u16(), error.code)
            }
            Err(_) => bail!("{} answered {status}", self.base_url),
        }
    }
}
