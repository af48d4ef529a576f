//! Files given to a command.

use std::io::Read;
use std::path::{Path, PathBuf};

use crds::config::Redacted;
use crds::loader::Loaded;
use crds::manifest::{Diagnostics, SourceFile};
use observer_listener::runtime::cluster;

use super::{CliError, FileArgs};

/// Loads and checks the files, or the bundle where no file is given.
pub(super) async fn load(args: &FileArgs) -> Result<Loaded, CliError> {
    try_load(args)
        .await?
        .map_err(|report| CliError::Config(report.to_string()))
}

/// Loads the files, or the bundle where no file is given; returns their problems as a report.
pub(super) async fn try_load(args: &FileArgs) -> Result<Result<Loaded, Diagnostics>, CliError> {
    match &args.bundle.bundle {
        Some(bundle) if args.is_bundle() => {
            args.require_none_of_files()?;
            let namespace = args.bundle.namespace.as_deref();
            let text = cluster::read_bundle(namespace, bundle).await?;
            Ok(crds::loader::load_bundle(&text))
        }
        _ => try_load_files(args),
    }
}

/// Loads and checks the files.
pub(super) fn load_files(args: &FileArgs) -> Result<Loaded, CliError> {
    try_load_files(args)?.map_err(|report| CliError::Config(report.to_string()))
}

fn try_load_files(args: &FileArgs) -> Result<Result<Loaded, Diagnostics>, CliError> {
    let mut sources = Vec::new();
    for path in &args.files {
        if path.is_dir() {
            for file in folder(path)? {
                sources.push(read(&file)?);
            }
        } else {
            sources.push(read(path)?);
        }
    }
    let secret = |name: &str, key: &str| secret(args.secrets_dir.as_deref()?, name, key);
    Ok(crds::loader::load(
        &sources,
        &secret,
        args.listener.as_deref(),
    ))
}

/// Returns the YAML files of a folder, sorted by name.
fn folder(path: &Path) -> Result<Vec<PathBuf>, CliError> {
    let failed = |error| {
        CliError::Config(format!(
            "cannot read the folder {}: {error}",
            path.display()
        ))
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml")
        {
            files.push(file);
        }
    }
    if files.is_empty() {
        let path = path.display();
        return Err(CliError::Config(format!(
            "the folder {path} has no .yaml or .yml file"
        )));
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<SourceFile, CliError> {
    let mut text = String::new();
    let done = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(path).map(|read| text = read)
    };
    done.map_err(|error| CliError::Config(format!("cannot read {}: {error}", path.display())))?;
    Ok(SourceFile {
        path: path.display().to_string(),
        text,
    })
}

/// Reads a key of a Secret from its file, without a newline at the end.
fn secret(dir: &Path, name: &str, key: &str) -> Option<Redacted> {
    let text = std::fs::read_to_string(dir.join(name).join(key)).ok()?;
    Some(Redacted::new(text.strip_suffix('\n').unwrap_or(&text)))
}
