//! Random inputs for what users write: texts made of known ones by cutting, joining, repeating and
//! spoiling them. Runs for [`FOR`], or for as many seconds as `OBSERVER_TEST_FUZZ` says; the seed is
//! printed, and taken from `OBSERVER_TEST_SEED` to see it again.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// For how long one target runs.
const FOR: Duration = Duration::from_secs(4);

/// Longest text, in bytes.
const MAX_TEXT: usize = 24 * 1024;

/// What is thrown in anywhere.
const SPICE: [&str; 34] = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "\"",
    "'",
    "\\",
    "\n",
    "\r\n",
    "\0",
    "\u{7f}",
    "\u{2028}",
    "\u{ffff}",
    "🦀",
    "null",
    "none",
    "true",
    "1e999",
    "-0",
    "9223372036854775808",
    "0.1",
    "new",
    "old",
    "new.id",
    "(",
    ")",
    "[",
    "]",
    ".",
    "|",
    ",",
    "&&",
];

/// Target of random texts.
pub struct Fuzz {
    random: StdRng,
    until: Instant,
    slowest: (Duration, String),
    count: u64,
    name: &'static str,
}

impl Fuzz {
    /// Starts a target of this name.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        let given = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let seed = crate::seed::seed();
        let time = given("OBSERVER_TEST_FUZZ").map_or(FOR, Duration::from_secs);
        Self {
            random: StdRng::seed_from_u64(seed),
            until: Instant::now() + time,
            slowest: (Duration::ZERO, String::new()),
            count: 0,
            name,
        }
    }

    /// Tries texts made of these and of `words` until the time is over.
    pub fn run(mut self, corpus: &[&str], words: &[&str], attempt: impl Fn(&str)) {
        while Instant::now() < self.until {
            let text = self.text(corpus, words);
            let begun = Instant::now();
            attempt(&text);
            let took = begun.elapsed();
            if took > self.slowest.0 {
                self.slowest = (took, text.chars().take(200).collect());
            }
            self.count += 1;
        }
        let (took, text) = &self.slowest;
        println!(
            "{}: {} texts, the slowest {took:?}: {text:?}",
            self.name, self.count
        );
    }

    fn text(&mut self, corpus: &[&str], words: &[&str]) -> String {
        let mut text: Vec<char> = corpus.choose(&mut self.random).unwrap().chars().collect();
        for _ in 0..self.random.random_range(0..8) {
            let at = self.random.random_range(0..=text.len());
            let end = (at + self.random.random_range(0..40)).min(text.len());
            match self.random.random_range(0..7) {
                0 => drop(text.drain(at..end)),
                1 => insert(&mut text, at, words.choose(&mut self.random).unwrap()),
                2 => insert(&mut text, at, SPICE.choose(&mut self.random).unwrap()),
                3 => insert(&mut text, at, corpus.choose(&mut self.random).unwrap()),
                4 => {
                    let part: Vec<char> = text[at..end].to_vec();
                    let most = if self.random.random_bool(0.05) {
                        2000
                    } else {
                        8
                    };
                    let times = self.random.random_range(1..most);
                    let repeated: Vec<char> = part.repeat(times);
                    text.splice(at..at, repeated);
                }
                5 => {
                    let strange = char::from_u32(self.random.random_range(0..0x11_0000));
                    text.insert(at, strange.unwrap_or('\u{fffd}'));
                }
                _ => text.truncate(at),
            }
        }
        let mut text: String = text.into_iter().collect();
        while text.len() > MAX_TEXT {
            text.truncate(text.floor_char_boundary(MAX_TEXT));
        }
        text
    }
}

fn insert(text: &mut Vec<char>, at: usize, word: &str) {
    text.splice(at..at, word.chars());
}
