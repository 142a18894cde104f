//! Implements `haversack copy`, which copies all data to another database and blob store.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tempfile::TempDir;

use super::block_on;
use crate::attachments::CdnMode;
use crate::clock::Clock;
use crate::config::{Config, Settings};
use crate::db;
use crate::maintenance::copy::{self, Progress};
use crate::storage::Storage;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Source: the data folder of a server with default settings, or database URL and blobs URL
    /// joined by a comma
    #[arg(long, value_name = "PLACE")]
    from: String,
    /// Target, in the same format as --from
    #[arg(long, value_name = "PLACE")]
    to: String,
}

pub(super) fn run(settings: &Settings, arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.from == arguments.to {
        bail!("--from and --to are the same place");
    }
    block_on(async {
        let (from, _from_folder) = open(settings, &arguments.from, true)
            .await
            .context("--from")?;
        let (to, _to_folder) = open(settings, &arguments.to, false).await.context("--to")?;
        let bars = Bars::new();
        let moved = copy::copy(&from, &to, Clock::system().now(), &bars).await;
        bars.clear();
        let moved = moved.context(
            "stopped; run the same command again: files that are already copied are skipped",
        )?;
        print_line!(
            "{} attachments are in the target; {} of their files were copied now, each verified by \
             reading it back; {} other rows",
            moved.attachments,
            moved.files,
            moved.rows
        );
        if moved.pruned > 0 {
            print_line!(
                "{} rows of an earlier copy were deleted, as --from no longer contains them",
                moved.pruned
            );
        }
        for (id, why) in &moved.failed {
            print_line!("not copied: attachment {id}: {why}");
        }
        if !moved.failed.is_empty() {
            bail!("{} attachments could not be copied", moved.failed.len());
        }
        Ok(())
    })
}

/// Opens a database and its blob store. Uses a temporary working folder if `storage` is not a data
/// folder.
async fn open(
    settings: &Settings,
    storage: &str,
    must_exist: bool,
) -> anyhow::Result<(Storage, Option<TempDir>)> {
    let mut settings = settings.clone();
    let target = &mut settings.storage;
    let folder = if let Some((database, blobs)) = storage.split_once(',') {
        let folder = tempfile::tempdir()?;
        let database = db::parse_url(database)
            .map_err(|problem| anyhow!("invalid database URL: {problem}"))?;
        target.database_url = Some(database);
        target.blobs_url = Some(blobs.to_owned());
        target.data_dir = folder.path().into();
        Some(folder)
    } else if storage.contains(':') {
        bail!(
            "this is one URL: give the URLs of database and blobs, joined by a comma, or a data \
             folder"
        );
    } else {
        target.database_url = None;
        target.blobs_url = None;
        target.data_dir = storage.into();
        None
    };
    // The CDN mode only matters for serving, and could contradict the blob store.
    settings.attachments.cdn_mode = CdnMode::Proxy;
    let config = Config::resolve(settings, &|name| std::env::var(name).ok())?;
    if let Some(path) = config
        .storage
        .database_path()
        .filter(|path| must_exist && !path.exists())
    {
        bail!("there is no database at {}", path.display());
    }
    Ok((
        Storage::open_exclusive(&config.storage, &config.database).await?,
        folder,
    ))
}

/// Progress bars for files and rows; hidden if the output is not a terminal.
struct Bars {
    all: MultiProgress,
    files: ProgressBar,
    rows: ProgressBar,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let bar = |template| {
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = all.add(ProgressBar::new(0).with_style(style));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        };
        let files = bar("attachments {wide_bar} {pos}/{len} {msg} {eta}");
        let rows = bar("other rows  {wide_bar} {pos}/{len}");
        Self { all, files, rows }
    }

    fn clear(&self) {
        let _ = self.all.clear();
    }
}

impl Progress for Bars {
    fn total(&self, attachments: u64, rows: u64) {
        self.files.set_length(attachments);
        self.rows.set_length(rows);
    }

    fn attachment(&self) {
        self.files.inc(1);
    }

    fn rows(&self, count: u64) {
        self.rows.inc(count);
    }
}
