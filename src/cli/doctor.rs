//! Implements `haversack doctor`, which checks the configuration and the system without changing
//! server data.

use std::net::TcpListener;
use std::path::Path;

use super::block_on;
use crate::app;
use crate::blob::S3Store;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::{self, Db, Engine, SchemaStatus, ServerInfo};
use crate::fetch::EgressPolicy;
use crate::partners;
use crate::sandbox::{Confinement, Sandbox};
use crate::transcode::Ffmpeg;

/// Maximum clock difference between this machine and PostgreSQL, in milliseconds. Servers that
/// share a database tolerate a difference of eight seconds between each other.
const MAX_CLOCK_SKEW_MS: u64 = 2000;

pub(super) fn run(config: &Config) -> anyhow::Result<()> {
    // Each check returns the state it found, or the problem and how to fix it.
    let results: Vec<(&str, Result<String, String>)> = block_on(async {
        Ok(vec![
            ("data folder", folder(&config.storage.data_dir)),
            ("file contents", files(config).await),
            ("address", address(config)),
            ("URLs", urls(config)),
            ("media URLs", media_urls(config)),
            ("decoders", decoders(config).await),
            ("ffmpeg", ffmpeg(config).await),
            ("database", database(config).await),
        ])
    })?;
    for (name, result) in &results {
        match result {
            Ok(state) => print_line!("ok    {name}: {state}"),
            Err(problem) => print_line!("wrong {name}: {problem}"),
        }
    }
    let wrong = results.iter().filter(|(_, result)| result.is_err()).count();
    if wrong > 0 {
        anyhow::bail!("{wrong} of {} checks failed", results.len());
    }
    Ok(())
}

/// Checks that a folder is writable or can be created.
fn folder(path: &Path) -> Result<String, String> {
    let existing = path
        .ancestors()
        .find(|folder| folder.exists() || folder.as_os_str().is_empty());
    let existing = existing
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    tempfile::tempfile_in(existing).map_err(|error| {
        format!(
            "cannot write in {} ({error}): change its owner or mode, or choose another \
             (HAVERSACK_DATA_DIR, HAVERSACK_BLOBS_URL, HAVERSACK_DATABASE_URL)",
            existing.display()
        )
    })?;
    let note = if path.exists() {
        ""
    } else {
        " (will be created on first start)"
    };
    Ok(format!("{}{note}", path.display()))
}

/// Checks the blob store: a bucket must be able to store, return, copy and delete an object.
async fn files(config: &Config) -> Result<String, String> {
    let Some(bucket) = &config.storage.bucket else {
        let shared = Engine::of(&config.storage.database_url) == Some(Engine::Postgres);
        let note = if shared {
            "; for a single server only: several servers need a bucket"
        } else {
            ""
        };
        return folder(&config.storage.blobs_dir).map(|folder| format!("{folder}{note}"));
    };
    // A temporary folder, because a running server uses the store's own working folder.
    let working = tempfile::tempdir()
        .map_err(|error| format!("cannot create a temporary folder ({error})"))?;
    let store = S3Store::open(bucket.clone(), working.path()).map_err(|error| error.to_string())?;
    let storage = bucket.location();
    store
        .probe()
        .await
        .map_err(|error| format!("{storage}: {error}"))?;
    Ok(format!(
        "{storage}: an object was written, read, copied and deleted"
    ))
}

/// Returns the ffmpeg version. A missing ffmpeg is not an error, because only CAF conversion needs
/// it.
async fn ffmpeg(config: &Config) -> Result<String, String> {
    let Some(program) = config.conversion.ffmpeg() else {
        return Ok("not used; CAF is delivered as it is".to_owned());
    };
    let without = |problem: &str| {
        format!("{problem}: CAF is delivered as it is; install ffmpeg or set HAVERSACK_FFMPEG")
    };
    let found = match Ffmpeg::find(program, Sandbox::new(config.program.clone())) {
        Ok(found) => found,
        Err(problem) => return Ok(without(&problem)),
    };
    Ok(match found.probe().await {
        Ok(probe) => format!("{} at {}", probe.version, found.program().display()),
        Err(problem) => without(problem),
    })
}

/// Reports which sandbox restrictions apply to decoder processes. Decoders also work without them,
/// but a vulnerability in a decoder then exposes the whole server.
async fn decoders(config: &Config) -> Result<String, String> {
    let sandbox = Sandbox::new(config.program.clone());
    let confinement = sandbox
        .probe()
        .await
        .map_err(|error| format!("cannot start a decoder process ({error})"))?;
    let Confinement {
        limited,
        dies_with_parent,
        no_files,
        no_network,
        no_processes,
    } = confinement;
    let parts = [
        (
            limited,
            "limits of memory, CPU time and output",
            "a system with setrlimit",
        ),
        (dies_with_parent, "killed with the server", "Linux"),
        (no_files, "no files", "Linux 5.13 with Landlock"),
        (no_network, "no network", "Linux with seccomp"),
        (no_processes, "no further processes", "Linux with seccomp"),
    ];
    let join = |is_active: bool| {
        let parts = parts.iter().filter(|(active, ..)| *active == is_active);
        parts
            .map(|(_, part, requirement)| {
                if is_active {
                    (*part).to_owned()
                } else {
                    format!("{part} (needs {requirement})")
                }
            })
            .collect::<Vec<_>>()
            .join(", ")
    };
    let missing = join(false);
    let missing = if missing.is_empty() {
        missing
    } else {
        format!("; NOT: {missing}")
    };
    Ok(format!("confined: {}{missing}", join(true)))
}

fn media_urls(config: &Config) -> Result<String, String> {
    let roots = app::certificate_authorities(config.fetch.ca_file.as_deref())
        .map_err(|error| format!("{error:#}"))?;
    let EgressPolicy { nets, ports } = config.fetch.egress_policy();
    let beyond = match (nets.as_slice(), ports.as_slice()) {
        ([], []) => "public hosts on port 443 only".to_owned(),
        (nets, ports) => {
            format!("public hosts on port 443, and networks {nets:?}, ports {ports:?}")
        }
    };
    Ok(format!("{beyond}; {} certificate authorities", roots.len()))
}

fn address(config: &Config) -> Result<String, String> {
    match TcpListener::bind(config.server.listen) {
        Ok(_) => Ok(format!("{} is free", config.server.listen)),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(format!(
            "{} is in use: fine if this server is running",
            config.server.listen
        )),
        Err(error) => Err(format!(
            "cannot listen on {} ({error}): set HAVERSACK_LISTEN",
            config.server.listen
        )),
    }
}

fn urls(config: &Config) -> Result<String, String> {
    if config.server.listen.ip().is_unspecified() && config.urls.public_url.is_none() {
        return Err(format!(
            "{} listens on every address, but upload URLs would contain 127.0.0.1, which only this \
             machine can reach: set HAVERSACK_PUBLIC_URL to the address that clients use",
            config.server.listen
        ));
    }
    let public = config.urls.public_url.as_ref().map_or_else(
        || format!("http://{}", config.server.listen),
        |url| url.join(""),
    );
    let cdn = config
        .urls
        .cdn_url
        .as_ref()
        .map_or_else(|| public.clone(), |url| url.join(""));
    Ok(format!("API and uploads at {public}, files at {cdn}"))
}

async fn database(config: &Config) -> Result<String, String> {
    if let Some(path) = config.storage.database_path().filter(|path| !path.exists()) {
        return folder(path.parent().unwrap_or(&path))
            .map(|_| format!("{} will be created on first start", path.display()));
    }
    let db = Db::open_unchanged(&config.storage.database_url)
        .await
        .map_err(|error| match server(config) {
            Some(server) => format!(
                "{server}: {error}: check HAVERSACK_DATABASE_URL, and that the server is running"
            ),
            None => error.to_string(),
        })?;
    let kind = match db.server_info().await.map_err(|error| error.to_string())? {
        Some(about) => postgres(config, &about)?,
        None => "SQLite".to_owned(),
    };
    match db
        .schema_status()
        .await
        .map_err(|error| error.to_string())?
    {
        SchemaStatus::None => {
            return Ok(format!(
                "{kind}, opened, durable; its schema will be created on first start"
            ));
        }
        SchemaStatus::Older => {
            return Ok(format!(
                "{kind}, opened, durable; its schema is that of an older version: make a backup; the \
                 next start or haversack migrate updates it"
            ));
        }
        SchemaStatus::Newer => {
            return Err(format!(
                "{kind}: its schema is that of a newer version; run that version, or restore a backup \
                 made before the upgrade"
            ));
        }
        SchemaStatus::Current => {}
    }
    let partners = partners::list(&db)
        .await
        .map_err(|error| error.to_string())?;
    match partners.iter().find(|partner| partner.lines.is_empty()) {
        Some(partner) => Err(format!(
            "partner {} has no phone number and cannot send: add another with haversack partner add \
             NAME --phone-number +1...",
            partner.name
        )),
        None => Ok(format!(
            "{kind}, opened, durable, {} partner(s)",
            partners.len()
        )),
    }
}

/// Returns the address of the PostgreSQL server without its password, or `None` if the configured
/// database is not PostgreSQL.
fn server(config: &Config) -> Option<String> {
    let url = &config.storage.database_url;
    let of_postgres = Engine::of(url) == Some(Engine::Postgres);
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    of_postgres.then(|| {
        format!(
            "PostgreSQL at {}{port}{}",
            url.host_str().unwrap_or_default(),
            url.path()
        )
    })
}

/// Checks the requirements on PostgreSQL other than durability: encoding, clock and connection
/// limit.
fn postgres(config: &Config, about: &ServerInfo) -> Result<String, String> {
    let ServerInfo {
        version,
        encoding,
        max_connections,
        now,
    } = about;
    let name = format!("PostgreSQL {version}");
    if encoding != "UTF8" {
        return Err(format!(
            "{name}: the database is in {encoding}: create it with ENCODING 'UTF8' TEMPLATE \
             template0"
        ));
    }
    let apart = Clock::system().now().as_millis().abs_diff(now.as_millis());
    if apart > MAX_CLOCK_SKEW_MS {
        return Err(format!(
            "{name}: its clock and that of this machine are {apart} ms apart: synchronize all servers \
             with NTP"
        ));
    }
    let own = config.database.connections + db::LOCK_CONNECTIONS;
    if i64::from(own) > *max_connections {
        return Err(format!(
            "{name}: it accepts {max_connections} connections, and this server alone may open {own}: \
             raise max_connections or lower HAVERSACK_DATABASE_CONNECTIONS"
        ));
    }
    Ok(format!("{name}, {own} of {max_connections} connections"))
}
