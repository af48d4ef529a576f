//! Templates: what they may say, and how values come out.

pub(crate) mod body;
pub(crate) mod context;
pub(crate) mod exact_number;
pub(crate) mod filters;
pub(crate) mod image;
pub(crate) mod output;
pub(crate) mod template;
