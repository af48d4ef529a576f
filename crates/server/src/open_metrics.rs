//! Metrics in the text format of `OpenMetrics` 1.0.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::time::UNIX_EPOCH;

use prometheus::proto::{Metric, MetricFamily, MetricType};

use crate::exemplars::{Exemplar, Exemplars};

/// Units that names end in.
const UNITS: [&str; 2] = ["seconds", "bytes"];

/// Encodes metric families, with exemplars where a series has them.
pub(crate) fn encode(
    families: &[MetricFamily],
    exemplars: &HashMap<String, Exemplars>,
) -> Result<String, fmt::Error> {
    let mut text = String::new();
    for family in families {
        write_family(&mut text, family, exemplars.get(family.name()))?;
    }
    text.push_str("# EOF\n");
    Ok(text)
}

fn write_family(
    text: &mut String,
    family: &MetricFamily,
    exemplars: Option<&Exemplars>,
) -> fmt::Result {
    let (name, kind) = match family.get_field_type() {
        // The suffix is that of its series.
        MetricType::COUNTER => {
            let name = family.name();
            (name.strip_suffix("_total").unwrap_or(name), "counter")
        }
        MetricType::GAUGE => (family.name(), "gauge"),
        MetricType::HISTOGRAM => (family.name(), "histogram"),
        // The library has none.
        MetricType::SUMMARY | MetricType::UNTYPED => return Ok(()),
    };
    writeln!(text, "# TYPE {name} {kind}")?;
    let unit = name.rsplit_once('_').map(|(_, unit)| unit);
    if let Some(unit) = unit.filter(|unit| UNITS.contains(unit)) {
        writeln!(text, "# UNIT {name} {unit}")?;
    }
    writeln!(text, "# HELP {name} {}", Escaped(family.help()))?;
    for metric in family.get_metric() {
        match family.get_field_type() {
            MetricType::COUNTER => {
                let value = metric.get_counter().get_value();
                write_sample(text, (name, "_total"), metric, None)?;
                writeln!(text, " {}", Number(value))?;
            }
            MetricType::HISTOGRAM => {
                let exemplars = exemplars.map(|all| all.of(metric)).unwrap_or_default();
                write_histogram(text, name, metric, &exemplars)?;
            }
            _ => {
                let value = metric.get_gauge().get_value();
                write_sample(text, (name, ""), metric, None)?;
                writeln!(text, " {}", Number(value))?;
            }
        }
    }
    Ok(())
}

fn write_histogram(
    text: &mut String,
    name: &str,
    metric: &Metric,
    exemplars: &[Option<Exemplar>],
) -> fmt::Result {
    let histogram = metric.get_histogram();
    let count = histogram.get_sample_count();
    let buckets = histogram.get_bucket().iter();
    let buckets = buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    for (n, (bound, count)) in buckets.chain([(f64::INFINITY, count)]).enumerate() {
        write_sample(text, (name, "_bucket"), metric, Some(bound))?;
        write!(text, " {count}")?;
        if let Some(Some(exemplar)) = exemplars.get(n) {
            write_exemplar(text, exemplar)?;
        }
        text.push('\n');
    }
    write_sample(text, (name, "_sum"), metric, None)?;
    writeln!(text, " {}", Number(histogram.get_sample_sum()))?;
    write_sample(text, (name, "_count"), metric, None)?;
    writeln!(text, " {count}")
}

/// Writes the name of a series with its suffix, its labels, and perhaps the bound of a bucket.
fn write_sample(
    text: &mut String,
    (name, suffix): (&str, &str),
    metric: &Metric,
    bound: Option<f64>,
) -> fmt::Result {
    write!(text, "{name}{suffix}")?;
    let mut before = '{';
    for label in metric.get_label() {
        let value = Escaped(label.value());
        write!(text, "{before}{}=\"{value}\"", label.name())?;
        before = ',';
    }
    if let Some(bound) = bound {
        write!(text, "{before}le=\"{}\"", Canonical(bound))?;
        before = ',';
    }
    if before == ',' {
        text.push('}');
    }
    Ok(())
}

/// Its labels have 63 characters. A reader may refuse more than 128.
fn write_exemplar(text: &mut String, exemplar: &Exemplar) -> fmt::Result {
    let (of, value) = (exemplar.of, Number(exemplar.value));
    text.push_str(" # {trace_id=\"");
    write_hex(text, &of.trace)?;
    text.push_str("\",span_id=\"");
    write_hex(text, &of.span)?;
    let at = exemplar.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    write!(
        text,
        "\"}} {value} {}.{:03}",
        at.as_secs(),
        at.subsec_millis()
    )
}

fn write_hex(text: &mut String, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(text, "{byte:02x}"))
}

/// Text in quotes or of a help.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '\n' => f.write_str("\\n"),
            '"' => f.write_str("\\\""),
            c => f.write_char(c),
        })
    }
}

/// A value.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            value => write!(f, "{value}"),
        }
    }
}

/// The bound of a bucket: a label, which all that write it should write alike.
struct Canonical(f64);

impl fmt::Display for Canonical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = self.0;
        if bound.is_infinite() || bound == 0.0 || (1e-4..1e6).contains(&bound.abs()) {
            let point = if bound.fract() == 0.0 { ".0" } else { "" };
            return write!(f, "{}{point}", Number(bound));
        }
        let text = format!("{bound:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or_default();
        write!(f, "{digits}e{exponent:+03}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::time::{Duration, SystemTime};

    use prometheus::{Gauge, HistogramOpts, IntCounterVec, Opts};

    use super::*;
    use crate::exemplars::{RecordedSpan, TracedHistogramVec};
    use crate::format::Format;
    use crate::registry::Registry;

    fn span(n: u8) -> RecordedSpan {
        let (trace, span) = ([n; 16], [n; 8]);
        RecordedSpan { trace, span }
    }

    fn rendered(registry: &Registry) -> String {
        String::from_utf8(registry.render(Format::OpenMetrics).unwrap()).unwrap()
    }

    #[test]
    fn bounds_are_written_as_the_standard_does() {
        for (bound, text) in [
            (0.0, "0.0"),
            (0.001, "0.001"),
            (0.0025, "0.0025"),
            (1.0, "1.0"),
            (10.0, "10.0"),
            (86400.0, "86400.0"),
            (1e5, "100000.0"),
            (1e6, "1e+06"),
            (1e10, "1e+10"),
            (1e-5, "1e-05"),
            (1e-10, "1e-10"),
            (1.5e-7, "1.5e-07"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(Canonical(bound).to_string(), text);
        }
        assert_eq!(Number(f64::NAN).to_string(), "NaN");
        assert_eq!(Number(f64::NEG_INFINITY).to_string(), "-Inf");
    }

    #[test]
    fn metrics_are_written_as_open_metrics() {
        let labels = [("listener".to_owned(), "a/b".to_owned())].into();
        let registry = Registry::new_custom(Some("shop".to_owned()), Some(labels)).unwrap();
        let opts = Opts::new("orders_total", "Orders \\ \"placed\"\nor not");
        let orders = IntCounterVec::new(opts, &["country"]).unwrap();
        orders.with_label_values(&["\"\\\n"]).inc_by(3);
        registry.register(Box::new(orders)).unwrap();
        let lag = Gauge::new("lag_seconds", "Age").unwrap();
        lag.set(-0.5);
        registry.register(Box::new(lag)).unwrap();
        let opts = HistogramOpts::new("size_bytes", "Size").buckets(vec![1.0, 2.5]);
        let sizes = TracedHistogramVec::new(opts, &["kind"]).unwrap();
        registry.register_traced(sizes.clone()).unwrap();
        sizes.observe(&["x"], 1.0, None);
        sizes.observe(&["x"], 2.0, None);
        sizes.observe(&["x"], 9.0, None);
        let expected = r#"# TYPE shop_lag_seconds gauge
# UNIT shop_lag_seconds seconds
# HELP shop_lag_seconds Age
shop_lag_seconds{listener="a/b"} -0.5
# TYPE shop_orders counter
# HELP shop_orders Orders \\ \"placed\"\nor not
shop_orders_total{country="\"\\\n",listener="a/b"} 3
# TYPE shop_size_bytes histogram
# UNIT shop_size_bytes bytes
# HELP shop_size_bytes Size
shop_size_bytes_bucket{kind="x",listener="a/b",le="1.0"} 1
shop_size_bytes_bucket{kind="x",listener="a/b",le="2.5"} 2
shop_size_bytes_bucket{kind="x",listener="a/b",le="+Inf"} 3
shop_size_bytes_sum{kind="x",listener="a/b"} 12
shop_size_bytes_count{kind="x",listener="a/b"} 3
# EOF
"#;
        assert_eq!(rendered(&registry), expected);
        let text = String::from_utf8(registry.render(Format::Text).unwrap()).unwrap();
        assert!(text.contains("# TYPE shop_orders_total counter"), "{text}");
    }

    #[test]
    fn newest_exemplar_of_a_bucket_stays_until_its_series_is_removed() {
        let registry = Registry::new_custom(None, None).unwrap();
        let opts = HistogramOpts::new("took_seconds", "Duration").buckets(vec![1.0, 2.5]);
        let times = TracedHistogramVec::new(opts, &["observer", "action"]).unwrap();
        registry.register_traced(times.clone()).unwrap();
        for (action, value, of) in [
            ("post", 0.25, Some(span(1))),
            ("post", 1.0, Some(span(2))),
            ("post", 0.5, None),
            ("post", 7.0, Some(span(3))),
            ("mail", 2.5, Some(span(4))),
        ] {
            times.observe(&["shop", action], value, of);
        }
        let exemplars = || {
            let text = rendered(&registry);
            let lines = text.lines().filter_map(|line| line.split_once(" # "));
            let exemplars = lines.map(|(series, exemplar)| {
                let (labels, value) = exemplar.split_once("} ").unwrap();
                assert!(labels.replace(['{', '=', '"', ','], "").chars().count() <= 128);
                let (value, at) = value.split_once(' ').unwrap();
                let at = UNIX_EPOCH + Duration::from_secs_f64(at.parse().unwrap());
                let passed = SystemTime::now().duration_since(at).unwrap();
                assert!(passed < Duration::from_mins(10), "{exemplar}");
                let (series, _) = series.split_once(' ').unwrap();
                format!("{series} {labels}}} {value}")
            });
            exemplars.collect::<Vec<_>>()
        };
        let line = |action: &str, le: &str, n: u8, value: &str| {
            let (trace, span) = (format!("{n:02x}").repeat(16), format!("{n:02x}").repeat(8));
            format!(
                "took_seconds_bucket{{action=\"{action}\",observer=\"shop\",le=\"{le}\"}} \
                 {{trace_id=\"{trace}\",span_id=\"{span}\"}} {value}"
            )
        };
        let mail = line("mail", "2.5", 4, "2.5");
        let expected = [
            mail.clone(),
            line("post", "1.0", 2, "1"),
            line("post", "+Inf", 3, "7"),
        ];
        assert_eq!(exemplars(), expected);
        times.remove_label_values(&["shop", "post"]).unwrap();
        assert_eq!(exemplars(), [mail]);
        // A series that comes back has none of the old ones.
        times.observe(&["shop", "post"], 0.25, None);
        assert_eq!(exemplars().len(), 1);
        registry.unregister(Box::new(times)).unwrap();
        assert_eq!(rendered(&registry), "# EOF\n");
    }
}
