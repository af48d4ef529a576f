//! A page of the docs, as somebody follows it who has nothing else: its files, and its commands in their order.
//!
//! What a user has and a test has not (a server at an address, a receiver, a registry) is put in its place by
//! texts that stand for others. A text that no block of the page holds fails the test, so what is not needed any
//! more goes, and everything else is run as it is printed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Longest time of a command, which may wait for pods for minutes.
const PATIENCE: Duration = Duration::from_mins(6);

/// Code blocks of a page: their language and their text.
pub struct Page(Vec<(String, String)>);

impl Page {
    /// Reads a page below `docs`, and puts another text in the place of each of these wherever a block holds it.
    ///
    /// # Panics
    ///
    /// If the page is not there, or none of its blocks holds one of the texts.
    #[must_use]
    pub fn read(page: &str, replaced: &[(&str, &str)]) -> Self {
        let mut blocks = blocks(&std::fs::read_to_string(docs(page)).unwrap());
        for (from, to) in replaced {
            let mut is_used = false;
            for (_, text) in &mut blocks {
                is_used |= text.contains(from);
                *text = text.replace(from, to);
            }
            assert!(is_used, "{page} prints no {from:?} any more");
        }
        Self(blocks)
    }

    /// Texts of the blocks in a language.
    #[must_use]
    pub fn blocks(&self, language: &str) -> Vec<&str> {
        let blocks = self.0.iter().filter(|(of, _)| of == language);
        blocks.map(|(_, text)| text.as_str()).collect()
    }

    /// Commands of the blocks for a shell. A line is one, with the lines that it continues on and its heredoc.
    ///
    /// # Panics
    ///
    /// If a line joins several, as a page that counts its commands must not.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        self.blocks("sh").into_iter().flat_map(commands).collect()
    }
}

/// The path of a page or an example below `docs`.
#[must_use]
pub fn docs(path: &str) -> PathBuf {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    docs.join(path).canonicalize().unwrap()
}

fn blocks(markdown: &str) -> Vec<(String, String)> {
    let mut blocks: Vec<(String, String)> = Vec::new();
    let mut is_open = false;
    for event in Parser::new(markdown) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                blocks.push((language.into_string(), String::new()));
                is_open = true;
            }
            Event::End(TagEnd::CodeBlock) => is_open = false,
            Event::Text(part) if is_open => blocks.last_mut().unwrap().1.push_str(&part),
            _ => {}
        }
    }
    blocks
}

fn commands(block: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = block.lines();
    while let Some(line) = lines.next() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let mut command = line.to_owned();
        while command.ends_with('\\') {
            command.push('\n');
            command.push_str(lines.next().expect("a line to continue on"));
        }
        for joint in ["&&", "||", "; "] {
            assert!(!command.contains(joint), "several commands: {command}");
        }
        if let Some((_, end)) = command.clone().split_once("<<") {
            let end = end.trim_matches(['-', '\'', '"']);
            for line in lines.by_ref() {
                command.push('\n');
                command.push_str(line);
                if line == end {
                    break;
                }
            }
        }
        found.push(command);
    }
    found
}

/// A shell in an empty home, with the programs of the system and nothing of this process's environment.
pub struct Shell {
    home: TempDir,
    variables: Vec<(String, String)>,
}

impl Shell {
    /// One with these variables. Programs that a user has installed are linked into `.cargo/bin`, which is in its
    /// `PATH` as rustup has it.
    ///
    /// # Panics
    ///
    /// If its home cannot be made.
    #[must_use]
    pub fn new(variables: &[(&str, &str)]) -> Self {
        let home = TempDir::with_prefix("observers-home-").unwrap();
        let bin = home.path().join(".cargo/bin");
        std::fs::create_dir_all(&bin).unwrap();
        let (home_path, bin) = (home.path().to_str().unwrap(), bin.to_str().unwrap());
        let path = format!("{bin}:/usr/local/bin:/usr/bin:/bin:/usr/sbin");
        let own = [("HOME", home_path), ("PATH", &path)];
        let variables = own.iter().chain(variables);
        let variables = variables
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Self { home, variables }
    }

    /// Makes a program callable by this name.
    ///
    /// # Panics
    ///
    /// If it cannot be linked.
    pub fn install(&self, name: &str, program: &Path) {
        let link = self.home.path().join(".cargo/bin").join(name);
        std::os::unix::fs::symlink(program, link).unwrap();
    }

    /// Writes a file of the home, as somebody who copies it from a page.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// The path of a file of the home.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs a command to its end and returns what it printed.
    ///
    /// # Panics
    ///
    /// If it fails, with all it said, or does not end.
    pub async fn run(&self, command: &str) -> String {
        let mut shell = self.command(command);
        let output = shell.stdout(Stdio::piped()).stderr(Stdio::piped()).output();
        let output = timeout(PATIENCE, output).await;
        let output = output.unwrap_or_else(|_| panic!("no end of: {command}"));
        let output = output.unwrap();
        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        let status = output.status;
        assert!(status.success(), "{command}\n{status}\n{out}\n{err}");
        out
    }

    /// Starts a command that runs until it is stopped. What it says is in what the test prints.
    ///
    /// # Panics
    ///
    /// If there is no shell.
    #[must_use]
    pub fn start(&self, command: &str) -> Child {
        // The shell would otherwise stay between the test and the program.
        let command = format!("exec {command}");
        self.command(&command).spawn().unwrap()
    }

    fn command(&self, command: &str) -> Command {
        let mut shell = Command::new("/bin/bash");
        shell
            .args(["-euo", "pipefail", "-c", command])
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        shell
    }
}

#[cfg(test)]
mod tests {
    use super::{blocks, commands};

    #[test]
    fn blocks_of_lists_and_heredocs_are_read() {
        let markdown =
            "1. First\n\n   ```sh\n   a \\\n     -b   # why\n   ```\n\n```yaml\nkey: 1\n```\n";
        let found = blocks(markdown);
        let of = |language: &str, text: &str| (language.to_owned(), text.to_owned());
        assert_eq!(
            found,
            [of("sh", "a \\\n  -b   # why\n"), of("yaml", "key: 1\n")]
        );
        let block = "# a comment\n\na -b \\\n  -c\npsql <<'SQL'\nselect 1;\nSQL\nlast\n";
        assert_eq!(
            commands(block),
            ["a -b \\\n  -c", "psql <<'SQL'\nselect 1;\nSQL", "last"]
        );
    }

    #[test]
    #[should_panic(expected = "several commands")]
    fn joined_commands_are_refused() {
        let _ = commands("a && b\n");
    }
}
