//! A scripted HTTPS origin with its own certificate authority, which sends any bytes in any order
//! at any pace, and a scripted DNS resolver.

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

/// One step of a script.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends bytes.
    Send(Vec<u8>),
    /// Sends bytes repeatedly until the client disconnects.
    Repeat(Vec<u8>),
    /// Sends these bytes repeatedly, one every so many milliseconds, until the client disconnects.
    Drip(Vec<u8>, u64),
    /// Waits until as many connections have reached this step as the barrier demands.
    Wait(Arc<Barrier>),
    /// Waits until the client disconnects.
    Hang,
    /// Resets the connection, without a TLS alert.
    Reset,
}

type Handler = Arc<dyn Fn(&str) -> Vec<Step> + Send + Sync>;

/// An HTTPS server on a free port; its URLs use the host name `origin.test`.
pub struct Origin {
    pub address: SocketAddr,
    pub dns: Arc<Dns>,
    folder: TempDir,
    handlers: Arc<Mutex<HashMap<String, Handler>>>,
    observed: Arc<Observed>,
}

/// Counters and requests of an origin.
#[derive(Debug, Default)]
struct Observed {
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: Mutex<Vec<String>>,
}

/// Returns a script that sends a response exactly as given.
pub fn http_response(status: &str, headers: &str, body: &[u8]) -> Vec<Step> {
    let headers = headers.replace('\n', "\r\n");
    vec![Step::Send(
        [
            format!("HTTP/1.1 {status}\r\n{headers}\r\n\r\n").as_bytes(),
            body,
        ]
        .concat(),
    )]
}

/// The certificate and TLS settings of an origin.
#[derive(Debug)]
pub struct Certificate {
    /// The subject names.
    pub names: &'static [&'static str],
    /// The year in which it expires.
    pub expires: i32,
    /// Protocols offered by ALPN.
    pub alpn: &'static [&'static [u8]],
    /// True if it is signed by the authority in the origin's CA file.
    pub trusted: bool,
}

impl Default for Certificate {
    fn default() -> Self {
        Self {
            names: &["origin.test", "127.0.0.1"],
            expires: 2100,
            alpn: &[],
            trusted: true,
        }
    }
}

/// A scripted DNS resolver. Names without a script resolve to 127.0.0.1; names that start with
/// `silent` never resolve.
#[derive(Debug, Default)]
pub struct Dns {
    answers: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    queries: Mutex<Vec<String>>,
}

impl Dns {
    /// Scripts the answers for a name: each is given once, the last one for all further queries.
    pub fn set(&self, name: &str, answers: &[&[&str]]) {
        let parse = |ips: &&[&str]| ips.iter().map(|ip| ip.parse().expect("address")).collect();
        self.answers
            .lock()
            .expect("lock")
            .insert(name.to_owned(), answers.iter().map(parse).collect());
    }

    /// Returns all names queried so far.
    pub fn queries(&self) -> Vec<String> {
        self.queries.lock().expect("lock").clone()
    }
}

#[async_trait]
impl Resolve for Dns {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.queries.lock().expect("lock").push(name.to_owned());
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
        Self::with_certificate(&Certificate::default())
    }

    pub fn with_certificate(certificate: &Certificate) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let (authority, tls) = certificates(certificate);
        std::fs::write(folder.path().join("ca.pem"), authority).expect("write");
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        listener.set_nonblocking(true).expect("nonblocking");
        let listener = TcpListener::from_std(listener).expect("listener");
        let address = listener.local_addr().expect("address");
        let handlers: Arc<Mutex<HashMap<String, Handler>>> = Arc::default();
        let observed: Arc<Observed> = Arc::default();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        tokio::spawn({
            let (handlers, observed) = (Arc::clone(&handlers), Arc::clone(&observed));
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    observed.connections.fetch_add(1, Ordering::SeqCst);
                    observed.open.fetch_add(1, Ordering::SeqCst);
                    let (acceptor, handlers, observed) = (
                        acceptor.clone(),
                        Arc::clone(&handlers),
                        Arc::clone(&observed),
                    );
                    tokio::spawn(async move {
                        let _ = serve(stream, acceptor, &handlers, &observed).await;
                        observed.open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            }
        });
        Self {
            address,
            dns: Arc::default(),
            folder,
            handlers,
            observed,
        }
    }

    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Handles a path by a function of the request head.
    pub fn on(&self, path: &str, handler: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static) {
        self.handlers
            .lock()
            .expect("lock")
            .insert(path.to_owned(), Arc::new(handler));
    }

    /// Handles a path by a fixed script.
    pub fn script(&self, path: &str, steps: Vec<Step>) {
        self.on(path, move |_| steps.clone());
    }

    /// Serves a file at a path.
    pub fn file(&self, path: &str, content_type: &str, bytes: &[u8]) {
        let headers = format!(
            "content-type: {content_type}\ncontent-length: {}",
            bytes.len()
        );
        self.script(path, http_response("200 OK", &headers, bytes));
    }

    pub fn url(&self, path: &str) -> String {
        self.url_with_host("origin.test", path)
    }

    /// Returns a URL of this origin by another host name.
    pub fn url_with_host(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.address.port())
    }

    /// Returns the heads of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.observed.requests.lock().expect("lock").clone()
    }

    /// Returns the number of connections accepted so far.
    pub fn connections(&self) -> usize {
        self.observed.connections.load(Ordering::SeqCst)
    }

    /// Returns the number of open connections.
    pub fn open_connections(&self) -> usize {
        self.observed.open.load(Ordering::SeqCst)
    }
}

async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    handlers: &Mutex<HashMap<String, Handler>>,
    observed: &Observed,
) -> io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    // Of HTTP/2, only the client's preface is read; the script of the path `h2` sends the frames.
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
    observed.requests.lock().expect("lock").push(head.clone());
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
            Step::Wait(barrier) => {
                barrier.wait().await;
            }
            Step::Hang => {
                stream.flush().await?;
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await?;
                return Ok(());
            }
            Step::Reset => {
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

/// Returns a certificate authority in PEM, and a TLS configuration with a certificate.
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
        issuer = authority("untrusted").1;
    }
    let names: Vec<String> = wanted.names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(wanted.expires, 1, 1);
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
