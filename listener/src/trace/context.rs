//! W3C trace contexts, as `traceparent` carries them.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::text::hex::hex;

/// Id of a trace; never all zero where it was parsed.
pub type TraceId = [u8; 16];

/// Id of a span; never all zero where it was parsed.
pub type SpanId = [u8; 8];

/// Flag of a trace that is recorded.
const SAMPLED: u8 = 1;

/// Flags that are known: sampled, and that the trace's id is random.
const KNOWN_FLAGS: u8 = 3;

/// A span, and the trace that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
    /// The flags of the header.
    pub flags: u8,
}

impl TraceContext {
    /// Reads a `traceparent`; nothing where it is none. Of later versions of the header, what is known is read.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(5, '-');
        let [version] = bytes(parts.next()?)?;
        let (trace, span) = (bytes(parts.next()?)?, bytes(parts.next()?)?);
        let [flags] = bytes(parts.next()?)?;
        let is_version = match version {
            0 => parts.next().is_none(),
            0xff => false,
            _ => true,
        };
        let is_context = is_version && trace != TraceId::default() && span != SpanId::default();
        // Other flags are of later versions, and are to be passed on as zero.
        let flags = flags & KNOWN_FLAGS;
        is_context.then_some(Self { trace, span, flags })
    }

    /// Returns the context of a span of an event's trace, which is or is not recorded.
    #[must_use]
    pub const fn new(trace: TraceId, span: SpanId, is_sampled: bool) -> Self {
        Self {
            trace,
            span,
            flags: if is_sampled { SAMPLED } else { 0 },
        }
    }

    /// Whether whoever made it records the trace.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED == SAMPLED
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (hex(&self.trace), hex(&self.span));
        write!(f, "00-{trace}-{span}-{:02x}", self.flags)
    }
}

/// Returns the trace of an event: its writer's, or one that every process derives from the event's id.
#[must_use]
pub fn trace_of(event_id: &str, writer: Option<TraceContext>) -> TraceId {
    writer.map_or_else(
        || first(&Sha256::digest(event_id.as_bytes())),
        |writer| writer.trace,
    )
}

/// Returns the span that a text names in every process.
pub(crate) fn derived_span(name: &str) -> SpanId {
    first(&Sha256::digest(name))
}

fn first<const N: usize>(digest: &[u8]) -> [u8; N] {
    let mut first = [0; N];
    first.copy_from_slice(&digest[..N]);
    first
}

/// Reads lower-case hexadecimal digits of exactly this many bytes.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut read = [0; N];
    for (byte, pair) in read.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(read)
}

const fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::collections::HashMap;

    use opentelemetry::propagation::TextMapPropagator as _;
    use opentelemetry::trace::TraceContextExt as _;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// What the SDK reads.
    fn by_sdk(text: &str) -> Option<String> {
        let carrier = HashMap::from([("traceparent".to_owned(), text.to_owned())]);
        let context = TraceContextPropagator::new().extract(&carrier);
        let span = context.span().span_context().clone();
        span.is_valid()
            .then(|| format!("{}-{}", span.trace_id(), span.span_id()))
    }

    #[test]
    fn contexts_are_read_as_the_standard_says() {
        let read = TraceContext::parse(TEXT).unwrap();
        assert_eq!(read.to_string(), TEXT);
        assert!(read.is_sampled());
        let later = format!("cc{}-what-is-new", &TEXT[2..].replace("-01", "-fd"));
        assert_eq!(TraceContext::parse(&later), Some(read));
        for wrong in [
            "",
            "00",
            &TEXT[..54],
            &TEXT.to_uppercase(),
            &format!("{TEXT}-more"),
            &format!("ff{}", &TEXT[2..]),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            let _read = TraceContext::parse(&text);
        }

        #[test]
        fn near_contexts_are_read_or_refused(text in "[0-9a-fA-F]{1,3}-[0-9a-f]{31,33}-[0-9a-f]{15,17}-[0-9a-fx]{1,3}") {
            if let Some(read) = TraceContext::parse(&text) {
                prop_assert_eq!(by_sdk(&text), Some(format!("{}-{}", hex(&read.trace), hex(&read.span))));
            }
        }

        #[test]
        fn what_is_written_is_read(trace in any::<[u8; 16]>(), span in any::<[u8; 8]>(), flags in 0..4_u8) {
            let context = TraceContext { trace, span, flags };
            let is_context = trace != [0; 16] && span != [0; 8];
            let text = context.to_string();
            prop_assert_eq!(TraceContext::parse(&text), is_context.then_some(context));
            if is_context {
                prop_assert_eq!(by_sdk(&text), Some(format!("{}-{}", hex(&trace), hex(&span))));
            }
        }
    }
}
