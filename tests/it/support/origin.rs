//! An origin that does whatever a test wants: TLS of an authority of its own, and behind it any bytes at all, in any
//! order, as slowly as wanted. And a resolver that says what a test wants.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use haversack::fetch::Resolve;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// One thing that an origin does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends bytes.
    Send(Vec<u8>),
    /// Sends bytes again and again until the client has gone.
    Repeat(Vec<u8>),
    /// Sends these bytes one at a time, each this many milliseconds after the last, until the client has gone.
    Drip(Vec<u8>, u64),
    /// Does nothing until as many connections have come to a step like this as the barrier wants.
    Meet(Arc<Barrier>),
    /// Does nothing until the client has gone.
    Hang,
    /// Ends the connection without a word: no TLS alert, no more bytes.
    Cut,
}

type Handler = Arc<dyn Fn(&str) -> Vec<Step> + Send + Sync>;

/// The origin.
pub struct Origin {
    pub address: SocketAddr,
    pub names: Arc<Names>,
    folder: TempDir,
    handlers: Arc<Mutex<HashMap<String, Handler>>>,
    seen: Arc<Seen>,
}

/// What an origin saw.
#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: Mutex<Vec<String>>,
}

/// An answer with a status line, headers and a body, to the letter.
pub fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<Step> {
    let headers = headers.replace('\n', "\r\n");
    vec![Step::Send(
        [
            format!("HTTP/1.1 {status}\r\n{headers}\r\n\r\n").as_bytes(),
            body,
        ]
        .concat(),
    )]
}

/// How an origin is set up.
pub struct Certificate {
    /// The names it is for.
    pub names: &'static [&'static str],
    /// The year it ends.
    pub until: i32,
    /// Protocols that TLS agrees on.
    pub alpn: &'static [&'static [u8]],
    /// Whether the authority is the one in the origin's CA file.
    pub trusted: bool,
}

impl Default for Certificate {
    fn default() -> Self {
        Self {
            names: &["origin.test", "127.0.0.1"],
            until: 2100,
            alpn: &[],
            trusted: true,
        }
    }
}

/// What names resolve to. Every name is 127.0.0.1 unless it was said otherwise; one that starts with `silent` gets no
/// answer.
#[derive(Debug, Default)]
pub struct Names {
    answers: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    /// What a name resolves to: the first answer first, the last for ever.
    pub fn set(&self, name: &str, answers: &[&[&str]]) {
        let parse = |ips: &&[&str]| ips.iter().map(|ip| ip.parse().expect("address")).collect();
        self.answers
            .lock()
            .expect("lock")
            .insert(name.to_owned(), answers.iter().map(parse).collect());
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("lock").clone()
    }
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.lock().expect("lock").push(name.to_owned());
        if name.starts_with("silent") {
            std::future::pending::<()>().await;
        }
        let mut answers = self.answers.lock().expect("lock");
        let Some(answers) = answers.get_mut(name) else {
            return Ok(vec![Ipv4Addr::LOCALHOST.into()]);
        };
        Ok(if answers.len() > 1 {
            answers.remove(0)
        } else {
            answers[0].clone()
        })
    }
}

impl Origin {
    pub fn start() -> Self {
        Self::with(&Certificate::default())
    }

    pub fn with(certificate: &Certificate) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let (authority, tls) = certificates(certificate);
        std::fs::write(folder.path().join("ca.pem"), authority).expect("write");
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        listener.set_nonblocking(true).expect("nonblocking");
        let listener = TcpListener::from_std(listener).expect("listener");
        let address = listener.local_addr().expect("address");
        let handlers: Arc<Mutex<HashMap<String, Handler>>> = Arc::default();
        let seen: Arc<Seen> = Arc::default();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        tokio::spawn({
            let (handlers, seen) = (Arc::clone(&handlers), Arc::clone(&seen));
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    seen.connections.fetch_add(1, Ordering::SeqCst);
                    seen.open.fetch_add(1, Ordering::SeqCst);
                    let (acceptor, handlers, seen) =
                        (acceptor.clone(), Arc::clone(&handlers), Arc::clone(&seen));
                    tokio::spawn(async move {
                        let _ = serve(stream, acceptor, &handlers, &seen).await;
                        seen.open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            }
        });
        Self {
            address,
            names: Arc::default(),
            folder,
            handlers,
            seen,
        }
    }

    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// What is done for a path: its requests' headers make the steps.
    pub fn on(&self, path: &str, handler: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static) {
        self.handlers
            .lock()
            .expect("lock")
            .insert(path.to_owned(), Arc::new(handler));
    }

    /// What is done for a path, always.
    pub fn script(&self, path: &str, steps: Vec<Step>) {
        self.on(path, move |_| steps.clone());
    }

    /// A file at a path.
    pub fn file(&self, path: &str, content_type: &str, bytes: &[u8]) {
        let headers = format!(
            "content-type: {content_type}\ncontent-length: {}",
            bytes.len()
        );
        self.script(path, answer("200 OK", &headers, bytes));
    }

    pub fn url(&self, path: &str) -> String {
        self.url_of("origin.test", path)
    }

    pub fn url_of(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.address.port())
    }

    /// The headers of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().expect("lock").clone()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }
}

async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    handlers: &Mutex<HashMap<String, Handler>>,
    seen: &Seen,
) -> io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    // Of HTTP/2 no more than the client's preface is read: what comes then is up to the test.
    let (head, path) = if http2 {
        (
            read_until(&mut stream, b"SM\r\n\r\n").await?,
            "h2".to_owned(),
        )
    } else {
        let head = read_until(&mut stream, b"\r\n\r\n").await?;
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        (head, target)
    };
    seen.requests.lock().expect("lock").push(head.clone());
    let handler = handlers.lock().expect("lock").get(&path).cloned();
    let steps = match handler {
        Some(handler) => handler(&head),
        None => vec![Step::Send(
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
        )],
    };
    for step in steps {
        match step {
            Step::Send(bytes) => stream.write_all(&bytes).await?,
            Step::Repeat(bytes) => loop {
                stream.write_all(&bytes).await?;
            },
            Step::Drip(bytes, milliseconds) => {
                let mut tick =
                    tokio::time::interval(std::time::Duration::from_millis(milliseconds));
                for byte in bytes.iter().cycle() {
                    tick.tick().await;
                    stream.write_all(&[*byte]).await?;
                    stream.flush().await?;
                }
            }
            Step::Meet(barrier) => {
                barrier.wait().await;
            }
            Step::Hang => {
                stream.flush().await?;
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await?;
                return Ok(());
            }
            Step::Cut => {
                stream.flush().await?;
                let (tcp, _) = stream.into_inner();
                return tcp.set_zero_linger().and(Ok(()));
            }
        }
    }
    stream.shutdown().await
}

async fn read_until(stream: &mut TlsStream<TcpStream>, end: &[u8]) -> io::Result<String> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        read.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&read).into_owned())
}

/// An authority in PEM, and a server's side of TLS with a certificate of it.
fn certificates(wanted: &Certificate) -> (String, ServerConfig) {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        let certificate = params.self_signed(&key).expect("certificate");
        (certificate.pem(), Issuer::new(params, key))
    };
    let (pem, mut issuer) = authority("trusted");
    if !wanted.trusted {
        issuer = authority("somebody").1;
    }
    let names: Vec<String> = wanted.names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(wanted.until, 1, 1);
    let key = KeyPair::generate().expect("key");
    let certificate = params.signed_by(&key, &issuer).expect("certificate");
    let chain = vec![CertificateDer::from(certificate)];
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("certificate");
    tls.alpn_protocols = wanted
        .alpn
        .iter()
        .map(|protocol| protocol.to_vec())
        .collect();
    (pem, tls)
}
