//! A client of the API that returns complete responses.

use std::net::SocketAddr;

use reqwest::header::HeaderMap;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::{LINE, RECIPIENT, until};

/// A client of one server with one API key, or none.
#[derive(Clone)]
pub struct Api {
    http: Client,
    base: String,
    key: Option<&'static str>,
}

/// A response that was read to its end.
#[derive(Debug)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
    /// The body as JSON, or null if it is none.
    pub json: Value,
}

impl Response {
    /// Returns the value of a header, or an empty string.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("ASCII"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).expect("UTF-8")
    }

    /// Checks the envelope of an error, and returns its HTTP status and code.
    #[track_caller]
    pub fn error(&self) -> (u16, u64) {
        let status = self.status.as_u16();
        let code = self.json["error"]["code"]
            .as_u64()
            .unwrap_or_else(|| panic!("not an error: {self:?}"));
        assert_eq!(self.json["success"], json!(false));
        assert_eq!(self.json["error"]["status"], json!(status));
        assert!(
            self.json["error"]["message"]
                .as_str()
                .is_some_and(|message| !message.is_empty())
        );
        let doc_url = format!(
            "https://docs.linqapp.com/error/codes/{}xxx/{code}/",
            code / 1000
        );
        assert_eq!(self.json["error"]["doc_url"], json!(doc_url));
        assert_eq!(self.json["trace_id"], json!(self.header("x-trace-id")));
        (status, code)
    }

    /// Checks the HTTP status, and returns the body as JSON.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self.json
    }

    /// Returns the message of an error.
    pub fn message(&self) -> &str {
        self.json["error"]["message"].as_str().expect("an error")
    }
}

/// Returns a field that holds a string.
#[track_caller]
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {object}"))
}

/// An attachment with a completed upload.
#[derive(Clone, Debug)]
pub struct Uploaded {
    pub id: String,
    pub url: String,
}

impl Api {
    pub fn new(address: SocketAddr, key: &'static str) -> Self {
        Self {
            key: Some(key),
            ..Self::anonymous(address)
        }
    }

    pub fn anonymous(address: SocketAddr) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder().no_proxy().build().expect("client");
        Self {
            http,
            base: format!("http://{address}"),
            key: None,
        }
    }

    /// Returns a client that does not follow redirects.
    #[must_use]
    pub fn without_redirects(&self) -> Self {
        let http = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("client");
        Self {
            http,
            ..self.clone()
        }
    }

    /// Returns a client with another key.
    #[must_use]
    pub fn with_key(&self, key: &'static str) -> Self {
        Self {
            key: Some(key),
            ..self.clone()
        }
    }

    /// Sends a request to a path of the server or to a URL.
    pub async fn request(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Response {
        let url = if url.starts_with('/') {
            format!("{}{url}", self.base)
        } else {
            url.to_owned()
        };
        let mut request = self
            .http
            .request(Method::from_bytes(method.as_bytes()).expect("method"), url);
        if let Some(key) = self.key {
            request = request.bearer_auth(key);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.expect("a response");
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.expect("a body").to_vec();
        let json = serde_json::from_slice(&bytes).unwrap_or_default();
        Response {
            status,
            headers,
            bytes,
            json,
        }
    }

    pub async fn get(&self, url: &str) -> Response {
        self.request("GET", url, &[], None).await
    }

    pub async fn get_with(&self, url: &str, headers: &[(&str, &str)]) -> Response {
        self.request("GET", url, headers, None).await
    }

    pub async fn delete(&self, url: &str) -> Response {
        self.request("DELETE", url, &[], None).await
    }

    pub async fn post(&self, url: &str, body: &Value) -> Response {
        self.post_raw(url, &body.to_string()).await
    }

    /// Posts a body that need not be JSON.
    pub async fn post_raw(&self, url: &str, body: &str) -> Response {
        self.request(
            "POST",
            url,
            &[("content-type", "application/json")],
            Some(body.into()),
        )
        .await
    }

    /// Creates an attachment.
    pub async fn create(&self, filename: &str, content_type: &str, size: usize) -> Value {
        let body = json!({"filename": filename, "content_type": content_type, "size_bytes": size});
        self.post("/v3/attachments", &body).await.expect(200)
    }

    /// Uploads bytes with the required headers.
    pub async fn put(&self, created: &Value, bytes: &[u8]) -> Response {
        let content_type = text(&created["required_headers"], "Content-Type");
        let url = text(created, "upload_url");
        Self {
            key: None,
            ..self.clone()
        }
        .request(
            "PUT",
            url,
            &[("content-type", content_type)],
            Some(bytes.into()),
        )
        .await
    }

    /// Creates an attachment and uploads its bytes.
    pub async fn upload(&self, filename: &str, content_type: &str, bytes: &[u8]) -> Uploaded {
        let created = self.create(filename, content_type, bytes.len()).await;
        let put = self.put(&created, bytes).await;
        assert_eq!(put.status, 200, "{put:?}");
        Uploaded {
            id: text(&created, "attachment_id").to_owned(),
            url: text(&created, "download_url").to_owned(),
        }
    }

    /// Sends parts from [`LINE`] to [`RECIPIENT`] by `POST /v3/chats`.
    pub async fn send_parts(&self, parts: Value) -> Response {
        self.post(
            "/v3/chats",
            &json!({"from": LINE, "to": [RECIPIENT], "message": {"parts": parts}}),
        )
        .await
    }

    /// Sends a text from [`LINE`], and returns the chat.
    pub async fn send_text(&self, to: &[&str], text: &str) -> Value {
        let message = json!({"parts": [{"type": "text", "value": text}]});
        let response = self
            .post(
                "/v3/chats",
                &json!({"from": LINE, "to": to, "message": message}),
            )
            .await;
        response.expect(201)["chat"].clone()
    }

    /// Waits until a message has this delivery status, and returns it.
    pub async fn message_with_status(&self, id: &str, status: &str) -> Value {
        until(async || {
            let message = self.get(&format!("/v3/messages/{id}")).await.expect(200);
            (message["delivery_status"] == status).then_some(message)
        })
        .await
    }
}
