//! Size limits of an event's fields. A larger field is not read: its event becomes a dead letter, and
//! the rest continues.

use sqlx::Row;
use sqlx::postgres::PgRow;

/// Maximum bytes of both images together.
pub const MAX_EVENT_BYTES: i64 = 16 << 20;

/// Maximum bytes of a key: triggers log any.
pub const MAX_KEY_BYTES: i32 = 8 << 10;

/// Maximum bytes of a tenant.
pub const MAX_TENANT_BYTES: i32 = 8 << 10;

/// Maximum bytes of an entity's name.
pub const MAX_ENTITY_BYTES: i32 = 255;

/// A field of the event is larger than allowed; with its size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OversizedField {
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

/// Returns the first field of a page's row that is larger than allowed.
pub(crate) fn oversized(row: &PgRow) -> Result<Option<OversizedField>, sqlx::Error> {
    let over = |column: usize, most: i64| -> Result<Option<i32>, sqlx::Error> {
        let bytes: i32 = row.try_get(column)?;
        Ok((i64::from(bytes) > most).then_some(bytes))
    };
    let texts = over(13, MAX_ENTITY_BYTES.into())?
        .map(OversizedField::Entity)
        .or(over(14, MAX_KEY_BYTES.into())?.map(OversizedField::Key))
        .or(over(15, MAX_TENANT_BYTES.into())?.map(OversizedField::Tenant));
    Ok(texts.or(over(2, MAX_EVENT_BYTES)?.map(OversizedField::Images)))
}
