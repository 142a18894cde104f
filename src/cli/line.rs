//! Implements `haversack line set`, which changes the settings of a phone number.

use clap::{Args, Subcommand};

use super::block_on;
use super::partner::{number, tier};
use crate::clock::Clock;
use crate::config::Config;
use crate::db::Db;
use crate::domain::handle::PhoneNumber;
use crate::domain::tier::Tier;
use crate::partners::{self, TierOf};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Change the settings of a phone number
    Set {
        /// The phone number, in E.164 form
        #[arg(value_name = "NUMBER", value_parser = number)]
        number: PhoneNumber,
        /// Retention of files fetched for its messages from now on: `persistent` (until deleted) or
        /// `ephemeral` (one to two days). Files of an ephemeral partner are always ephemeral
        #[arg(long, value_name = "TIER", value_parser = tier)]
        tier: Tier,
    },
}

pub(super) fn run(config: &Config, arguments: Arguments) -> anyhow::Result<()> {
    let Command::Set { number, tier } = arguments.command;
    block_on(async {
        std::fs::create_dir_all(&config.storage.data_dir)?;
        let db = Db::open(&config.storage.database_url).await?;
        partners::set_tier(&db, &Clock::system(), TierOf::Line(number.clone()), tier).await?;
        print_line!(
            "number   {number} is {} from now on; existing files keep their tier",
            tier.as_str()
        );
        Ok(())
    })
}
