//! How many instructions the hot functions take, counted by callgrind, so that one that has become
//! dearer shows on any machine, however busy.

use std::hint::black_box;
use std::process::Command;

#[path = "../benches/hot/work.rs"]
mod work;

/// Set in the process that is counted.
const COUNTED: &str = "OBSERVER_TEST_COUNTED";

/// How often it does each work.
const TIMES: u32 = 5;

/// Observers of one entity; to compile them takes its time under callgrind.
const OBSERVERS: usize = 8;

/// Thousands of instructions of each work, in a build for tests.
const KNOWN: [(&str, f64); work::ALL.len()] = [
    ("matching", 131.4),
    ("event_as_json", 358.6),
    ("template", 493.8),
    ("lanes", 4622.7),
    ("window_paging", 107.9),
];

/// How far a count may be off what is known.
const SLACK: f64 = 0.10;

#[test]
#[ignore = "run by the test that counts its instructions"]
fn work_that_is_counted() {
    if std::env::var_os(COUNTED).is_none() {
        return;
    }
    let work = work::Work::new(OBSERVERS);
    for (_, once) in work::ALL {
        for _ in 0..TIMES {
            black_box(once(&work));
        }
    }
}

/// What a program says, where it ends well.
fn said_by(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Thousands of instructions of a work with all that it calls, each time, of a line for each function
/// with its count first.
fn thousands(counts: &str, name: &str) -> f64 {
    let function = format!("work::Work::{name}");
    let of_it = |line: &&str| {
        line.split_whitespace()
            .any(|word| word.ends_with(&function))
    };
    let line = counts
        .lines()
        .find(of_it)
        .unwrap_or_else(|| panic!("no count of {name} in:\n{counts}"));
    let count = line.split_whitespace().next().unwrap().replace(',', "");
    count.parse::<f64>().unwrap() / f64::from(TIMES) / 1e3
}

#[test]
fn the_hot_functions_take_no_more_instructions_than_before() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("counts");
    said_by(
        Command::new("valgrind")
            .arg("--tool=callgrind")
            .arg(format!("--callgrind-out-file={}", file.display()))
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "instructions::work_that_is_counted", "--ignored"])
            .args(["--test-threads", "1"])
            .env(COUNTED, "1"),
    );
    let counts = said_by(
        Command::new("callgrind_annotate")
            .args(["--inclusive=yes", "--threshold=100"])
            .arg(&file),
    );
    let mut off = Vec::new();
    for (name, known) in KNOWN {
        let now = thousands(&counts, name);
        println!("{name}: {now:.1} thousand instructions, known: {known}");
        if (now - known).abs() > known * SLACK {
            off.push(format!("{name}: {now:.1} in place of {known}"));
        }
    }
    assert!(
        off.is_empty(),
        "thousands of instructions that are further off what stands in KNOWN than a tenth: {off:?}. \
         Where that is meant, or came with another compiler, write it there."
    );
}
