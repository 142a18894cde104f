//! A TCP connection for requests that no HTTP client would send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::within;

/// A connection that sends and receives bytes as they are.
pub struct RawConnection(pub TcpStream);

impl RawConnection {
    pub async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.expect("connection"))
    }

    /// Connects from another address of this machine, so that the server counts it as another
    /// client.
    pub async fn connect_from(source: &str, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("socket");
        socket
            .bind(SocketAddr::new(source.parse().expect("address"), 0))
            .expect("bind");
        Self(socket.connect(address).await.expect("connection"))
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("write");
    }

    /// Reads up to and including `end`, and returns everything read.
    pub async fn read_until(&mut self, end: &str) -> String {
        let mut read = Vec::new();
        within(async {
            while !String::from_utf8_lossy(&read).contains(end) {
                let byte = self
                    .0
                    .read_u8()
                    .await
                    .unwrap_or_else(|_| panic!("{:?}", String::from_utf8_lossy(&read)));
                read.push(byte);
            }
        })
        .await;
        String::from_utf8_lossy(&read).into_owned()
    }

    /// Reads until the server closes the connection.
    pub async fn read_all(&mut self) -> String {
        let mut read = Vec::new();
        let _ = within(self.0.read_to_end(&mut read)).await;
        String::from_utf8_lossy(&read).into_owned()
    }
}

/// Returns path and query of a URL: the target of a request line.
pub fn request_target(url: &str) -> &str {
    let (_, rest) = url.split_once("://").expect("URL");
    &rest[rest.find('/').expect("path")..]
}
