//! What the API server said about tokens: a bounded number of answers, each for a bounded time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::UserInfo;
use tokio::time::Instant;

use super::{ClusterUser, Remembered, Right, TokenDigest};
use crate::limiter::Limiter;

/// How long a refusal counts at most: who is given a right does not wait for long.
const MAX_REFUSAL_AGE: Duration = Duration::from_secs(10);

/// How long a user counts as known, whose answer does not count any more.
const MAX_STALE: Duration = Duration::from_mins(10);

/// Maximum number of tokens whose answers are remembered.
const MAX_REMEMBERED: usize = 1000;

/// What the API server said about tokens.
#[derive(Debug)]
pub(super) struct Answers {
    max_age: Duration,
    of: HashMap<TokenDigest, Answer>,
}

#[derive(Clone, Debug)]
struct Answer {
    until: Instant,
    /// Nobody, if the token is none.
    user: Option<ClusterUser>,
    /// Whether the user has a right, and how long that counts.
    rights: Vec<(Right, bool, Instant)>,
}

impl Answer {
    fn has_a_right(&self) -> bool {
        self.rights.iter().any(|(_, is_allowed, _)| *is_allowed)
    }
}

impl Answers {
    pub(super) fn new(max_age: Duration) -> Self {
        Self {
            max_age,
            of: HashMap::new(),
        }
    }

    pub(super) fn remembered(&self, digest: &TokenDigest, now: Instant) -> Remembered {
        let Some(answer) = self.of.get(digest) else {
            return Remembered::Nothing;
        };
        match &answer.user {
            Some(user) if answer.until > now => Remembered::User(user.clone()),
            Some(user) if answer.until + MAX_STALE > now => Remembered::Stale(user.limiter.clone()),
            None if answer.until > now => Remembered::Nobody,
            _ => Remembered::Nothing,
        }
    }

    pub(super) fn note_user(
        &mut self,
        digest: TokenDigest,
        user: Option<UserInfo>,
        now: Instant,
    ) -> Option<ClusterUser> {
        let before = self.of.get(&digest).and_then(|one| one.user.as_ref());
        let limiter = before.map(|user| user.limiter.clone());
        let user = user.map(|info| ClusterUser {
            digest,
            info: Arc::new(info),
            limiter: limiter.unwrap_or_else(Limiter::of_requests),
        });
        let answer = Answer {
            until: now + self.age(user.is_some()),
            user: user.clone(),
            rights: Vec::new(),
        };
        if self.of.len() >= MAX_REMEMBERED && !self.of.contains_key(&digest) {
            self.make_room(now);
        }
        self.of.insert(digest, answer);
        user
    }

    /// Removes answers about tokens that are nobody's, and those that have been stale for too long. If there are none, it
    /// removes the oldest answer about a user without a right, or else the oldest of all.
    fn make_room(&mut self, now: Instant) {
        self.of
            .retain(|_, answer| answer.user.is_some() && answer.until + MAX_STALE > now);
        if self.of.len() < MAX_REMEMBERED {
            return;
        }
        let answers = self.of.iter();
        let first = answers.min_by_key(|(_, answer)| (answer.has_a_right(), answer.until));
        if let Some(digest) = first.map(|(digest, _)| *digest) {
            self.of.remove(&digest);
        }
    }

    pub(super) fn known(&self, user: &ClusterUser, right: &Right, now: Instant) -> Option<bool> {
        let rights = &self.of.get(&user.digest)?.rights;
        let (_, is_allowed, until) = rights.iter().find(|(one, ..)| one == right)?;
        (*until > now).then_some(*is_allowed)
    }

    pub(super) fn note_right(
        &mut self,
        user: &ClusterUser,
        right: &Right,
        is_allowed: bool,
        now: Instant,
    ) {
        let age = self.age(is_allowed);
        if let Some(answer) = self.of.get_mut(&user.digest) {
            // No longer than who the user is.
            let until = answer.until.min(now + age);
            answer.rights.retain(|(one, ..)| one != right);
            answer.rights.push((right.clone(), is_allowed, until));
        }
    }

    fn age(&self, is_allowed: bool) -> Duration {
        if is_allowed {
            self.max_age
        } else {
            self.max_age.min(MAX_REFUSAL_AGE)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use k8s_openapi::api::authorization::v1::NonResourceAttributes;

    use super::super::digest;
    use super::*;

    const MAX_AGE: Duration = Duration::from_mins(1);

    fn answers() -> Answers {
        Answers::new(MAX_AGE)
    }

    fn info() -> UserInfo {
        UserInfo {
            username: Some("scraper".to_owned()),
            ..UserInfo::default()
        }
    }

    fn right(verb: &str) -> Right {
        Right::Path(NonResourceAttributes {
            verb: Some(verb.to_owned()),
            path: Some("/metrics".to_owned()),
        })
    }

    #[test]
    fn users_count_for_a_time_and_are_known_longer() {
        let (mut answers, now) = (answers(), Instant::now());
        let one = digest("one");
        assert!(matches!(answers.remembered(&one, now), Remembered::Nothing));
        answers.note_user(one, Some(info()), now);
        for (age, expected) in [
            (MAX_AGE / 2, "User"),
            (MAX_AGE, "Stale"),
            (MAX_STALE, "Stale"),
            (MAX_AGE + MAX_STALE, "Nothing"),
        ] {
            let found = format!("{:?}", answers.remembered(&one, now + age));
            assert!(found.starts_with(expected), "{age:?}: {found}");
        }
        answers.note_user(one, None, now);
        for (age, expected) in [
            (MAX_REFUSAL_AGE / 2, "Nobody"),
            (MAX_REFUSAL_AGE, "Nothing"),
        ] {
            let found = format!("{:?}", answers.remembered(&one, now + age));
            assert!(found.starts_with(expected), "{age:?}: {found}");
        }
    }

    #[test]
    fn rights_count_no_longer_than_their_user() {
        let (mut answers, now) = (answers(), Instant::now());
        let user = answers.note_user(digest("one"), Some(info()), now).unwrap();
        assert_eq!(answers.known(&user, &right("get"), now), None);
        let later = now + MAX_AGE / 2;
        answers.note_right(&user, &right("get"), true, later);
        answers.note_right(&user, &right("put"), false, later);
        assert_eq!(answers.known(&user, &right("get"), later), Some(true));
        assert_eq!(answers.known(&user, &right("put"), later), Some(false));
        assert_eq!(answers.known(&user, &right("post"), later), None);
        let refusals_are_over = later + MAX_REFUSAL_AGE;
        assert_eq!(answers.known(&user, &right("put"), refusals_are_over), None);
        assert_eq!(
            answers.known(&user, &right("get"), refusals_are_over),
            Some(true)
        );
        assert_eq!(answers.known(&user, &right("get"), now + MAX_AGE), None);
        // A new answer about the user asks for rights again.
        answers.note_user(digest("one"), Some(info()), later);
        assert_eq!(answers.known(&user, &right("get"), later), None);
    }

    #[test]
    fn remembered_tokens_are_bounded() {
        let (mut answers, now) = (answers(), Instant::now());
        for n in 0..=2 * MAX_REMEMBERED {
            answers.note_user(digest(&format!("forged {n}")), None, now);
            assert!(answers.of.len() <= MAX_REMEMBERED);
        }
        for n in 0..=2 * MAX_REMEMBERED {
            answers.note_user(digest(&format!("user {n}")), Some(info()), now);
            assert!(answers.of.len() <= MAX_REMEMBERED);
        }
    }

    #[test]
    fn users_with_a_right_are_forgotten_last() {
        let (mut answers, now) = (answers(), Instant::now());
        let one = digest("one");
        let user = answers.note_user(one, Some(info()), now).unwrap();
        answers.note_right(&user, &right("get"), true, now);
        let later = now + MAX_AGE;
        let is_stale =
            |answers: &Answers| matches!(answers.remembered(&one, later), Remembered::Stale(_));
        for n in 0..=MAX_REMEMBERED {
            answers.note_user(digest(&format!("forged {n}")), None, later);
        }
        assert!(is_stale(&answers));
        for n in 0..=MAX_REMEMBERED {
            answers.note_user(digest(&format!("user {n}")), Some(info()), later);
        }
        assert!(is_stale(&answers));
        // There is room for new ones, too.
        let new = digest("new");
        let user = answers.note_user(new, Some(info()), later).unwrap();
        answers.note_right(&user, &right("get"), true, later);
        assert_eq!(answers.known(&user, &right("get"), later), Some(true));
        assert!(matches!(
            answers.remembered(&new, later),
            Remembered::User(_)
        ));
    }

    #[test]
    fn stale_users_outlast_refusals_without_a_right() {
        let (mut answers, now) = (answers(), Instant::now());
        let one = digest("one");
        answers.note_user(one, Some(info()), now);
        let later = now + MAX_AGE;
        for n in 0..=MAX_REMEMBERED {
            answers.note_user(digest(&format!("forged {n}")), None, later);
        }
        let found = answers.remembered(&one, later);
        assert!(matches!(found, Remembered::Stale(_)));
    }
}
