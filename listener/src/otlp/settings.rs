//! What the environment says of telemetry, in the variables of OpenTelemetry.

use std::time::Duration;

use opentelemetry_otlp::Protocol;

/// Interval of metrics where nothing else is said, as in the specification.
const DEFAULT_INTERVAL: Duration = Duration::from_mins(1);

/// Shortest interval of metrics, in milliseconds.
const MIN_INTERVAL: u64 = 100;

/// A variable that cannot be read as it should.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {found}: {remedy}")]
pub(crate) struct SettingsError {
    pub(crate) name: String,
    pub(crate) found: String,
    pub(crate) remedy: &'static str,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    /// Returns its name in variables.
    const fn name(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
            Self::Logs => "LOGS",
        }
    }

    /// Returns the value of its own variable of the exporter (`ENDPOINT`), or of that for all signals, with the
    /// name. A variable that is empty is not set.
    pub(super) fn variable(
        self,
        what: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Option<(String, String)> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{what}", self.name());
        [own, format!("OTEL_EXPORTER_OTLP_{what}")]
            .into_iter()
            .find_map(|name| {
                let value = variable(&name).filter(|value| !value.is_empty())?;
                Some((name, value))
            })
    }
}

/// Returns the protocol by which a signal is sent; none where it is not to be sent.
pub(crate) fn protocol(
    signal: Signal,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Protocol>, SettingsError> {
    let is_disabled =
        variable("OTEL_SDK_DISABLED").is_some_and(|is| is.eq_ignore_ascii_case("true"));
    if is_disabled || signal.variable("ENDPOINT", &variable).is_none() {
        return Ok(None);
    }
    let name = format!("OTEL_{}_EXPORTER", signal.name());
    match variable(&name).as_deref() {
        None | Some("" | "otlp") => {}
        // What it stands for is there in any case: logs on standard error, and /metrics.
        Some("none" | "console" | "prometheus") => return Ok(None),
        Some(other) => {
            return Err(SettingsError {
                name,
                found: other.to_owned(),
                remedy: "use otlp or none",
            });
        }
    }
    match signal.variable("PROTOCOL", variable) {
        None => Ok(Some(Protocol::HttpBinary)),
        Some((name, found)) => match &*found {
            "grpc" => Ok(Some(Protocol::Grpc)),
            "http/protobuf" => Ok(Some(Protocol::HttpBinary)),
            _ => Err(SettingsError {
                name,
                found,
                remedy: "use http/protobuf or grpc",
            }),
        },
    }
}

/// Returns the interval at which metrics are sent.
pub(super) fn metrics_interval(
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Duration, SettingsError> {
    const NAME: &str = "OTEL_METRIC_EXPORT_INTERVAL";
    let Some(text) = variable(NAME).filter(|text| !text.is_empty()) else {
        return Ok(DEFAULT_INTERVAL);
    };
    match text.parse() {
        Ok(milliseconds) if milliseconds >= MIN_INTERVAL => Ok(Duration::from_millis(milliseconds)),
        _ => Err(SettingsError {
            name: NAME.to_owned(),
            found: text,
            remedy: "give milliseconds, 100 at least",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'v>(variables: &'v [(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<'v> {
        |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        }
    }

    #[test]
    fn signals_are_sent_where_an_endpoint_is_named_for_them() {
        const ALL: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        const TRACES: (&str, &str) = (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "http://127.0.0.1:4318",
        );
        for (variables, signals) in [
            (&[][..], [false, false, false]),
            (&[(ALL.0, "")], [false, false, false]),
            (&[ALL], [true, true, true]),
            (&[TRACES], [true, false, false]),
            (
                &[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", ALL.1)],
                [false, true, false],
            ),
            (
                &[("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", ALL.1)],
                [false, false, true],
            ),
            (&[ALL, ("OTEL_SDK_DISABLED", "True")], [false, false, false]),
            (
                &[ALL, ("OTEL_METRICS_EXPORTER", "none")],
                [true, false, true],
            ),
            (
                &[ALL, ("OTEL_METRICS_EXPORTER", "prometheus")],
                [true, false, true],
            ),
            (
                &[ALL, ("OTEL_LOGS_EXPORTER", "console")],
                [true, true, false],
            ),
            (
                &[
                    ALL,
                    ("OTEL_TRACES_EXPORTER", "none"),
                    ("OTEL_LOGS_EXPORTER", "otlp"),
                ],
                [false, true, true],
            ),
            // Nothing is wrong with what is not used.
            (
                &[TRACES, ("OTEL_METRICS_EXPORTER", "paper")],
                [true, false, false],
            ),
        ] {
            let found = [Signal::Traces, Signal::Metrics, Signal::Logs]
                .map(|signal| protocol(signal, of(variables)).is_ok_and(|sent| sent.is_some()));
            assert_eq!(found, signals, "{variables:?}");
        }
        let protocols = [
            ALL,
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
        ];
        let by = |signal| protocol(signal, of(&protocols));
        assert_eq!(by(Signal::Traces), Ok(Some(Protocol::HttpBinary)));
        assert_eq!(by(Signal::Metrics), Ok(Some(Protocol::Grpc)));
        let paper = protocol(
            Signal::Metrics,
            of(&[ALL, ("OTEL_METRICS_EXPORTER", "paper")]),
        );
        let said = paper.map_err(|error| error.to_string());
        let expected = "OTEL_METRICS_EXPORTER is paper: use otlp or none";
        assert_eq!(said, Err(expected.to_owned()));
    }

    #[test]
    fn interval_of_metrics_is_in_milliseconds() {
        let interval = |text| metrics_interval(of(&[("OTEL_METRIC_EXPORT_INTERVAL", text)]));
        assert_eq!(interval(""), Ok(DEFAULT_INTERVAL));
        assert_eq!(interval("2500"), Ok(Duration::from_millis(2500)));
        for wrong in ["0", "99", "-1", "1s", "much"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
