//! Names in messages: what was probably meant by one that does not exist, and lists within bounds.

/// Most names that a message lists, and most characters of each.
const MAX_LISTED: usize = 12;
const MAX_NAME: usize = 40;

/// The known name that is nearest, or nothing where none is near.
#[must_use]
pub fn did_you_mean<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
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
#[must_use]
pub fn list<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let mut names = names.into_iter();
    let mut listed: Vec<String> = names.by_ref().take(MAX_LISTED).map(shorten).collect();
    if names.next().is_some() {
        listed.push("...".to_owned());
    }
    listed.join(", ")
}

/// The name, cut where it is too long for a message.
#[must_use]
pub fn shorten(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_owned(),
    }
}

/// Edits between two names, where two letters in the wrong order are one, and case is none.
fn distance(left: &str, right: &str) -> usize {
    strsim::osa_distance(&left.to_lowercase(), &right.to_lowercase())
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
            ("toatl", Some("total")),
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
