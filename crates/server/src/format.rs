//! Formats of metrics, and which of them a client prefers.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

/// Format of metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The text format of Prometheus.
    #[default]
    Text,
    /// `OpenMetrics` 1.0, which has exemplars.
    OpenMetrics,
}

/// How well an entry of the header `Accept` names a type: by a wildcard, or by its name.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Named {
    ByWildcard,
    ByName,
}

impl Format {
    /// Returns the format that the header `Accept` prefers: `OpenMetrics` where it is named, and text is not
    /// wanted as much.
    #[must_use]
    pub fn preferred(headers: &HeaderMap) -> Self {
        let mut open_metrics = 0.0_f32;
        let mut text = (Named::ByWildcard, 0.0_f32);
        let values = headers.get_all(ACCEPT).into_iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        for (kind, version, quality) in texts.flat_map(|text| text.split(',')).filter_map(entry) {
            let named = match &*kind {
                "application/openmetrics-text" if matches!(version, None | Some("1.0.0")) => {
                    open_metrics = open_metrics.max(quality);
                    continue;
                }
                "text/plain" => Named::ByName,
                "text/*" | "*/*" => Named::ByWildcard,
                _ => continue,
            };
            if named > text.0 {
                text = (named, quality);
            } else if named == text.0 {
                text.1 = text.1.max(quality);
            }
        }
        let (named, quality) = text;
        let is_preferred = match named {
            Named::ByWildcard => open_metrics >= quality,
            Named::ByName => open_metrics > quality,
        };
        if is_preferred && open_metrics > 0.0 {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    /// Returns the media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Reads an entry: its type, version and quality. One with a quality that is no number from 0 to 1 is none.
fn entry(text: &str) -> Option<(String, Option<&str>, f32)> {
    let mut parts = text.split(';').map(str::trim);
    let kind = parts.next()?.to_ascii_lowercase();
    let (mut version, mut quality) = (None, 1.0);
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        match name.trim_end() {
            "version" => version = Some(value.trim().trim_matches('"')),
            "q" | "Q" => quality = value.trim().parse().ok()?,
            _ => {}
        }
    }
    (0.0..=1.0)
        .contains(&quality)
        .then_some((kind, version, quality))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn clients_get_the_format_that_they_prefer() {
        let preferred = |accepted: &[&str]| {
            let pairs = accepted.iter().map(|text| (ACCEPT, text.parse().unwrap()));
            Format::preferred(&pairs.collect())
        };
        for open_metrics in [
            // Prometheus 2.
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            // Prometheus 3.
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; Version=1.0.0",
            "application/openmetrics-text; version=\"1.0.0\" ; q=0.5, */*;q=0.5",
            "*/*, text/plain;q=0.1, application/openmetrics-text;q=0.2",
        ] {
            assert_eq!(
                preferred(&[open_metrics]),
                Format::OpenMetrics,
                "{open_metrics}"
            );
        }
        for text in [
            "",
            "*/*",
            "text/plain",
            "application/*",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=2",
            "application/openmetrics-text;q=NaN",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text, text/plain",
            "application/openmetrics-text;q=0.2,*/*;q=0.3",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,text/plain;q=0.3",
        ] {
            assert_eq!(preferred(&[text]), Format::Text, "{text}");
        }
        assert_eq!(preferred(&[]), Format::Text);
        let lines = ["text/plain;q=0.5", "application/openmetrics-text"];
        assert_eq!(preferred(&lines), Format::OpenMetrics);
    }
}
