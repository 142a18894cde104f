//! Implements `haversack gc`, which finds orphaned files and attachments with missing files.

use anyhow::bail;
use clap::Args;

use super::block_on;
use crate::clock::Clock;
use crate::config::Config;
use crate::maintenance::gc;
use crate::storage::Storage;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only report what would be deleted
    #[arg(long)]
    dry_run: bool,
}

/// Maximum number of lines printed per category.
const SHOWN: usize = 100;

pub(super) fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<()> {
    block_on(async {
        let scratch = tempfile::tempdir()?;
        let storage = Storage::attach(&config.storage, scratch.path()).await?;
        let found = gc::find(&storage, crate::clock::system_time()).await?;
        print_line!("{} files referenced by attachments", found.referenced);
        if found.recent > 0 {
            print_line!(
                "{} unreferenced files younger than a day: ignored",
                found.recent
            );
        }
        show("unrecognized, ignored", found.unrecognized.iter().cloned());
        let bytes: u64 = found.orphaned.iter().map(|(_, size)| size).sum();
        let what = if arguments.dry_run {
            "orphaned"
        } else {
            "orphaned; queued for deletion"
        };
        show(
            what,
            found
                .orphaned
                .iter()
                .map(|(key, size)| format!("{key} ({size} bytes)")),
        );
        print_line!("{} orphaned files, {bytes} bytes", found.orphaned.len());
        show(
            "missing",
            found
                .missing
                .iter()
                .map(|(id, problem)| format!("attachment {id}: {problem}")),
        );
        if !arguments.dry_run && !found.orphaned.is_empty() {
            gc::enqueue_deletion(&storage, found.orphaned, Clock::system().now()).await?;
            print_line!(
                "a running server deletes them within a minute, or else the next server that starts"
            );
        }
        if !found.missing.is_empty() {
            bail!(
                "{} attachments have no file: restore the files from a backup, or delete the \
                 attachments",
                found.missing.len()
            );
        }
        Ok(())
    })
}

fn show(what: &str, lines: impl ExactSizeIterator<Item = String>) {
    let more = lines.len().saturating_sub(SHOWN);
    for line in lines.take(SHOWN) {
        print_line!("{what}: {line}");
    }
    if more > 0 {
        print_line!("{what}: {more} more");
    }
}
