//! Opens a server's storage, that is, its database and blob store, and locks the parts that are
//! local.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use url::Url;

use crate::blob::s3::{self, S3Config};
use crate::blob::{BlobStore, LocalStore, S3Store};
use crate::db::{self, Db, Engine, SchemaStatus};

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Storage")]
pub struct Config {
    /// Data folder: everything that is not in a database or blob store of its own
    #[arg(long, value_name = "DIR", default_value = "haversack-data")]
    pub data_dir: PathBuf,
    /// Database, as `sqlite:///path?mode=rwc` or `postgres://user:password@host/name`; by default
    /// `haversack.db` in the data folder
    #[arg(long, value_parser = db::parse_url)]
    pub database_url: Option<Url>,
    /// Blob store: a folder, as `file:/path`, or a bucket, as
    /// `s3://bucket/prefix?region=...&endpoint=...`; by default the data folder
    #[arg(long)]
    pub blobs_url: Option<String>,
}

/// A server's folders, database and bucket, resolved from its settings.
#[derive(Clone, Debug)]
pub struct Locations {
    pub data_dir: PathBuf,
    pub database_url: Url,
    /// Folder that contains the blobs or, with a bucket, files on their way there.
    pub blobs_dir: PathBuf,
    /// Bucket that contains the blobs; `None` if they are in the folder.
    pub bucket: Option<S3Config>,
}

impl Config {
    /// Resolves the settings to locations. `variable` returns the value of an environment variable.
    ///
    /// # Errors
    /// `blobs_url` is invalid.
    pub(crate) fn resolve(
        self,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Locations, String> {
        let mut locations = Locations {
            database_url: self
                .database_url
                .unwrap_or_else(|| sqlite_url(&self.data_dir)),
            blobs_dir: self.data_dir.clone(),
            data_dir: self.data_dir,
            bucket: None,
        };
        match self.blobs_url.as_deref() {
            None => {}
            Some(text) if text.starts_with("s3:") => {
                locations.bucket = Some(s3::url::parse(text, variable)?);
            }
            Some(text) => {
                locations.blobs_dir = file_path(text).ok_or_else(|| {
                    format!(
                        "{text:?} is not supported; use file:/path/of/a/folder or \
                         s3://bucket/prefix"
                    )
                })?;
            }
        }
        Ok(locations)
    }
}

impl Locations {
    /// Returns the path of the database file, or `None` if the database is not SQLite.
    #[must_use]
    pub fn database_path(&self) -> Option<PathBuf> {
        let path = percent_encoding::percent_decode_str(self.database_url.path());
        let path = path.decode_utf8_lossy();
        (Engine::of(&self.database_url) == Some(Engine::Sqlite)).then(|| path.into_owned().into())
    }
}

/// Returns the path in a `file:` URL without a host (RFC 8089).
fn file_path(text: &str) -> Option<PathBuf> {
    if !text.starts_with("file:/") {
        return None;
    }
    Url::parse(text).ok()?.to_file_path().ok()
}

/// Returns the SQLite URL for the database in a data folder. `mode=rwc` lets SQLite create the
/// file.
fn sqlite_url(data_dir: &Path) -> Url {
    let path = data_dir.join("haversack.db");
    let path = std::path::absolute(&path).unwrap_or(path);
    // Url::from_file_path percent-encodes characters that are valid in a path but not in a URL.
    let file = Url::from_file_path(path).expect("the path is absolute");
    Url::parse(&format!("sqlite://{}?mode=rwc", file.path()))
        .expect("a file URL makes a SQLite URL")
}

/// A server's open database and blob store.
#[derive(Debug)]
pub struct Storage {
    pub db: Db,
    pub blobs: Arc<dyn BlobStore>,
    /// Lock files of the data folder, the blobs folder and the database.
    _locks: Vec<File>,
}

impl Storage {
    /// Opens storage for exclusive use by this process, creating missing folders and applying
    /// migrations. Other servers may use the same bucket and the same PostgreSQL database.
    ///
    /// # Errors
    /// A folder is in use or not writable, or the database cannot be opened or is not durable.
    pub async fn open_exclusive(
        locations: &Locations,
        database: &db::Config,
    ) -> anyhow::Result<Self> {
        create_private(&locations.data_dir)?;
        create_private(&locations.blobs_dir)?;
        let mut locks = vec![
            lock(&locations.data_dir, "serve.lock")?,
            lock(&locations.blobs_dir, "blobs.lock")?,
        ];
        if let Some(path) = locations.database_path() {
            locks.push(lock_database(&path)?);
        }
        let blobs: Arc<dyn BlobStore> = match &locations.bucket {
            Some(bucket) => Arc::new(S3Store::open(bucket.clone(), &locations.blobs_dir)?),
            None => Arc::new(LocalStore::open(&locations.blobs_dir)?),
        };
        Ok(Self {
            db: Db::open_with(&locations.database_url, database.connections).await?,
            blobs,
            _locks: locks,
        })
    }

    /// Opens storage that a running server may be using, without migrating or locking it. Temporary
    /// files go to `scratch`.
    ///
    /// # Errors
    /// The database does not exist, its schema is not current, or it cannot be opened.
    pub async fn attach(locations: &Locations, scratch: &Path) -> anyhow::Result<Self> {
        if let Some(path) = locations.database_path().filter(|path| !path.exists()) {
            anyhow::bail!(
                "there is no database at {}: start a server there first",
                path.display()
            );
        }
        let blobs: Arc<dyn BlobStore> = match &locations.bucket {
            Some(bucket) => Arc::new(S3Store::open(bucket.clone(), scratch)?),
            None => Arc::new(LocalStore::attach(&locations.blobs_dir, scratch)?),
        };
        let db = Db::open_unchanged(&locations.database_url).await?;
        let schema = db.schema_status().await?;
        anyhow::ensure!(
            schema == SchemaStatus::Current,
            "the schema is of another version than this program ({schema:?})"
        );
        Ok(Self {
            db,
            blobs,
            _locks: Vec::new(),
        })
    }
}

/// Creates a folder that only its owner can access. Syncs the parents of newly created folders, so
/// that these survive a power failure. An existing folder's parents are not synced, as they may be
/// unreadable.
fn create_private(folder: &Path) -> anyhow::Result<()> {
    let missing: Vec<PathBuf> = std::path::absolute(folder)?
        .ancestors()
        .take_while(|path| !path.exists())
        .map(Path::to_owned)
        .collect();
    let cannot = || format!("cannot create the folder {}", folder.display());
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(cannot)?;
    for parent in missing.iter().filter_map(|path| path.parent()) {
        File::open(parent)
            .and_then(|parent| parent.sync_all())
            .with_context(cannot)?;
    }
    Ok(())
}

/// Locks an SQLite database by means of a lock file beside it.
fn lock_database(path: &Path) -> anyhow::Result<File> {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
        + ".lock";
    let folder = path
        .parent()
        .context("HAVERSACK_DATABASE_URL names no file")?;
    lock(folder, &name)
}

/// Locks a folder for one server. A second server would delete the first one's temporary files when
/// it starts.
fn lock(folder: &Path, name: &str) -> anyhow::Result<File> {
    let path = folder.join(name);
    let file = File::create(&path)
        .with_context(|| format!("cannot write in the folder {}", folder.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => anyhow::bail!(
            "another haversack server uses {}: stop it, or choose another with --data-dir, \
             --blobs-url or --database-url",
            folder.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}
