//! Templates: compilation, context, and escaped output of values.

pub(crate) mod body;
pub mod compile_error;
pub(crate) mod context;
pub(crate) mod exact_number;
pub(crate) mod filters;
pub(crate) mod image;
pub(crate) mod output;
pub(crate) mod template;

/// Most bytes of a request's body, and of anything that a template produces.
pub const MAX_BODY: usize = 16 * 1024 * 1024;
