//! Implements `haversack partner add`, `set` and `list`, which manage partners.

use clap::{Args, Subcommand};

use super::block_on;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::Db;
use crate::domain::api_key;
use crate::domain::chat::Line;
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
    /// Add a partner with its phone numbers and an API key, which is shown only once
    Add {
        /// Name of the partner
        name: String,
        /// API key; by default a new random one
        #[arg(long, value_name = "KEY", value_parser = key)]
        api_key: Option<String>,
        /// A phone number that the partner may send from, in E.164 form; can be given several times
        #[arg(long = "phone-number", value_name = "NUMBER", value_parser = number)]
        phone_numbers: Vec<PhoneNumber>,
    },
    /// Change the settings of a partner
    Set {
        /// Name of the partner
        name: String,
        /// Retention of its files from now on: `persistent` (until deleted) or `ephemeral` (one to
        /// two days)
        #[arg(long, value_name = "TIER", value_parser = tier)]
        tier: Tier,
    },
    /// List the partners and their phone numbers, and which of them are ephemeral
    List,
}

fn key(text: &str) -> Result<String, String> {
    api_key::check(text).map(|()| text.to_owned())
}

pub(super) fn tier(text: &str) -> Result<Tier, String> {
    Tier::parse(text).ok_or_else(|| "a tier is persistent or ephemeral".to_owned())
}

pub(super) fn number(text: &str) -> Result<PhoneNumber, String> {
    PhoneNumber::parse(text)
        .ok_or_else(|| "not a phone number in E.164 form, such as +12025550100".to_owned())
}

pub(super) fn run(config: &Config, arguments: Arguments) -> anyhow::Result<()> {
    block_on(async {
        std::fs::create_dir_all(&config.storage.data_dir)?;
        let db = Db::open(&config.storage.database_url).await?;
        match arguments.command {
            Command::Add {
                name,
                api_key,
                phone_numbers,
            } => add(&db, name, api_key, phone_numbers).await,
            Command::Set { name, tier } => {
                partners::set_tier(&db, &Clock::system(), TierOf::Partner(name.clone()), tier)
                    .await?;
                print_line!(
                    "partner  {name} is {} from now on; existing files keep their tier",
                    tier.as_str()
                );
                Ok(())
            }
            Command::List => list(&db).await,
        }
    })
}

async fn add(
    db: &Db,
    name: String,
    key: Option<String>,
    numbers: Vec<PhoneNumber>,
) -> anyhow::Result<()> {
    let key = key.unwrap_or_else(api_key::generate);
    let id = partners::add(db, &Clock::system(), name.clone(), &key, numbers.clone()).await?;
    print_line!("partner  {name} ({id})");
    print_line!("API key  {key}   (shown only once)");
    for number in numbers {
        print_line!("number   {number}");
    }
    Ok(())
}

async fn list(db: &Db) -> anyhow::Result<()> {
    let (ephemeral_partners, ephemeral_lines) = partners::ephemeral(db).await?;
    let mark = |ephemeral| if ephemeral { " (ephemeral)" } else { "" };
    for partner in partners::list(db).await? {
        let number = |line: &Line| {
            format!(
                "{}{}",
                line.phone_number,
                mark(ephemeral_lines.contains(&line.id))
            )
        };
        let numbers: Vec<String> = partner.lines.iter().map(number).collect();
        let mark = mark(ephemeral_partners.contains(&partner.id));
        print_line!(
            "{}  {}{mark}  {}",
            partner.id,
            partner.name,
            numbers.join(" ")
        );
    }
    Ok(())
}
