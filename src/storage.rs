//! Storage of a server: its database and its blob store, opened, and locked where they are local.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use crate::blob::{BlobStore, LocalStore, S3Store};
use crate::config::Config;
use crate::db::{Db, SchemaStatus};

/// An open database and an open blob store.
#[derive(Debug)]
pub struct Storage {
    pub db: Db,
    pub blobs: Arc<dyn BlobStore>,
    /// Locks of the data folder, the blob folder and the database file.
    _locks: Vec<File>,
}

impl Storage {
    /// Opens the storage of a server: creates missing folders, locks them, and migrates the schema.
    /// A bucket and a PostgreSQL database may be shared with other servers.
    ///
    /// # Errors
    /// A folder is in use or cannot be written, or the database cannot be opened or is not durable.
    pub async fn open_exclusive(config: &Config) -> anyhow::Result<Self> {
        create_private(&config.data_dir)?;
        create_private(&config.blobs_dir)?;
        let mut locks = vec![
            lock(&config.data_dir, "serve.lock")?,
            lock(&config.blobs_dir, "blobs.lock")?,
        ];
        locks.extend(
            config
                .database_path()
                .map(|path| lock_database(&path))
                .transpose()?,
        );
        let blobs: Arc<dyn BlobStore> = match &config.bucket {
            Some(bucket) => Arc::new(S3Store::open(bucket.clone(), &config.blobs_dir)?),
            None => Arc::new(LocalStore::open(&config.blobs_dir)?),
        };
        Ok(Self {
            db: open_database(config).await?,
            blobs,
            _locks: locks,
        })
    }

    /// Attaches to storage that a running server may hold, without migrating or locking it.
    /// Temporary files go to `scratch`.
    ///
    /// # Errors
    /// There is no database, it cannot be opened, or its schema has another version.
    pub async fn attach(config: &Config, scratch: &Path) -> anyhow::Result<Self> {
        if let Some(path) = config.database_path().filter(|path| !path.exists()) {
            anyhow::bail!(
                "there is no database at {}: start a server there first",
                path.display()
            );
        }
        let blobs: Arc<dyn BlobStore> = match &config.bucket {
            Some(bucket) => Arc::new(S3Store::open(bucket.clone(), scratch)?),
            None => Arc::new(LocalStore::attach(&config.blobs_dir, scratch)?),
        };
        let db = Db::open_unchanged(&config.database_url).await?;
        let tables = db.schema_status().await?;
        anyhow::ensure!(
            tables == SchemaStatus::Current,
            "the tables are of another version than this program ({tables:?})"
        );
        Ok(Self {
            db,
            blobs,
            _locks: Vec::new(),
        })
    }
}

async fn open_database(config: &Config) -> anyhow::Result<Db> {
    let connections = u32::try_from(config.limits.database_connections).unwrap_or(u32::MAX);
    Ok(Db::open_with(&config.database_url, connections).await?)
}

/// Creates a folder that only its owner can read, and syncs its parent, so that a power cut cannot
/// remove it. An existing folder is left alone: its parent may not even be readable.
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

/// Locks the database by a file beside it.
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

/// Locks a folder: two servers on one folder would delete the temporary files of each other.
fn lock(folder: &Path, name: &str) -> anyhow::Result<File> {
    let path = folder.join(name);
    let file = File::create(&path)
        .with_context(|| format!("cannot write in the folder {}", folder.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => anyhow::bail!(
            "another haversack serves from {} already: stop it, or choose another with --data-dir, --blobs-url or --database-url",
            folder.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}
