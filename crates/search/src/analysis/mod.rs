//! Analysis: what of a document is searched, computed here alone and stored as bytes.

pub(crate) mod fields;
pub(crate) mod json;
pub(crate) mod number;
pub(crate) mod sections;
pub(crate) mod terms;
pub(crate) mod text;
pub(crate) mod time;
