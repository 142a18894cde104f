//! Bytes over a socket, for what no HTTP client would send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::within;

/// A connection.
pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.expect("connection"))
    }

    /// From another address of this machine: to the server, another client.
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

    /// Reads until `end` has come; what came.
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

    /// Reads until the server closes.
    pub async fn read_all(&mut self) -> String {
        let mut read = Vec::new();
        let _ = within(self.0.read_to_end(&mut read)).await;
        String::from_utf8_lossy(&read).into_owned()
    }
}

/// The path and query of a URL of the server.
pub fn target(url: &str) -> &str {
    let (_, rest) = url.split_once("://").expect("URL");
    &rest[rest.find('/').expect("path")..]
}
