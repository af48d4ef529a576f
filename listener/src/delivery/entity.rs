//! Names of entities that are tables.

use std::borrow::Cow;

/// Joins schema and table as `observer.entity_of` does: each is written as it is, and quoted where it holds a
/// dot or a quotation mark.
pub(crate) fn join(schema: &str, table: &str) -> String {
    let part = |part: &str| {
        if part.contains(['.', '"']) {
            format!("\"{}\"", part.replace('"', "\"\""))
        } else {
            part.to_owned()
        }
    };
    format!("{}.{}", part(schema), part(table))
}

/// Splits an entity into schema and table, as [`join`] joined them. Returns nothing for any other name.
pub(crate) fn split(entity: &str) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let (schema, rest) = part(entity)?;
    let (table, rest) = part(rest.strip_prefix('.')?)?;
    rest.is_empty().then_some((schema, table))
}

/// Splits the first part off, and returns it as it is without quotes, with what follows.
fn part(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (part, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
        let is_plain = !part.is_empty() && !part.contains('"');
        return is_plain.then_some((Cow::Borrowed(part), rest));
    };
    let mut from = 0;
    loop {
        let end = from + quoted[from..].find('"')?;
        let rest = &quoted[end + 1..];
        if !rest.starts_with('"') {
            return Some((Cow::Owned(quoted[..end].replace("\"\"", "\"")), rest));
        }
        from = end + 2;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    fn parts(entity: &str) -> Option<(String, String)> {
        split(entity).map(|(schema, table)| (schema.into_owned(), table.into_owned()))
    }

    #[test]
    fn quoted_parts_are_split_where_the_quotes_end() {
        for (entity, schema, table) in [
            ("public.orders", "public", "orders"),
            ("Shop.Order Lines", "Shop", "Order Lines"),
            (r#""a.b".orders"#, "a.b", "orders"),
            (r#"public."a.b""#, "public", "a.b"),
            (r#""a"".""b"."c""""#, r#"a"."b"#, r#"c""#),
            (r#""""".x"#, r#"""#, "x"),
        ] {
            let expected = (schema.to_owned(), table.to_owned());
            assert_eq!(parts(entity), Some(expected), "{entity}");
        }
    }

    #[test]
    fn other_names_are_no_table() {
        for entity in [
            "",
            "orders",
            ".orders",
            "public.",
            "a.b.c",
            r#""a.b"#,
            r#""a"b.c"#,
            r#"a"b.c"#,
            r#""a".b.c"#,
        ] {
            assert_eq!(parts(entity), None, "{entity}");
        }
    }

    proptest! {
        /// Every pair of names comes back from the entity that it makes.
        #[test]
        fn parts_of_any_table_come_back(schema in "[a-z.\"é ]{1,8}", table in "[a-z.\"é ]{1,8}") {
            prop_assert_eq!(parts(&join(&schema, &table)), Some((schema, table)));
        }
    }
}
