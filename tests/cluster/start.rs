//! First start of several servers on an empty database.

use std::net::SocketAddr;
use std::process::Stdio;

use crate::alone;
use crate::pair::Shared;
use haversack_testkit::program::{Server, run, stderr};

/// Returns the first line that `serve` prints.
fn welcome(server: &Server) -> &str {
    server.banner.lines().next().expect("a line")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_first_starts_create_one_partner() {
    let _alone = alone().await;
    for _ in 0..5 {
        let shared = Shared::new(SocketAddr::from(([127, 0, 0, 1], 0))).await;
        let folders = [(); 3].map(|()| tempfile::tempdir().expect("folder"));
        let starting = folders.each_ref().map(|folder| {
            let mut command = shared.command(folder);
            tokio::task::spawn_blocking(move || {
                Server::run_logged(command.arg("serve"), Stdio::inherit())
            })
        });
        let mut servers = Vec::new();
        for server in starting {
            servers.push(server.await.expect("it starts"));
        }
        let with_key = servers
            .iter()
            .filter(|server| welcome(server) == "Haversack is ready.")
            .count();
        assert_eq!(with_key, 1, "exactly one server shows the key");
        let kept = folders
            .iter()
            .filter(|folder| folder.path().join("local.toml").exists())
            .count();
        assert_eq!(kept, 1, "exactly one server stores a key file");
        drop(servers);
        // On restart, only the server with the key shows it.
        for folder in &folders {
            let server = Server::run(shared.command(folder).arg("serve"));
            let has_key = folder.path().join("local.toml").exists();
            assert_eq!(welcome(&server) == "Haversack is ready.", has_key);
        }
        let listed = run(shared.command(&folders[0]).args(["partner", "list"]));
        assert!(listed.status.success(), "{}", stderr(&listed));
        assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), 1);
    }
}
