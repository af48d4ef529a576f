//! Man pages: one for each command, and each as a reader of them shows it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use observer_reference::write_man_pages;

fn names(command: &clap::Command, path: &str, found: &mut BTreeSet<String>) {
    found.insert(format!("{path}.1"));
    let children = command.get_subcommands();
    for child in children.filter(|child| child.get_name() != "help" && !child.is_hide_set()) {
        names(child, &format!("{path}-{}", child.get_name()), found);
    }
}

/// Returns a page as `man` shows it; nothing where there is no groff.
fn shown(page: &Path) -> Option<String> {
    // Without overstriking, which shows what is bold.
    let groff = ["-man", "-Tutf8", "-Kutf8", "-ww", "-P-cbou"];
    let shown = Command::new("groff").args(groff).arg(page).output().ok()?;
    assert!(shown.status.success(), "{}", page.display());
    let warnings = String::from_utf8_lossy(&shown.stderr);
    assert!(warnings.is_empty(), "{}: {warnings}", page.display());
    Some(String::from_utf8_lossy(&shown.stdout).into_owned())
}

#[test]
fn each_command_has_a_man_page() {
    let folder = tempfile::tempdir().unwrap();
    write_man_pages(folder.path()).unwrap();
    let mut expected = BTreeSet::new();
    for program in [
        listener::cli::command(),
        listener::cli::kubectl::command(),
        operator::cli::command(),
    ] {
        names(&program, program.get_name(), &mut expected);
    }
    let written = std::fs::read_dir(folder.path()).unwrap();
    let written: BTreeSet<String> = written
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(written, expected);
    for name in &expected {
        let page = folder.path().join(name);
        let text = std::fs::read_to_string(&page).unwrap();
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION"] {
            assert!(
                text.contains(&format!(".SH {section}")),
                "{name} has no {section}"
            );
        }
        shown(&page);
    }
    if let Some(drop) = shown(&folder.path().join("observer-listener-dead-letters-drop.1")) {
        assert!(
            drop.contains("permanently") && drop.contains("yes"),
            "{drop}"
        );
    }
}
