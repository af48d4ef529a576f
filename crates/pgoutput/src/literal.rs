//! Text of arrays and rows, as `array_out` and `record_out` write it, taken apart.

/// An array's element: null, a text, or for several dimensions an array again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Null,
    Text(String),
    Nested(Vec<Element>),
}

/// Deepest nesting of arrays that Postgres has.
const MAX_DIMENSIONS: usize = 6;

/// Takes an array apart; nothing where the text is none.
pub(crate) fn array(text: &str, delimiter: char) -> Option<Vec<Element>> {
    // Bounds other than from 1 come first, as `[0:1]={...}`.
    let text = match text.strip_prefix('[') {
        Some(_) => text
            .split_once("]={")
            .map(|(bounds, _)| &text[bounds.len() + 2..])?,
        None => text,
    };
    let mut chars = text.chars().peekable();
    let elements = nested(&mut chars, delimiter, 0)?;
    chars.next().is_none().then_some(elements)
}

fn nested(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    delimiter: char,
    depth: usize,
) -> Option<Vec<Element>> {
    if chars.next()? != '{' || depth > MAX_DIMENSIONS {
        return None;
    }
    let mut elements = Vec::new();
    if chars.peek() == Some(&'}') {
        chars.next();
        return Some(elements);
    }
    loop {
        elements.push(match chars.peek()? {
            '{' => Element::Nested(nested(chars, delimiter, depth + 1)?),
            '"' => Element::Text(quoted(chars)?),
            _ => {
                let mut text = String::new();
                while let Some(&next) = chars.peek() {
                    if next == delimiter || next == '}' {
                        break;
                    }
                    chars.next();
                    text.push(if next == '\\' { chars.next()? } else { next });
                }
                if text == "NULL" {
                    Element::Null
                } else {
                    Element::Text(text)
                }
            }
        });
        match chars.next()? {
            '}' => return Some(elements),
            next if next == delimiter => {}
            _ => return None,
        }
    }
}

/// A text in quotation marks, where a backslash precedes what is meant as it stands there.
fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    chars.next();
    let mut text = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(text),
            '\\' => text.push(chars.next()?),
            next => text.push(next),
        }
    }
}

/// Takes a row apart; nothing where the text is none.
pub(crate) fn row(text: &str) -> Option<Vec<Option<String>>> {
    let mut chars = text
        .strip_prefix('(')?
        .strip_suffix(')')?
        .chars()
        .peekable();
    let mut fields = Vec::new();
    loop {
        let mut field: Option<String> = None;
        let mut in_quotes = false;
        loop {
            match chars.peek() {
                None => break,
                Some(',') if !in_quotes => break,
                Some(_) => {}
            }
            let next = chars.next()?;
            let field = field.get_or_insert_default();
            match next {
                '"' if in_quotes && chars.peek() == Some(&'"') => {
                    chars.next();
                    field.push('"');
                }
                '"' => in_quotes = !in_quotes,
                '\\' => field.push(chars.next()?),
                other => field.push(other),
            }
        }
        if in_quotes {
            return None;
        }
        fields.push(field);
        if chars.next().is_none() {
            return Some(fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Element {
        Element::Text(text.to_owned())
    }

    #[test]
    fn arrays_have_dimensions_nulls_and_quotes() {
        assert_eq!(array("{}", ','), Some(vec![]));
        assert_eq!(
            array(r#"{a,NULL,"NULL","x \"y\" \\","",b c}"#, ','),
            Some(vec![
                text("a"),
                Element::Null,
                text("NULL"),
                text(r#"x "y" \"#),
                text(""),
                text("b c")
            ])
        );
        let inner = |a, b| Element::Nested(vec![text(a), text(b)]);
        let two = Some(vec![inner("1", "2"), inner("3", "4")]);
        assert_eq!(array("{{1,2},{3,4}}", ','), two);
        assert_eq!(array("[0:1][2:3]={{1,2},{3,4}}", ','), two);
        assert_eq!(
            array("{(1,2),(0,0);(3,4),(5,6)}", ';').map(|all| all.len()),
            Some(2)
        );
        for bad in ["", "{", "{a", "{a}b", "a", "{\"a}", "[0:1]", "{a,\\"] {
            assert_eq!(array(bad, ','), None, "{bad}");
        }
    }

    #[test]
    fn rows_have_empty_fields_for_null() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(row("()"), Some(vec![None]));
        assert_eq!(row("(,)"), Some(vec![None, None]));
        assert_eq!(
            row(r#"(1,"a ""b"" \\",,"")"#),
            Some(vec![some("1"), some(r#"a "b" \"#), None, some("")])
        );
        assert_eq!(row(r#"("(1,2)")"#), Some(vec![some("(1,2)")]));
        assert_eq!(row("(\"a)"), None);
        assert_eq!(row("1"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = (array(&text, ','), row(&text));
        }
    }
}
