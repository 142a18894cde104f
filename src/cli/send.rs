//! Implements `haversack send FILE... --to NUMBER`, which uploads files and sends them in one
//! message.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use futures_util::TryStreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::json;
use tokio_util::io::ReaderStream;

use super::block_on;
use super::bootstrap::LocalCredentials;
use super::client::{ApiClient, Body, Upload};
use super::terminal::{ServerText, escaped};
use crate::config::Config;
use crate::domain::handle::Recipient;
use crate::domain::part::MAX_PARTS;
use crate::id::MessageId;
use crate::media;

/// Maximum wait for the message to be delivered.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Files to send, each as a media part
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Phone number or e-mail address of a recipient; several make a group
    #[arg(long, required = true, value_parser = recipient)]
    to: Vec<String>,
    /// Text to send before the files
    #[arg(long)]
    text: Option<String>,
    /// Phone number to send from; by default the partner's first
    #[arg(long)]
    from: Option<String>,
    /// Base URL of the API; by default that of the server that was started on the data folder
    #[arg(long, env = "LINQ_API_V3_BASE_URL")]
    base_url: Option<String>,
    /// API key; by default that of the same server
    #[arg(long, env = "LINQ_API_V3_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Maximum wait for a response header, for its body, and for the server to accept a chunk of an
    /// upload
    #[arg(
        long, value_name = "SECONDS", default_value_t = 120,
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    timeout_seconds: u64,
}

#[derive(Deserialize)]
struct PhoneNumbers {
    phone_numbers: Vec<PhoneNumber>,
}

#[derive(Deserialize)]
struct PhoneNumber {
    phone_number: ServerText,
}

#[derive(Deserialize)]
struct Created {
    chat: Chat,
}

#[derive(Deserialize)]
struct Chat {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    id: ServerText,
    delivery_status: ServerText,
    parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    url: Option<ServerText>,
}

/// Validates a recipient before any file is uploaded.
fn recipient(text: &str) -> Result<String, String> {
    let recipient = Recipient::parse(text).map(|recipient| recipient.to_string());
    recipient.ok_or_else(|| {
        "neither a phone number in E.164 form, such as +12025550199, nor an e-mail address"
            .to_owned()
    })
}

pub(super) fn run(config: &Config, arguments: Arguments) -> anyhow::Result<()> {
    block_on(send(config, arguments))
}

async fn send(config: &Config, arguments: Arguments) -> anyhow::Result<()> {
    let client = client(config, &arguments)?;
    let from = match arguments.from {
        Some(from) => ServerText::new(from),
        None => first_number(&client).await?,
    };
    // All files are checked before the first upload, so that an unreadable or unsupported file is
    // reported early.
    let files = arguments
        .files
        .iter()
        .map(|path| describe(path))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut parts = Vec::new();
    if let Some(text) = &arguments.text {
        parts.push(json!({"type": "text", "value": text}));
    }
    for file in &files {
        parts.push(
            json!({"type": "media", "attachment_id": upload(&client, file).await?.as_sent()}),
        );
    }
    let body = json!({"from": from.as_sent(), "to": arguments.to, "message": {"parts": parts}});
    let created: Created = client.post("/v3/chats", &body).await?;
    let message = watch(&client, created.chat.message).await?;
    print_line!("message {}", message.id);
    print_line!("status  {}", message.delivery_status);
    for url in message
        .parts
        .iter()
        .filter_map(|part| part.url.as_ref())
        .take(MAX_PARTS)
    {
        print_line!("file    {url}");
    }
    match message.delivery_status.as_sent() {
        "delivered" => Ok(()),
        "failed" => bail!("the message could not be delivered"),
        _ => {
            let status = &message.delivery_status;
            eprintln!(
                "the message is still {status} after {} s; the server continues with it",
                DELIVERY_TIMEOUT.as_secs()
            );
            Ok(())
        }
    }
}

/// Creates the API client from the flags and the environment variables of the SDKs, or else from
/// the credentials of the local server. The local API key is sent only to the local server.
fn client(config: &Config, arguments: &Arguments) -> anyhow::Result<ApiClient> {
    let local = LocalCredentials::read(&config.storage.data_dir)?;
    let missing = |what: &str| {
        format!(
            "no {what}: start haversack serve here, or give --base-url and --api-key (there is no \
             local.toml in {})",
            config.storage.data_dir.display()
        )
    };
    let (base_url, api_key) = match (&arguments.base_url, &arguments.api_key, local) {
        (Some(base_url), Some(api_key), _) => (base_url.clone(), api_key.clone()),
        (None, Some(api_key), Some(local)) => (local.base_url, api_key.clone()),
        (None, None, Some(local)) => (local.base_url, local.api_key),
        (Some(base_url), None, Some(local)) if *base_url == local.base_url => {
            (local.base_url, local.api_key)
        }
        (Some(base_url), None, _) => bail!("--base-url {base_url} needs --api-key as well"),
        (None, _, None) => bail!(missing("server")),
    };
    ApiClient::new(
        &base_url,
        &api_key,
        Duration::from_secs(arguments.timeout_seconds),
    )
}

async fn first_number(client: &ApiClient) -> anyhow::Result<ServerText> {
    let numbers: PhoneNumbers = client.get("/v3/phone_numbers").await?;
    let first = numbers.phone_numbers.into_iter().next();
    Ok(first
        .context("the API key's partner has no phone number to send from")?
        .phone_number)
}

struct File {
    path: PathBuf,
    name: String,
    content_type: &'static str,
    size: u64,
}

fn describe(path: &Path) -> anyhow::Result<File> {
    let metadata =
        std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !metadata.is_file() {
        bail!("{} is not a file", path.display());
    }
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let media_type = media::by_extension(&extension).with_context(|| {
        format!(
            "{}: files with the extension {extension:?} are not accepted",
            path.display()
        )
    })?;
    Ok(File {
        path: path.to_owned(),
        name,
        content_type: media_type.name,
        size: metadata.len(),
    })
}

async fn upload(client: &ApiClient, file: &File) -> anyhow::Result<ServerText> {
    let name = escaped(&file.name);
    let body =
        json!({"filename": file.name, "content_type": file.content_type, "size_bytes": file.size});
    let upload: Upload = client
        .post("/v3/attachments", &body)
        .await
        .with_context(|| name.clone())?;
    let progress = progress(file);
    let opened = tokio::fs::File::open(&file.path).await?;
    let stream = ReaderStream::with_capacity(progress.wrap_async_read(opened), 64 * 1024);
    let taken = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&taken);
    let stream = stream.inspect_ok(move |chunk| {
        counted.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    });
    let content = reqwest::Body::wrap_stream(stream);
    let body = Body {
        content,
        content_type: file.content_type,
        size: file.size,
        taken,
    };
    client
        .put(&upload, body)
        .await
        .with_context(|| name.clone())?;
    progress.finish_and_clear();
    print_line!("uploaded {name} ({} bytes)", file.size);
    Ok(upload.attachment_id)
}

/// Returns a progress bar, which is hidden if the output is not a terminal.
fn progress(file: &File) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}");
    ProgressBar::new(file.size)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(escaped(&file.name))
}

/// Polls the message status until delivery succeeds, fails or times out.
async fn watch(client: &ApiClient, mut message: Message) -> anyhow::Result<Message> {
    let id = MessageId::parse(message.id.as_sent())
        .with_context(|| format!("{} is not the id of a message", message.id))?;
    let end = tokio::time::Instant::now() + DELIVERY_TIMEOUT;
    while !matches!(message.delivery_status.as_sent(), "delivered" | "failed")
        && tokio::time::Instant::now() < end
    {
        tokio::time::sleep(POLL_INTERVAL).await;
        message = client.get(&format!("/v3/messages/{id}")).await?;
    }
    Ok(message)
}
