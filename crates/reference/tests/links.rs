//! Links lead to files and headings that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use observer_reference::root;

use crate::markdown::{Markdown, read};

/// Pages link to what is beside the book by this address.
const REPOSITORY: &str = "https://github.com/fraiseql/observers/blob/main/";

/// All Markdown files below a folder, without what is built.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir()
            && !path.is_symlink()
            && !name.starts_with('.')
            && name != "target"
            && name != "node_modules"
        {
            files(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "md") {
            found.push(path);
        }
    }
}

fn markdown(path: &Path) -> Markdown {
    read(&fs::read_to_string(path).unwrap())
}

/// What is wrong with a link of a file, if anything.
fn wrong(from: &Path, link: &str, book: &Path) -> Option<String> {
    let (place, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match place.strip_prefix(REPOSITORY) {
        Some(path) => root().join(path),
        None if place.contains("://") || place.starts_with("mailto:") => return None,
        None if place.is_empty() => from.to_owned(),
        None => from.parent().unwrap().join(place),
    };
    let Ok(target) = target.canonicalize() else {
        return Some(format!("{link}: there is no such file"));
    };
    // mdBook renders what is in the book, and nothing beside it.
    if from.starts_with(book) && !target.starts_with(book) && !place.starts_with(REPOSITORY) {
        return Some(format!("{link}: leaves the book; write {REPOSITORY}..."));
    }
    if from.starts_with(book) && target.is_dir() {
        return Some(format!("{link}: leads to a folder"));
    }
    let has = |anchor: &str| markdown(&target).anchors.iter().any(|one| one == anchor);
    (!anchor.is_empty() && !has(anchor)).then(|| format!("{link}: there is no such heading"))
}

#[test]
fn links_lead_somewhere() {
    let root = root().canonicalize().unwrap();
    let book = root.join("docs");
    let mut all = Vec::new();
    files(&root, &mut all);
    assert!(all.len() > 30, "{all:?}");
    let mut found = Vec::new();
    for file in &all {
        for link in markdown(file).links {
            if let Some(wrong) = wrong(file, &link, &book) {
                found.push(format!(
                    "{}: {wrong}",
                    file.strip_prefix(&root).unwrap().display()
                ));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn wrong_links_are_found() {
    let book = root().join("docs").canonicalize().unwrap();
    let from = book.join("README.md");
    assert_eq!(wrong(&from, "README.md", &book), None);
    for link in [
        "no-such-page.md",
        "#no-such-heading",
        "../README.md",
        "how-to",
    ] {
        assert!(wrong(&from, link, &book).is_some(), "{link}");
    }
    let outside = format!("{REPOSITORY}no-such-file");
    assert!(wrong(&from, &outside, &book).is_some());
}

#[test]
fn every_page_is_in_the_summary() {
    let book = root().join("docs").canonicalize().unwrap();
    let summary = book.join("SUMMARY.md");
    let listed: BTreeSet<PathBuf> = markdown(&summary)
        .links
        .iter()
        .map(|link| book.join(link))
        .collect();
    let mut pages = Vec::new();
    files(&book, &mut pages);
    let missing: Vec<&PathBuf> = pages
        .iter()
        .filter(|page| **page != summary && !listed.contains(*page))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
