//! Reads and writes partners, their API keys and their lines.

use std::collections::HashSet;

use super::row::{parsed, text};
use super::{Connection, Error};
use crate::clock::Timestamp;
use crate::domain::chat::Line;
use crate::domain::handle::PhoneNumber;
use crate::domain::tier::Tier;
use crate::id::{LineId, PartnerId};

pub async fn insert(
    db: &mut Connection,
    id: PartnerId,
    name: &str,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query("INSERT INTO partners (id, name, created_at) VALUES ($1, $2, $3)")
        .bind(id.to_string())
        .bind(name)
        .bind(now.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

pub async fn insert_key(
    db: &mut Connection,
    partner: PartnerId,
    key_hash: &str,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query("INSERT INTO api_keys (key_hash, partner_id, created_at) VALUES ($1, $2, $3)")
        .bind(key_hash)
        .bind(partner.to_string())
        .bind(now.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

pub async fn insert_line(
    db: &mut Connection,
    partner: PartnerId,
    number: &PhoneNumber,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO lines (id, partner_id, phone_number, created_at) VALUES ($1, $2, $3, $4)",
    )
    .bind(LineId::new().to_string())
    .bind(partner.to_string())
    .bind(number.as_str())
    .bind(now.as_millis())
    .execute(db)
    .await?;
    Ok(())
}

/// Returns the partner that owns an API key, looked up by the key's hash.
pub async fn by_key(db: &mut Connection, key_hash: &str) -> Result<Option<PartnerId>, Error> {
    let row = sqlx::query("SELECT partner_id FROM api_keys WHERE key_hash = $1")
        .bind(key_hash)
        .fetch_optional(db)
        .await?;
    row.map(|row| parsed(&row, "partner_id", PartnerId::parse))
        .transpose()
}

/// Returns ids and names of all partners, oldest first.
pub async fn all(db: &mut Connection) -> Result<Vec<(PartnerId, String)>, Error> {
    let rows = sqlx::query("SELECT id, name FROM partners ORDER BY id")
        .fetch_all(db)
        .await?;
    rows.iter()
        .map(|row| Ok((parsed(row, "id", PartnerId::parse)?, text(row, "name")?)))
        .collect()
}

/// Returns a partner's lines, oldest first.
pub async fn lines(db: &mut Connection, partner: PartnerId) -> Result<Vec<Line>, Error> {
    let rows = sqlx::query("SELECT id, phone_number FROM lines WHERE partner_id = $1 ORDER BY id")
        .bind(partner.to_string())
        .fetch_all(db)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Line {
                id: parsed(row, "id", LineId::parse)?,
                phone_number: parsed(row, "phone_number", PhoneNumber::parse)?,
            })
        })
        .collect()
}

/// Returns true if a phone number is a line of the partner.
pub async fn owns_line(
    db: &mut Connection,
    partner: PartnerId,
    number: &PhoneNumber,
) -> Result<bool, Error> {
    let row = sqlx::query("SELECT id FROM lines WHERE partner_id = $1 AND phone_number = $2")
        .bind(partner.to_string())
        .bind(number.to_string())
        .fetch_optional(db)
        .await?;
    Ok(row.is_some())
}

/// Returns the tier of a partner's uploads.
pub async fn tier(db: &mut Connection, partner: PartnerId) -> Result<Tier, Error> {
    let ephemeral =
        sqlx::query("SELECT id FROM partners WHERE id = $1 AND ephemeral_since IS NOT NULL")
            .bind(partner.to_string())
            .fetch_optional(db)
            .await?;
    Ok(if ephemeral.is_some() {
        Tier::Ephemeral
    } else {
        Tier::Persistent
    })
}

/// Returns the tier of files that are fetched for messages from a line: ephemeral if the line or
/// its partner is.
pub async fn tier_of_line(
    db: &mut Connection,
    partner: PartnerId,
    number: &PhoneNumber,
) -> Result<Tier, Error> {
    let ephemeral =
        sqlx::query("SELECT id FROM lines WHERE partner_id = $1 AND phone_number = $2 AND ephemeral_since IS NOT NULL")
            .bind(partner.to_string())
            .bind(number.as_str())
            .fetch_optional(&mut *db)
            .await?;
    if ephemeral.is_some() {
        Ok(Tier::Ephemeral)
    } else {
        tier(db, partner).await
    }
}

/// Sets the tier of a partner. Returns false if there is no partner of that name.
pub async fn set_tier(
    db: &mut Connection,
    name: &str,
    tier: Tier,
    now: Timestamp,
) -> Result<bool, Error> {
    set_ephemeral(
        db,
        "UPDATE partners SET ephemeral_since = $2 WHERE name = $1",
        name,
        tier,
        now,
    )
    .await
}

/// Sets the tier of a line. Returns false if there is no line with that number.
pub async fn set_line_tier(
    db: &mut Connection,
    number: &PhoneNumber,
    tier: Tier,
    now: Timestamp,
) -> Result<bool, Error> {
    let statement = "UPDATE lines SET ephemeral_since = $2 WHERE phone_number = $1";
    set_ephemeral(db, statement, number.as_str(), tier, now).await
}

async fn set_ephemeral(
    db: &mut Connection,
    statement: &'static str,
    of: &str,
    tier: Tier,
    now: Timestamp,
) -> Result<bool, Error> {
    let since = (tier == Tier::Ephemeral).then(|| now.as_millis());
    let done = sqlx::query(statement)
        .bind(of)
        .bind(since)
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Returns the partners and lines whose tier is ephemeral.
pub async fn ephemeral(
    db: &mut Connection,
) -> Result<(HashSet<PartnerId>, HashSet<LineId>), Error> {
    let partners = sqlx::query("SELECT id FROM partners WHERE ephemeral_since IS NOT NULL")
        .fetch_all(&mut *db)
        .await?;
    let lines = sqlx::query("SELECT id FROM lines WHERE ephemeral_since IS NOT NULL")
        .fetch_all(db)
        .await?;
    let partners = partners
        .iter()
        .map(|row| parsed(row, "id", PartnerId::parse))
        .collect::<Result<_, _>>()?;
    let lines = lines
        .iter()
        .map(|row| parsed(row, "id", LineId::parse))
        .collect::<Result<_, _>>()?;
    Ok((partners, lines))
}
