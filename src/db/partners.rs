//! Partners, their API keys and their lines.

use super::row::{parsed, text};
use super::{Connection, Error};
use crate::clock::Timestamp;
use crate::domain::chat::Line;
use crate::domain::handle::PhoneNumber;
use crate::id::{LineId, PartnerId};

/// Adds a partner.
pub async fn insert(db: &mut Connection, id: PartnerId, name: &str, now: Timestamp) -> Result<(), Error> {
    sqlx::query("INSERT INTO partners (id, name, created_at) VALUES ($1, $2, $3)")
        .bind(id.to_string())
        .bind(name)
        .bind(now.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

/// Adds a key, by its hash.
pub async fn insert_key(db: &mut Connection, partner: PartnerId, key_hash: &str, now: Timestamp) -> Result<(), Error> {
    sqlx::query("INSERT INTO api_keys (key_hash, partner_id, created_at) VALUES ($1, $2, $3)")
        .bind(key_hash)
        .bind(partner.to_string())
        .bind(now.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

/// Adds a line.
pub async fn insert_line(
    db: &mut Connection,
    partner: PartnerId,
    number: &PhoneNumber,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query("INSERT INTO lines (id, partner_id, phone_number, created_at) VALUES ($1, $2, $3, $4)")
        .bind(LineId::new().to_string())
        .bind(partner.to_string())
        .bind(number.as_str())
        .bind(now.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

/// The partner behind a key, by its hash.
pub async fn by_key(db: &mut Connection, key_hash: &str) -> Result<Option<PartnerId>, Error> {
    let row =
        sqlx::query("SELECT partner_id FROM api_keys WHERE key_hash = $1").bind(key_hash).fetch_optional(db).await?;
    row.map(|row| parsed(&row, "partner_id", PartnerId::parse)).transpose()
}

/// The partner of a name.
pub async fn by_name(db: &mut Connection, name: &str) -> Result<Option<PartnerId>, Error> {
    let row = sqlx::query("SELECT id FROM partners WHERE name = $1").bind(name).fetch_optional(db).await?;
    row.map(|row| parsed(&row, "id", PartnerId::parse)).transpose()
}

/// Every partner: id and name, oldest first.
pub async fn all(db: &mut Connection) -> Result<Vec<(PartnerId, String)>, Error> {
    let rows = sqlx::query("SELECT id, name FROM partners ORDER BY id").fetch_all(db).await?;
    rows.iter().map(|row| Ok((parsed(row, "id", PartnerId::parse)?, text(row, "name")?))).collect()
}

/// A partner's lines, oldest first.
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
