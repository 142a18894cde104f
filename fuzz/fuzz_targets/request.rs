//! Sends arbitrary bytes to the server, through HTTP parsing, routing, JSON and the database. Every
//! response is valid HTTP, and none reports an internal error.
#![no_main]

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use axum::Router;
use haversack::app::App;
use haversack::clock::Clock;
use haversack::config::{Config, Settings};
use haversack::delivery::Loopback;
use haversack::domain::handle::PhoneNumber;
use haversack::fetch::Resolve;
use haversack::partners;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

/// The API key in the seeds.
const KEY: &str = "fuzz-key-0123456789";

/// A resolver without names, so that nothing is fetched.
#[derive(Debug)]
struct NoNames;

#[async_trait]
impl Resolve for NoNames {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

static SERVER: LazyLock<(Runtime, Router)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let router = runtime.block_on(async {
        let folder = std::env::temp_dir().join(format!("haversack-fuzz-{}", std::process::id()));
        let mut settings = Settings::default();
        settings.server.listen = "127.0.0.1:0".parse().expect("address");
        settings.storage.data_dir = folder.clone();
        settings.conversion.ffmpeg = "none".into();
        let config = Config::resolve(settings, &|_| None).expect("configuration");
        let app = App::build(
            config,
            Clock::system(),
            Arc::new(Loopback),
            Arc::new(NoNames),
        )
        .await
        .expect("app");
        let number = PhoneNumber::parse("+12025550100").expect("number");
        partners::add(
            app.db(),
            &Clock::system(),
            "fuzz".to_owned(),
            KEY,
            vec![number],
        )
        .await
        .expect("partner");
        let router = app.router();
        // Dropping it would release the lock of its folder.
        std::mem::forget(app);
        router
    });
    (runtime, router)
});

fuzz_target!(|input: &[u8]| {
    // A URL with an IP address would be connected to without the resolver.
    if input
        .windows(3)
        .any(|text| text.starts_with(b"//") && (text[2].is_ascii_digit() || text[2] == b'['))
    {
        return;
    }
    let (runtime, router) = &*SERVER;
    let answer = runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(4 * 1024 * 1024);
        client.write_all(input).await.expect("it fits");
        client.shutdown().await.expect("in-memory I/O");
        let service = TowerToHyperService::new(router.clone());
        let mut http = http1::Builder::new();
        // The client has closed its side and waits for responses.
        let served = http
            .half_close(true)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(server), service);
        let _ = served.await;
        let mut answer = Vec::new();
        client
            .read_to_end(&mut answer)
            .await
            .expect("in-memory I/O");
        answer
    });
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1."),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
    let has = |text: &[u8]| answer.windows(text.len()).any(|window| window == text);
    assert!(
        !has(b"\"code\":3006"),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
});
