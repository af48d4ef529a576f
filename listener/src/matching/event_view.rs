//! An event as conditions see it. Its images are read when the first condition looks into them,
//! and once, however many conditions look.

use std::cell::OnceCell;

use cel::value::JsonError;
use cel::{Image, Inputs, Side};
use crds::config::Operation;

use crate::delivery::event::Event;

/// One event under evaluation.
#[derive(Debug)]
pub struct EventView<'e> {
    event: &'e Event,
    old: OnceCell<Result<Image<'e>, JsonError>>,
    new: OnceCell<Result<Image<'e>, JsonError>>,
    /// Results of lookups, a JSON object.
    enrich: Option<&'e str>,
    results: OnceCell<Result<Image<'e>, JsonError>>,
}

impl<'e> EventView<'e> {
    /// A view in which nothing has been read yet.
    #[must_use]
    pub const fn new(event: &'e Event) -> Self {
        Self {
            event,
            old: OnceCell::new(),
            new: OnceCell::new(),
            enrich: None,
            results: OnceCell::new(),
        }
    }

    /// A view with results of lookups, a JSON object.
    #[must_use]
    pub const fn with_lookups(event: &'e Event, results: Option<&'e str>) -> Self {
        let mut view = Self::new(event);
        view.enrich = results;
        view
    }

    /// The event.
    #[must_use]
    pub const fn event(&self) -> &'e Event {
        self.event
    }
}

impl Inputs for EventView<'_> {
    fn operation(&self) -> &str {
        self.event.operation.as_str()
    }

    fn entity(&self) -> &str {
        &self.event.entity
    }

    fn key(&self) -> Option<&str> {
        self.event.key.as_deref()
    }

    fn tenant(&self) -> Option<&str> {
        self.event.tenant.as_deref()
    }

    fn image(&self, side: Side) -> Result<&Image<'_>, JsonError> {
        let (cell, image) = match side {
            Side::Old => (&self.old, &self.event.old),
            Side::New => (&self.new, &self.event.new),
        };
        cell.get_or_init(|| Image::read(image.as_ref().map(|image| image.get())))
            .as_ref()
            .map_err(|error| *error)
    }

    fn enrich(&self) -> Result<&Image<'_>, JsonError> {
        self.results
            .get_or_init(|| Image::read(self.enrich))
            .as_ref()
            .map_err(|error| *error)
    }

    fn is_row_change(&self) -> bool {
        !matches!(
            self.event.operation,
            Operation::Truncate | Operation::Custom
        )
    }
}
