//! Implements `haversack migrate`, which applies the database migrations and exits. Operators use
//! it if their servers run without DDL rights.

use super::block_on;
use crate::config::Config;
use crate::db::Db;

pub(super) fn run(config: &Config) -> anyhow::Result<()> {
    block_on(async {
        if let Some(folder) = config
            .storage
            .database_path()
            .as_deref()
            .and_then(std::path::Path::parent)
        {
            std::fs::create_dir_all(folder)?;
        }
        Db::open(&config.storage.database_url).await?;
        print_line!("the database schema is up to date");
        Ok(())
    })
}
