//! What was probably meant by a name that does not exist.

/// Most names that a message lists, and most characters of each.
const MAX_LISTED: usize = 12;
const MAX_NAME: usize = 40;

/// `; did you mean ...?`, or nothing where no name is near.
pub(super) fn did_you_mean<'n>(
    name: &str,
    known: impl IntoIterator<Item = &'n str>,
) -> Option<&'n str> {
    // A name far longer than any that is listed is near none.
    if name.len() > 64 {
        return None;
    }
    let allowed = if name.len() < 4 { 1 } else { 2 };
    known
        .into_iter()
        .filter(|candidate| candidate.len() <= 64)
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The names, as many as a message can bear.
pub(super) fn list<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let mut names = names.into_iter();
    let mut listed: Vec<String> = names.by_ref().take(MAX_LISTED).map(shorten).collect();
    if names.next().is_some() {
        listed.push("...".to_owned());
    }
    listed.join(", ")
}

/// The name, cut where it is too long for a message.
pub(super) fn shorten(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_owned(),
    }
}

/// Edits between two names; one of case counts as none.
fn distance(left: &str, right: &str) -> usize {
    let fold = |text: &str| {
        text.chars()
            .flat_map(char::to_lowercase)
            .collect::<Vec<_>>()
    };
    let (left, right) = (fold(left), fold(right));
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (done, a) in left.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], done + 1);
        for (column, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_hand_are_near() {
        let known = ["total", "status", "created_at"];
        for (name, expected) in [
            ("totl", Some("total")),
            ("Status", Some("status")),
            ("createdat", Some("created_at")),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(did_you_mean(name, known), expected, "{name}");
        }
    }

    #[test]
    fn lists_are_bounded() {
        let long = "x".repeat(10_000);
        assert!(list(std::iter::repeat_n(long.as_str(), 1000)).len() < 600);
    }
}
