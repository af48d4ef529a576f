//! What of an event may be how long. What is longer is not read: its event is set aside, and the rest
//! goes on.

use sqlx::Row;
use sqlx::postgres::PgRow;

/// Most bytes of both images.
pub const MAX_EVENT_BYTES: i64 = 16 << 20;

/// Most bytes of a key: triggers take whatever a row has.
pub const MAX_KEY_BYTES: i32 = 8 << 10;

/// Most bytes of a tenant.
pub const MAX_TENANT_BYTES: i32 = 8 << 10;

/// Most bytes of an entity's name.
pub const MAX_ENTITY_BYTES: i32 = 255;

/// What of an event takes more bytes than it may, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// Both images together.
    #[error(
        "the row's images take {0} bytes and at most {MAX_EVENT_BYTES} are delivered: exclude large columns with \
         observer.track(..., exclude => array['column'])"
    )]
    Images(i32),
    /// The key.
    #[error(
        "the row's key takes {0} bytes and at most {MAX_KEY_BYTES} are delivered: track the table by a shorter one"
    )]
    Key(i32),
    /// The tenant.
    #[error(
        "the row's tenant takes {0} bytes and at most {MAX_TENANT_BYTES} are delivered: correct the row, or track the \
         table by another tenant column"
    )]
    Tenant(i32),
    /// The entity's name.
    #[error(
        "the entity's name takes {0} bytes and at most {MAX_ENTITY_BYTES} are delivered: give observer.emit a shorter one"
    )]
    Entity(i32),
}

/// What of a row of a page is too long.
pub(crate) fn excess(row: &PgRow) -> Result<Option<Excess>, sqlx::Error> {
    let over = |column: usize, most: i64| -> Result<Option<i32>, sqlx::Error> {
        let bytes: i32 = row.try_get(column)?;
        Ok((i64::from(bytes) > most).then_some(bytes))
    };
    let texts = over(13, MAX_ENTITY_BYTES.into())?
        .map(Excess::Entity)
        .or(over(14, MAX_KEY_BYTES.into())?.map(Excess::Key))
        .or(over(15, MAX_TENANT_BYTES.into())?.map(Excess::Tenant));
    Ok(texts.or(over(2, MAX_EVENT_BYTES)?.map(Excess::Images)))
}
