//! Traces: one for each event, from its writer to its receivers.
//!
//! Spans are made here and not by a tracer of the SDK: a retry in another process must find its parent by the
//! event alone, and an event's span begins at its commit. So ids are derived, times are given, and what is made is
//! handed to the SDK's exporter. Nothing waits for it.

pub mod context;
mod exporter;
mod settings;
pub mod spans;

pub(crate) use exporter::start;
