//! The part of the measurements in `e2e/peers` that is in Rust: the Postgres that all of them use,
//! and the client of the queue here. Commands come as lines of JSON, each is answered with one.
//!
//! ```text
//! peers server [FOLDER]   a Postgres of its own, until the input ends
//! peers ours URL SETTING  the client; the settings are in the README there
//! ```

mod client;
mod make;
mod work;

use std::error::Error;
use std::io::Write as _;

use testkit::servers::binaries::Binaries;
use testkit::servers::postgres::PrivateServer;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin, stdin};

use client::{Client, Command};

/// Any error ends the program and is reported.
type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let lines = BufReader::new(stdin()).lines();
    match *arguments {
        ["server"] => serve(&Binaries::Download, lines).await,
        ["server", folder] => serve(&Binaries::Installed(folder.into()), lines).await,
        ["ours", url, setting] => obey(Client::new(url, setting)?, lines).await,
        _ => Err("usage: peers server [FOLDER] | peers ours URL SETTING".into()),
    }
}

/// Starts a server and says its URL.
async fn serve(binaries: &Binaries, mut lines: Lines<BufReader<Stdin>>) -> Result<(), Failure> {
    let server = PrivateServer::start(binaries).await?;
    say(&serde_json::json!({"url": server.url("postgres")}))?;
    while lines.next_line().await?.is_some() {}
    Ok(())
}

async fn obey(mut client: Client, mut lines: Lines<BufReader<Stdin>>) -> Result<(), Failure> {
    while let Some(line) = lines.next_line().await? {
        let command: Command = serde_json::from_str(&line)?;
        let quit = matches!(command, Command::Quit);
        match client.obey(command).await {
            Ok(answer) => say(&answer)?,
            Err(error) => say(&serde_json::json!({"error": error.to_string()}))?,
        }
        if quit {
            break;
        }
    }
    Ok(())
}

fn say(answer: &serde_json::Value) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{answer}")?;
    output.flush()?;
    Ok(())
}
