//! Writes the generated pages of the documentation. With `--check` it writes nothing, and fails if
//! they are stale. With `man FOLDER` it writes man pages there instead.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use observer_reference::{pages, root, write_man_pages};

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let check = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--check"] => true,
        ["man", folder] => {
            write_man_pages(Path::new(folder)).with_context(|| folder.to_owned())?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => anyhow::bail!("usage: observer-reference [--check | man FOLDER]"),
    };
    let mut stale = false;
    for page in pages()? {
        let file = root().join(page.path);
        if !check {
            std::fs::write(&file, &page.text).with_context(|| page.path)?;
        } else if std::fs::read_to_string(&file).unwrap_or_default() != page.text {
            eprintln!("{} is stale: run `make generate` and commit it.", page.path);
            stale = true;
        }
    }
    Ok(if stale {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
