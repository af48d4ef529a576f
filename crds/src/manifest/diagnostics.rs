//! Diagnostics: what is wrong with the files, all of it at once, with its lines.
//!
//! No message holds a value that was read: it may be a secret in the wrong place.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use crate::config::ObserverConfig;

/// Longest name that a message repeats.
const MAX_SHOWN: usize = 128;

/// One mistake in a file, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, as the caller named it; empty where no single file is to blame.
    pub file: String,
    /// Line in the file, from 1.
    pub line: Option<usize>,
    /// Resource and field, such as `Observer shop/big-orders: spec.actions[0].webhook.url`; empty
    /// where no resource could be made out.
    pub path: String,
    /// What is wrong, and the remedy.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            f.write_str(&self.file)?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
            f.write_str(": ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Why files cannot be run; prints one line for each mistake, and their number.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    /// Every mistake of every file, in the order of files and lines; never empty.
    pub items: Vec<Diagnostic>,
    /// Every observer that could be made out, with placeholders for what is wrong in it: good for
    /// checking its expressions and templates in the same go, and for nothing else. Parts keep
    /// their place, so that paths into it are paths into the file.
    pub partial: Vec<ObserverConfig>,
    /// Where the parts of those observers stand.
    pub source_map: SourceMap,
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for item in &self.items {
            writeln!(f, "{item}")?;
        }
        match self.items.len() {
            1 => f.write_str("1 problem"),
            count => write!(f, "{count} problems"),
        }
    }
}

impl std::error::Error for Diagnostics {}

/// Lines of the fields of observers in the files.
#[derive(Clone, Debug, Default)]
pub struct SourceMap(BTreeMap<String, DocumentLines>);

#[derive(Clone, Debug)]
struct DocumentLines {
    file: String,
    lines: BTreeMap<String, usize>,
}

impl SourceMap {
    /// Returns file and line of a field such as `spec.actions[0].webhook.url` of the observer
    /// `namespace/name`, or of the closest field around it that was written.
    #[must_use]
    pub fn find(&self, observer: &str, path: &str) -> Option<(&str, usize)> {
        let place = self.0.get(observer)?;
        let mut path = path;
        loop {
            if let Some(line) = place.lines.get(path) {
                return Some((&place.file, *line));
            }
            if path.is_empty() {
                return None;
            }
            path = path.rfind(['.', '[']).map_or("", |end| &path[..end]);
        }
    }

    /// Creates a diagnostic for a field of an observer, for what only the caller can check.
    #[must_use]
    pub fn diagnostic(&self, observer: &str, path: &str, message: impl Into<String>) -> Diagnostic {
        let found = self.find(observer, path);
        Diagnostic {
            file: found.map_or_else(String::new, |(file, _)| file.to_owned()),
            line: found.map(|(_, line)| line),
            path: format!("Observer {observer}: {path}"),
            message: message.into(),
        }
    }

    /// Adds the lines of an observer, unless it has some already.
    pub(crate) fn insert(&mut self, observer: String, file: &str, lines: &BTreeMap<String, usize>) {
        self.0.entry(observer).or_insert_with(|| DocumentLines {
            file: file.to_owned(),
            lines: lines
                .iter()
                .map(|(pointer, line)| (dotted(pointer), *line))
                .collect(),
        });
    }
}

/// Converts a JSON pointer to a path as people write it: `spec.actions[0].webhook.url`.
pub(crate) fn dotted(pointer: &str) -> String {
    let mut path = String::new();
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        if !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit()) {
            path.push('[');
            path.push_str(&step);
            path.push(']');
        } else if step.contains(['.', '/']) {
            path.push_str("[\"");
            path.push_str(&shown(&step));
            path.push_str("\"]");
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&shown(&step));
        }
    }
    path
}

/// Appends a field to a JSON pointer.
pub(crate) fn field(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// Returns a name as messages may show it. Anything that does not look like a name may be a value
/// in the wrong place.
pub(crate) fn shown(name: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if !name.is_empty() && name.len() <= MAX_SHOWN && name.chars().all(plain) {
        Cow::Borrowed(name)
    } else {
        Cow::Borrowed("…")
    }
}

/// Returns the known name that a misspelled one is closest to.
#[must_use]
pub fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > MAX_SHOWN {
        return None;
    }
    let lower = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| {
            let distance = strsim::osa_distance(&lower, &candidate.to_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}
