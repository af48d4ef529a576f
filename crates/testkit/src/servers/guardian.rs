//! What sees to it that a server goes when its owner does: a process that holds a pipe from the
//! owner and, when that closes (however the owner ended), stops the server and removes its folder.

use std::ffi::OsStr;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::{ServerError, io_error};

/// Servers do not run as the super-user; this is `nobody` nearly everywhere.
const UNPRIVILEGED: u32 = 65534;

/// Between choosing a free port and the server's taking it, somebody else may take it.
pub(super) const PORT_ATTEMPTS: u32 = 5;

#[derive(Debug)]
pub(super) struct Guardian {
    process: Child,
    /// Only ever closed: the guardian reads the end of the owner from it.
    pipe: Option<ChildStdin>,
}

impl Guardian {
    /// Starts a shell with a script that reads to the end of its input, and then cleans up.
    pub(super) fn watch(
        script: &str,
        arguments: &[&Path],
        run_as: Option<u32>,
    ) -> Result<Self, ServerError> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script, "observers-guardian"].map(OsStr::new))
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // An interrupt from the terminal is for the owner alone.
            .process_group(0);
        unprivileged(&mut command, run_as);
        let mut process = command
            .spawn()
            .map_err(|source| io_error("start", Path::new("/bin/sh"), source))?;
        let pipe = process.stdin.take();
        Ok(Self { process, pipe })
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.pipe.take());
        if let Err(error) = self.process.wait() {
            tracing::warn!(%error, "a private server may still be running");
        }
    }
}

/// Whom a server with this new folder runs as, unless it is the owner; the folder is given away.
pub(super) fn run_as(folder: &Path) -> Result<Option<u32>, ServerError> {
    let owner = std::fs::metadata(folder)
        .map_err(|source| io_error("read", folder, source))?
        .uid();
    let run_as = (owner == 0).then_some(UNPRIVILEGED);
    if run_as.is_some() {
        chown(folder, run_as, run_as).map_err(|source| io_error("give away", folder, source))?;
    }
    Ok(run_as)
}

pub(super) fn unprivileged(command: &mut Command, run_as: Option<u32>) {
    if let Some(id) = run_as {
        command.uid(id).gid(id);
    }
}

pub(super) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}
