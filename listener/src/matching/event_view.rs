//! An event as conditions see it. Its images are read when the first condition looks into them,
//! and once, however many conditions look.

use std::cell::OnceCell;

use super::cel::value::{Fields, JsonError};
use crate::delivery::event::Event;

/// One event under evaluation.
#[derive(Debug)]
pub struct EventView<'e> {
    event: &'e Event,
    old: OnceCell<Result<Image<'e>, JsonError>>,
    new: OnceCell<Result<Image<'e>, JsonError>>,
}

/// One of an event's images.
#[derive(Debug)]
pub(crate) enum Image<'e> {
    /// There is none: the operation has none on this side.
    Absent,
    /// A row, or a payload that is an object.
    Row(Fields<'e>),
    /// A payload that is no object.
    Other(&'e str),
}

/// Before or after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Before.
    Old,
    /// After.
    New,
}

impl Side {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New => "new",
        }
    }
}

impl<'e> EventView<'e> {
    /// A view in which nothing has been read yet.
    #[must_use]
    pub const fn new(event: &'e Event) -> Self {
        Self {
            event,
            old: OnceCell::new(),
            new: OnceCell::new(),
        }
    }

    /// The event.
    #[must_use]
    pub const fn event(&self) -> &'e Event {
        self.event
    }

    /// The image on one side.
    pub(crate) fn image(&self, side: Side) -> Result<&Image<'e>, JsonError> {
        let (cell, image) = match side {
            Side::Old => (&self.old, &self.event.old),
            Side::New => (&self.new, &self.event.new),
        };
        cell.get_or_init(
            || match image.as_ref().map(|image| image.get().trim_ascii()) {
                None => Ok(Image::Absent),
                Some(text) if text.starts_with('{') => Fields::read(text).map(Image::Row),
                Some(text) => Ok(Image::Other(text)),
            },
        )
        .as_ref()
        .map_err(|error| *error)
    }
}
