//! Context of a template: the names of the event's envelope.
//!
//! Images are read when a template first asks for one, and once for all the templates of a
//! delivery.

use std::sync::{Arc, OnceLock};

use chrono::SecondsFormat;
use minijinja::value::{Enumerator, Object, Value};
use minijinja::{Error, ErrorKind};
use serde_json::value::RawValue;

use super::exact_number::ExactNumbers;
use super::image;
use super::output::FormatState;
use crate::delivery::Delivery;

/// Names that a template may use.
pub(crate) const NAMES: [&str; 12] = [
    "id",
    "entity",
    "operation",
    "key",
    "tenant",
    "occurredAt",
    "old",
    "new",
    "changed",
    "observer",
    "action",
    "enrich",
];

/// Input of the templates of one delivery.
#[derive(Debug)]
pub(crate) struct RenderInput {
    delivery: Delivery,
    images: OnceLock<Result<Images, String>>,
}

/// Parsed images.
#[derive(Debug)]
struct Images {
    old: Value,
    new: Value,
    enrich: Value,
    numbers: ExactNumbers,
}

impl RenderInput {
    pub(crate) fn new(delivery: &Delivery) -> Arc<Self> {
        Arc::new(Self {
            delivery: delivery.clone(),
            images: OnceLock::new(),
        })
    }

    pub(crate) const fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    /// Returns why the event's images could not be parsed, where that was tried and failed.
    pub(crate) fn fault(&self) -> Option<&str> {
        match self.images.get() {
            Some(Err(message)) => Some(message),
            _ => None,
        }
    }

    /// Returns the numbers of the images; none before they are parsed.
    pub(crate) fn numbers(&self) -> &ExactNumbers {
        static NONE: ExactNumbers = ExactNumbers::EMPTY;
        match self.images.get() {
            Some(Ok(images)) => &images.numbers,
            _ => &NONE,
        }
    }

    fn image(&self, pick: impl Fn(&Images) -> &Value) -> Value {
        let images = self.images.get_or_init(|| {
            let mut numbers = ExactNumbers::default();
            Ok(Images {
                old: read("old", self.delivery.event.old.as_deref(), &mut numbers)?,
                new: read("new", self.delivery.event.new.as_deref(), &mut numbers)?,
                enrich: read("enrich", self.delivery.enrich.as_deref(), &mut numbers)?,
                numbers,
            })
        });
        match images {
            Ok(images) => pick(images).clone(),
            Err(message) => {
                Value::from(Error::new(ErrorKind::BadSerialization, message.to_owned()))
            }
        }
    }

    fn value(&self, name: &str) -> Option<Value> {
        let event = &self.delivery.event;
        Some(match name {
            "id" => Value::from(event.id.as_str()),
            "entity" => Value::from(&*event.entity),
            "operation" => Value::from(event.operation.as_str()),
            "key" => Value::from(event.key.clone()),
            "tenant" => Value::from(event.tenant.clone()),
            "occurredAt" => Value::from(
                event
                    .occurred_at
                    .to_rfc3339_opts(SecondsFormat::AutoSi, true),
            ),
            "old" => self.image(|images| &images.old),
            "new" => self.image(|images| &images.new),
            "enrich" => self.image(|images| &images.enrich),
            "changed" => Value::from(event.changed()),
            "observer" => Value::from(&*self.delivery.observer),
            "action" => Value::from(&*self.delivery.action),
            _ => return None,
        })
    }
}

fn read(name: &str, image: Option<&RawValue>, numbers: &mut ExactNumbers) -> Result<Value, String> {
    let Some(image) = image else {
        return Ok(Value::from(()));
    };
    image::read(name, image.get(), numbers)
        .map_err(|why| format!("the event's image `{name}` cannot be used by a template: {why}"))
}

/// Context of one rendering: the delivery's names, and the state of its output.
#[derive(Clone, Debug)]
pub(crate) struct TemplateContext {
    subject: Arc<RenderInput>,
    format_state: Arc<FormatState>,
}

impl TemplateContext {
    /// Name under which the formatter finds the context; no template can spell it.
    pub(crate) const KEY: &str = "\0context";

    pub(crate) fn new(subject: Arc<RenderInput>, format_state: Arc<FormatState>) -> Self {
        Self {
            subject,
            format_state,
        }
    }

    pub(crate) fn subject(&self) -> &RenderInput {
        &self.subject
    }

    pub(crate) fn format_state(&self) -> &FormatState {
        &self.format_state
    }
}

impl Object for TemplateContext {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, name: &str) -> Option<Value> {
        if name == Self::KEY {
            return Some(Value::from_dyn_object(Arc::clone(self)));
        }
        self.subject.value(name)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&NAMES)
    }
}
