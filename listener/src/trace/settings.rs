//! What the environment says of traces, in the variables of OpenTelemetry. The exporter reads those of its
//! connection itself; nothing here holds a secret.

use opentelemetry_otlp::Protocol;

use super::context::{TraceContext, TraceId};
use crate::otlp::{SettingsError, Signal, protocol};

/// Which traces are recorded. It is decided by the trace's id, so all processes agree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sampler {
    /// Whether the writer's decision counts, where there is one.
    is_parent_based: bool,
    /// Share of the others.
    ratio: f64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) protocol: Protocol,
    pub(super) sampler: Sampler,
}

impl Sampler {
    /// Share of traces without a writer's context that are recorded where nothing else is said.
    const DEFAULT: Self = Self {
        is_parent_based: true,
        ratio: 1.0,
    };

    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
        let Some(name) = variable(NAME) else {
            return Ok(Self::DEFAULT);
        };
        let (is_parent_based, kind) = match name.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, &*name),
        };
        let ratio = match kind {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => match variable(ARGUMENT) {
                None => 1.0,
                Some(text) => text
                    .parse()
                    .ok()
                    .filter(|ratio| (0.0..=1.0).contains(ratio))
                    .ok_or(SettingsError {
                        name: ARGUMENT.to_owned(),
                        found: text,
                        remedy: "give a number from 0 to 1",
                    })?,
            },
            _ => {
                return Err(SettingsError {
                    name: NAME.to_owned(),
                    remedy: "use always_on, always_off or traceidratio, or one of them after parentbased_",
                    found: name,
                });
            }
        };
        Ok(Self {
            is_parent_based,
            ratio,
        })
    }

    /// Whether a trace is recorded: as the samplers of the SDK decide.
    pub(super) fn records(self, trace: TraceId, writer: Option<TraceContext>) -> bool {
        if let Some(writer) = writer.filter(|_| self.is_parent_based) {
            return writer.is_sampled();
        }
        let number = u64::from_be_bytes(std::array::from_fn(|n| trace[n + 8])) >> 1;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of 2^63, as the SDK rounds it"
        )]
        let bound = (self.ratio * (1_u64 << 63) as f64) as u64;
        self.ratio >= 1.0 || number < bound
    }
}

impl Settings {
    /// Reads the settings; none where traces are not asked for.
    pub(super) fn read(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, SettingsError> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let Some(protocol) = protocol(Signal::Traces, variable)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            protocol,
            sampler: Sampler::read(variable)?,
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use opentelemetry::trace::{SpanKind, TraceId as SdkTraceId};
    use opentelemetry_sdk::trace::{Sampler as SdkSampler, SamplingDecision, ShouldSample as _};
    use proptest::prelude::*;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>, SettingsError> {
        Settings::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");

    #[test]
    fn traces_are_off_unless_an_endpoint_is_named() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[(ENDPOINT.0, "")]), Ok(None));
        assert_eq!(read(&[ENDPOINT, ("OTEL_SDK_DISABLED", "true")]), Ok(None));
        assert_eq!(
            read(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]),
            Ok(None)
        );
        let expected = Settings {
            protocol: Protocol::HttpBinary,
            sampler: Sampler::DEFAULT,
        };
        assert_eq!(read(&[ENDPOINT]), Ok(Some(expected)));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = |name, value| {
            let read = read(&[
                ENDPOINT,
                ("OTEL_TRACES_SAMPLER", "traceidratio"),
                (name, value),
            ]);
            read.unwrap_err().to_string()
        };
        assert_eq!(
            error("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            "OTEL_EXPORTER_OTLP_PROTOCOL is http/json: use http/protobuf or grpc"
        );
        for wrong in ["1.5", "-0.1", "NaN", "much"] {
            let said = error("OTEL_TRACES_SAMPLER_ARG", wrong);
            assert!(said.ends_with("give a number from 0 to 1"), "{said}");
        }
        let unknown = read(&[ENDPOINT, ("OTEL_TRACES_SAMPLER", "jaeger_remote")]);
        assert!(
            unknown
                .unwrap_err()
                .to_string()
                .starts_with("OTEL_TRACES_SAMPLER is")
        );
    }

    #[test]
    fn samplers_follow_the_writer_only_if_they_are_based_on_it() {
        let sampler = |name: &str| {
            let settings = read(&[ENDPOINT, ("OTEL_TRACES_SAMPLER", name)]);
            settings.unwrap().unwrap().sampler
        };
        let writer = |is_sampled| Some(TraceContext::new([1; 16], [2; 8], is_sampled));
        for (name, without, dropped, recorded) in [
            ("always_on", true, true, true),
            ("always_off", false, false, false),
            ("traceidratio", true, true, true),
            ("parentbased_always_on", true, false, true),
            ("parentbased_always_off", false, false, true),
        ] {
            let of = |writer| sampler(name).records([1; 16], writer);
            let found = (of(None), of(writer(false)), of(writer(true)));
            assert_eq!(found, (without, dropped, recorded), "{name}");
        }
    }

    proptest! {
        #[test]
        fn the_share_is_that_of_the_sdk(trace in any::<[u8; 16]>(), ratio in 0.0..=1.0_f64) {
            let sdk = SdkSampler::TraceIdRatioBased(ratio).should_sample(
                None, SdkTraceId::from_bytes(trace), "", &SpanKind::Internal, &[], &[],
            );
            let own = Sampler { is_parent_based: true, ratio };
            prop_assert_eq!(own.records(trace, None), sdk.decision == SamplingDecision::RecordAndSample);
        }
    }
}
