//! What comes out of templates, and what is refused.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;
use crate::actions::fixture::delivery;

const ORDER: &str = r#"{"total": 10.00, "note": "a \"b\"\n<c>", "paid": true, "gone": null,
    "big": 1234567890123456789012345678901234567890, "tiny": 0.10, "huge": 1e400,
    "id": 9007199254740993, "lines": [{"price": 1.50}, {"price": 2.5}]}"#;

fn render_as(format: Format, source: &str, new: &str) -> Result<String, Failure> {
    let template = Template::compile("webhook.body".to_owned(), source, format).unwrap();
    template.render(&RenderInput::new(&delivery(None, Some(new))))
}

fn json(source: &str) -> String {
    render_as(Format::Json, source, ORDER).unwrap()
}

fn text(source: &str) -> String {
    render_as(Format::Text, source, ORDER).unwrap()
}

fn refused(source: &str) -> Failure {
    render_as(Format::Json, source, ORDER).unwrap_err()
}

fn flaw(source: &str) -> String {
    Template::compile("webhook.body".to_owned(), source, Format::Json)
        .unwrap_err()
        .to_string()
}

#[test]
fn values_print_as_json_literals() {
    for (source, expected) in [
        ("{{ new.note }}", r#""a \"b\"\n<c>""#),
        ("{{ new.paid }}", "true"),
        ("{{ new.gone }}", "null"),
        ("{{ old }}", "null"),
        ("{{ null }}", "null"),
        ("{{ key }}", r#""7""#),
        ("{{ tenant }}", "null"),
        ("{{ changed }}", "[]"),
        ("{{ occurredAt }}", r#""2026-03-01T12:00:00Z""#),
        ("{{ [new.paid, operation] }}", r#"[true,"Update"]"#),
        ("{{ {\"a\": new.total} }}", r#"{"a":10.00}"#),
        ("{{ new.note|tojson }}", r#""a \"b\"\n<c>""#),
        ("{{ new.note|safe }}", r#""a \"b\"\n<c>""#),
    ] {
        assert_eq!(json(source), expected, "{source}");
    }
}

#[test]
fn every_digit_is_kept() {
    for (source, expected) in [
        ("{{ new.total }}", "10.00"),
        ("{{ new.tiny }}", "0.10"),
        ("{{ new.huge }}", "1e400"),
        ("{{ new.big }}", "1234567890123456789012345678901234567890"),
        ("{{ new.id }}", "9007199254740993"),
        ("{{ new.lines }}", r#"[{"price":1.50},{"price":2.5}]"#),
        (r#""costs {{ new.total }}""#, r#""costs 10.00""#),
    ] {
        assert_eq!(json(source), expected, "{source}");
    }
    assert_eq!(
        text("{{ new.total }} {{ new.big }}"),
        "10.00 1234567890123456789012345678901234567890"
    );
    assert!(!json("{{ new }}").contains("private"));
}

#[test]
fn numbers_still_calculate_and_compare() {
    assert_eq!(json("{{ new.total > 9 and new.total < 11 }}"), "true");
    assert_eq!(json("{{ new.total == 10 }}"), "true");
    assert_eq!(json("{{ new.huge > new.total }}"), "true");
    assert_eq!(json("{{ new.total * 3 }}"), "30.0");
    assert_eq!(text("{{ '%.2f'|format(new.total / 4) }}"), "2.50");
}

#[test]
fn a_value_within_quotes_stays_within_them() {
    assert_eq!(
        json(r#"{"text": "Order {{ key }}: {{ new.note }} ({{ new.paid }}, {{ new.lines }})"}"#),
        r#"{"text": "Order 7: a \"b\"\n<c> (true, [{\"price\":1.50},{\"price\":2.5}])"}"#
    );
    assert_eq!(json(r#"["\"{{ key }}\\", {{ key }}]"#), r#"["\"7\\", "7"]"#);
}

#[test]
fn captured_block_is_printed_as_text() {
    assert_eq!(
        json(r#"{% set text %}Order {{ key }}: {{ new.note }}{% endset %}{"text": {{ text }}}"#),
        r#"{"text": "Order 7: a \"b\"\n<c>"}"#
    );
    assert_eq!(
        json(r#"["{% filter upper %}{{ new.note }}{% endfilter %}"]"#),
        r#"["A \"B\"\n<C>"]"#
    );
    let html = "{% set text %}{{ new.note }}{% endset %}{{ text }}";
    assert_eq!(
        render_as(Format::Html, html, ORDER).unwrap(),
        "a &quot;b&quot;\n&lt;c&gt;"
    );
}

#[test]
fn loops_build_arrays() {
    let source = "[{% for line in new.lines %}{{ line.price }}{% if not loop.last %},{% endif %}{% endfor %}]";
    assert_eq!(json(source), "[1.50,2.5]");
}

#[test]
fn html_is_escaped_and_text_is_not() {
    assert_eq!(
        render_as(Format::Html, "<p>{{ new.note }}</p>", ORDER).unwrap(),
        "<p>a &quot;b&quot;\n&lt;c&gt;</p>"
    );
    assert_eq!(
        text("{{ new.note }} {{ new.paid }} {{ new.gone }}"),
        "a \"b\"\n<c> true null"
    );
}

#[test]
fn formats_follow_the_content_type() {
    for (content_type, format) in [
        ("application/json", Format::Json),
        ("Application/JSON; charset=utf-8", Format::Json),
        ("application/cloudevents+json", Format::Json),
        ("text/html", Format::Html),
        ("application/atom+xml", Format::Html),
        ("text/plain", Format::Text),
        ("application/x-ndjson", Format::Text),
        ("", Format::Text),
    ] {
        assert_eq!(
            Format::of_content_type(content_type),
            format,
            "{content_type}"
        );
    }
}

#[test]
fn what_is_not_json_is_refused() {
    let failure = refused(r#"{"a": {{ key }},}"#);
    assert_eq!(failure.kind, FailureKind::Template);
    assert!(
        failure.message.contains("webhook.body"),
        "{}",
        failure.message
    );
    assert!(failure.message.contains("JSON"), "{}", failure.message);
}

#[test]
fn a_template_s_backslash_cannot_free_a_value_s_quote() {
    let image = r#"{"note": "\", \"admin\": true, \"x\": \""}"#;
    let failure = render_as(Format::Json, r#"{"a": "\{{ new.note }}"}"#, image).unwrap_err();
    assert!(failure.message.contains("backslash"), "{}", failure.message);
}

#[test]
fn what_is_missing_is_refused_with_line_and_remedy() {
    let failure = refused("{\n\"a\": {{ new.nothing }}}");
    assert_eq!(failure.kind, FailureKind::Template);
    assert!(failure.message.contains("line 2"), "{}", failure.message);
    assert!(
        failure.message.contains("is defined"),
        "{}",
        failure.message
    );
    assert_eq!(json("{{ new.nothing|default(1) }}"), "1");
    assert_eq!(
        json("{{ new.nothing if new.nothing is defined else null }}"),
        "null"
    );
    assert_eq!(refused("{{ [new.nothing] }}").kind, FailureKind::Template);
}

#[test]
fn endless_work_and_output_are_rejected() {
    for source in [
        "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}1",
        "{{ 'x' * 99999999 }}",
        "{% set x = 'x' * 1000000 %}{{ [x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x] }}",
        "{% set x = 'x' * 1000000 %}{% for a in range(18) %}{{ x }}{% endfor %}",
        "{{ 1e308 * 10 }}",
    ] {
        assert_eq!(refused(source).kind, FailureKind::Template, "{source}");
    }
}

#[test]
fn unparsable_image_fails_only_templates_that_use_it() {
    let half = r#"{"\ud800": 1}"#;
    let failure = render_as(Format::Json, "{{ new }}", half).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Event);
    assert!(failure.message.contains("`new`"), "{}", failure.message);
    assert_eq!(render_as(Format::Json, "{{ key }}", half).unwrap(), "\"7\"");
}

#[test]
fn template_errors_name_the_line_and_known_names() {
    let message = flaw("{\n  {{ new. }}\n}");
    assert!(
        message.starts_with("webhook.body, line 2: syntax error"),
        "{message}"
    );
    let message = flaw("\n{{ nwe.total }}");
    assert!(
        message.starts_with("webhook.body, line 2: nwe is not known"),
        "{message}"
    );
    assert!(message.contains("occurredAt"), "{message}");
    assert!(flaw("{{ debug() }}").contains("debug is not known"));
}

proptest! {
    #[test]
    fn no_value_changes_the_shape_of_a_body(note: String) {
        let image = serde_json::json!({ "note": note }).to_string();
        let source = r#"{"a": {{ new.note }}, "b": "<{{ new.note }}>", "c": [{{ new|tojson }}]}"#;
        let body = render_as(Format::Json, source, &image).unwrap();
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let framed = format!("<{note}>");
        prop_assert_eq!(body, serde_json::json!({ "a": note, "b": framed, "c": [{ "note": note }] }));
    }

    #[test]
    fn no_template_panics(source in "[{}% a-z\"'.|\\[\\]()0-9+*~\n]{0,60}") {
        if let Ok(template) = Template::compile("t".to_owned(), &source, Format::Json) {
            let _ = template.render(&RenderInput::new(&delivery(None, Some(ORDER))));
        }
    }
}

#[test]
fn no_template_overflows_the_stack() {
    let long = |part: &str| part.repeat((MAX_SOURCE - 100) / part.len());
    for source in [
        format!("{{{{ {}1 }}}}", long("1+")),
        format!("{{{{ {}1 }}}}", long("-")),
        format!("{{{{ {}1 }}}}", long("not ")),
        format!("{{{{ {}1 }}}}", long("(")),
        format!("{{{{ {}1 }}}}", long("[")),
        format!("{{{{ {}1 }}}}", long("key~")),
        format!("{{{{ {}1 }}}}", long("1 and ")),
        format!("{{{{ {}1 }}}}", long("1 if 1 else ")),
        format!("{{{{ new{} }}}}", long(".a")),
        format!("{{{{ new{} }}}}", long("[0]")),
        format!("{{{{ key{} }}}}", long("|e")),
        format!("{{% if 1 %}}{}{{% endif %}}", long("{%elif 1%}")),
        long("{%if 1%}"),
        long("{%for a in[1]%}"),
        "{% for a in [1] recursive %}{{ loop([a]) }}{% endfor %}".to_owned(),
        "{% for a in [[[1]]] recursive %}{{ loop(loop) }}{% endfor %}".to_owned(),
    ] {
        if let Ok(template) = Template::compile("t".to_owned(), &source, Format::Json) {
            // What comes out does not matter, but that something does.
            let _ = template.render(&RenderInput::new(&delivery(None, Some(ORDER))));
        }
    }
    assert!(flaw(&"x".repeat(MAX_SOURCE + 1)).contains("16 KiB"));
    assert!(flaw("{% set n = namespace() %}").contains("namespace is not known"));
}

#[test]
fn whatever_is_written_neither_panics_nor_breaks_out() {
    const CORPUS: [&str; 12] = [
        r#"{"order": {{ new.id }}, "note": {{ new.note }}}"#,
        r#"{"note": "{{ new.note }} and {{ new.note|upper }}"}"#,
        "{% for line in new.lines %}{{ line.price }},{% endfor %}",
        "{% if new.paid %}{{ new.total * 2 }}{% else %}null{% endif %}",
        "{{ new.note|replace(\"a\", \"b\")|tojson }}",
        "{% set x = new.lines|map(attribute=\"price\")|list %}{{ x|sum }}",
        "{{ range(10)|list }}",
        "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(new.id) }}",
        "{{ {\"a\": [1, 2, new.big]}|tojson }}",
        "{% raw %}{{ x }}{% endraw %}",
        "{{ old.id if old else null }}{{ changed|join(\", \") }}",
        "{{ new.note[0:3] ~ key ~ tenant }}",
    ];
    const WORDS: [&str; 24] = [
        "{{ new.id }}",
        "{% for a in b %}",
        "{% endfor %}",
        "{% if ",
        "{% endif %}",
        "|tojson",
        "|upper",
        "|safe",
        "|e",
        "|length",
        "|sort",
        "|reverse",
        "|groupby(\"a\")",
        "|batch(3)",
        "range(99999)",
        "loop.index",
        "dict(a=1)",
        " is defined",
        " not in ",
        " ** ",
        " // 0",
        " % 0",
        "{% set a = [a, a] %}",
        "{% filter upper %}",
    ];
    let subject = RenderInput::new(&delivery(None, Some(ORDER)));
    testkit::fuzz::Fuzz::new("templates").run(&CORPUS, &WORDS, |source| {
        for format in [
            Format::Json,
            Format::Html,
            Format::Text,
            Format::MrkdwnJson,
            Format::Parameter,
        ] {
            let compiled = Template::compile("webhook.body".to_owned(), source, format);
            let Ok(template) = compiled else {
                return;
            };
            match template.render(&subject) {
                Ok(text) => {
                    assert!(text.len() <= MAX_BODY);
                    let parses = serde_json::from_str::<IgnoredAny>(&text).is_ok();
                    assert!(!format.is_json() || parses, "{source:?}");
                }
                Err(failure) => assert!(failure.message.len() < 64 * 1024, "{source:?}"),
            }
        }
    });
}

#[test]
fn money_dates_and_parts_of_urls() {
    assert_eq!(text("{{ new.total|money }}"), "10.00");
    assert_eq!(
        text("{{ new.big|money(thousands=\".\", point=\",\") }} EUR"),
        "1.234.567.890.123.456.789.012.345.678.901.234.567.890,00 EUR"
    );
    assert_eq!(text("{{ new.tiny|money(decimals=1) }}"), "0.1");
    assert_eq!(json("{{ new.total|money }}"), "\"10.00\"");
    assert_eq!(
        text("{{ occurredAt|date(\"%d.%m.%Y %H:%M\", \"+01:00\") }}"),
        "01.03.2026 13:00"
    );
    assert_eq!(
        text("?q={{ new.note|urlencode }}&n={{ new.id|urlencode }}"),
        "?q=a%20%22b%22%0A%3Cc%3E&n=9007199254740993"
    );
    for (source, told) in [
        ("{{ new.note|money }}", "is no amount"),
        ("{{ new.huge|money }}", "is no amount"),
        ("{{ new.total|money(decimals=99) }}", "at most 12 decimals"),
        ("{{ new.note|date }}", "is no date"),
        ("{{ occurredAt|date(\"%Q\") }}", "no format"),
    ] {
        let failure = refused(source);
        assert!(failure.message.contains(told), "{}", failure.message);
    }
}

#[test]
fn what_is_nested_deeply_goes_out_as_it_is() {
    for depth in [1, 100, 126, 127, 128, 129, 500, 100_000] {
        let deep = format!("{}1.50{}", "[".repeat(depth), "]".repeat(depth));
        let new = format!(r#"{{"id": 7, "deep": {deep}}}"#);
        let told = render_as(Format::Json, "[{{ new.id }}, {{ new.deep }}]", &new);
        assert_eq!(told.unwrap(), format!("[7, {deep}]"), "{depth}");
        let told = render_as(Format::Json, "{{ new }}", &new);
        assert_eq!(
            told.unwrap(),
            format!(r#"{{"deep":{deep},"id":7}}"#),
            "{depth}"
        );
        let told = render_as(Format::Json, "\"{{ new.deep }}\"", &new);
        assert_eq!(told.unwrap(), format!("\"{deep}\""), "{depth}");
    }
}

#[test]
fn half_a_character_harms_only_who_uses_it() {
    let new =
        r#"{"id": 7, "half": ["a", "\ud800"], "list": {"\udc00x": 1}, "whole": "\ud83d\ude00"}"#;
    let told = render_as(Format::Json, "[{{ new.id }}, {{ new.whole }}]", new);
    assert_eq!(told.unwrap(), "[7, \"😀\"]");
    for source in [
        "{{ new.half }}",
        "{{ new.list }}",
        "{{ new }}",
        "{{ new.half[0] }}",
    ] {
        let failure = render_as(Format::Json, source, new).unwrap_err();
        let message = &failure.message;
        assert!(message.contains("half a character"), "{source}: {message}");
    }
}

#[test]
fn no_key_makes_a_number_of_an_object() {
    for value in [
        r#"{"$serde_json::private::Number":"5"}"#,
        r#"{"$serde_json::private::Number":"x"}"#,
        r#"{"$serde_json::private::Number":[1,2]}"#,
        r#"{"$serde_json::private::RawValue":"5"}"#,
    ] {
        let new = format!(r#"{{"id": 7, "odd": {value}, "deep": [{value}]}}"#);
        let told = render_as(
            Format::Json,
            "[{{ new.id }}, {{ new.odd }}, {{ new.deep }}]",
            &new,
        );
        assert_eq!(told.unwrap(), format!("[7, {value}, [{value}]]"));
    }
    let new = r#"{"$serde_json::private::Number": "5"}"#;
    let told = render_as(Format::Json, "{{ new }}", new).unwrap();
    assert_eq!(told, r#"{"$serde_json::private::Number":"5"}"#);
}

proptest! {
    /// An image comes out as what it was, whatever white space and escapes are in it.
    #[test]
    fn an_image_is_read_as_the_json_that_it_is(texts in proptest::collection::vec("\\PC{0,8}", 0..6), number: i64) {
        let image = serde_json::json!({"texts": texts, "n": {"x": [number, null, true, {}, []]}});
        for text in [image.to_string(), serde_json::to_string_pretty(&image).unwrap()] {
            let told = render_as(Format::Json, "{{ new }}", &text).unwrap();
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&told).unwrap(), image.clone());
        }
    }
}
