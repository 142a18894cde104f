//! A pair of servers behind a load balancer.

use std::fs::File;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use haversack_testkit::program::{haversack, run, stderr};
use haversack_testkit::{Origin, bucket, postgres, until};

pub const KEY: &str = "cluster-key-0123456789";
pub const NUMBER: &str = "+12025550123";

/// Settings shared by the servers.
pub struct Shared {
    database: String,
    blobs: String,
    public_url: String,
    /// Origin of files fetched by URL.
    pub origin: Origin,
}

impl Shared {
    /// Creates an empty database and an empty bucket prefix.
    pub async fn new(address: SocketAddr) -> Self {
        Self {
            database: postgres::create_schema()
                .await
                .expect("HAVERSACK_TEST_DATABASE_URL: see just test-cluster"),
            blobs: bucket::external_url().expect("HAVERSACK_TEST_BLOBS_URL: see just test-cluster"),
            public_url: format!("http://{address}"),
            origin: Origin::start(),
        }
    }

    /// Returns the command line of the program with these settings.
    pub fn command(&self, folder: &TempDir) -> std::process::Command {
        let mut command = haversack(folder.path());
        command
            .env("HAVERSACK_DATABASE_URL", &self.database)
            .env("HAVERSACK_BLOBS_URL", &self.blobs)
            .env("HAVERSACK_PUBLIC_URL", &self.public_url)
            .env("HAVERSACK_FETCH_ALLOW_NETS", "127.0.0.1/32")
            .env(
                "HAVERSACK_FETCH_ALLOW_PORTS",
                self.origin.address.port().to_string(),
            )
            .env("HAVERSACK_FETCH_CA_FILE", self.origin.ca_file());
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            command.env(name, bucket::credential(name).expect("a credential"));
        }
        command
    }
}

/// A server process.
pub struct Node {
    folder: TempDir,
    process: Option<Child>,
    pub address: SocketAddr,
}

impl Node {
    fn new() -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            folder: tempfile::tempdir().expect("folder"),
            process: None,
            address: nowhere,
        }
    }

    /// Starts the process and waits until it logs its address.
    async fn start(&mut self, shared: &Shared) {
        let path = self.folder.path().join("log");
        let said = std::fs::metadata(&path).map_or(0, |log| log.len());
        let log = File::options()
            .append(true)
            .create(true)
            .open(&path)
            .expect("log");
        let mut command = shared.command(&self.folder);
        self.process = Some(
            command
                .arg("serve")
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .expect("start"),
        );
        self.address = until(async || {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            let log = self
                .log()
                .split_off(usize::try_from(said).expect("a length"));
            assert!(self.is_running(), "{log}");
            let line = log
                .lines()
                .find(|line| line.contains("serving address="))?
                .to_owned();
            line.split_once("address=")?.1.trim().parse().ok()
        })
        .await;
    }

    /// Returns the complete log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).expect("log")
    }

    fn is_running(&self) -> bool {
        let Some(process) = &self.process else {
            return false;
        };
        // Detects a zombie through /proc, since `Child::try_wait` needs a mutable reference.
        let status =
            std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap_or_default();
        !status.is_empty() && !status.contains(") Z ")
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("SIGKILL");
            process.wait().expect("end");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The servers and the load balancer in front of them.
pub struct Pair {
    pub nodes: [Node; 2],
    pub address: SocketAddr,
    pub shared: Shared,
    addresses: Arc<Mutex<[SocketAddr; 2]>>,
}

impl Pair {
    /// Starts two servers with one partner.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("address");
        let shared = Shared::new(address).await;
        let mut nodes = [Node::new(), Node::new()];
        let add = [
            "partner",
            "add",
            "acme",
            "--api-key",
            KEY,
            "--phone-number",
            NUMBER,
        ];
        let added = run(shared.command(&nodes[0].folder).args(add));
        assert!(added.status.success(), "{}", stderr(&added));
        for node in &mut nodes {
            node.start(&shared).await;
        }
        let addresses = Arc::new(Mutex::new([nodes[0].address, nodes[1].address]));
        tokio::spawn(balance(listener, Arc::clone(&addresses)));
        Self {
            nodes,
            address,
            shared,
            addresses,
        }
    }

    /// Kills a server with SIGKILL.
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].kill();
    }

    /// Starts a killed server again.
    pub async fn restart(&mut self, index: usize) {
        self.nodes[index].start(&self.shared).await;
        self.addresses.lock().expect("lock")[index] = self.nodes[index].address;
    }

    /// Waits until both servers report ready.
    pub async fn ready(&self) {
        for node in &self.nodes {
            until(async || {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                let ready = reqwest::get(format!("http://{}/readyz", node.address)).await;
                ready.is_ok_and(|ready| ready.status() == 200).then_some(())
            })
            .await;
        }
    }

    /// Asserts that both servers run and that no task has ended or panicked.
    pub fn are_well(&self) {
        for node in &self.nodes {
            let log = node.log();
            assert!(node.is_running(), "{log}");
            let told = log
                .lines()
                .find(|line| line.contains("panicked") || line.contains("a background task ended"));
            assert_eq!(told, None);
        }
    }
}

/// Forwards connections to the servers alternately, or to the other one if the connection is
/// refused.
async fn balance(listener: TcpListener, servers: Arc<Mutex<[SocketAddr; 2]>>) {
    let mut turn = 0;
    while let Ok((mut client, _)) = listener.accept().await {
        turn += 1;
        let servers = *servers.lock().expect("lock");
        tokio::spawn(async move {
            for index in [turn, turn + 1] {
                if let Ok(mut server) = TcpStream::connect(servers[index % 2]).await {
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                    return;
                }
            }
        });
    }
}
