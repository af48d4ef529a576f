//! A long way to a server that can be cut: what the server did for a request is then not heard of.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::{JoinHandle, JoinSet};
use url::Url;

/// How long an answer is under way.
const LATENCY: Duration = Duration::from_millis(30);

/// A way; dropped, it is there no more.
pub struct Link {
    port: u16,
    cut: broadcast::Sender<()>,
    task: JoinHandle<()>,
}

impl Link {
    /// To the server that a URL names.
    pub async fn to(url: &str) -> Self {
        let url = Url::parse(url).unwrap();
        let server = (url.host_str().unwrap().to_owned(), url.port().unwrap());
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let (cut, _) = broadcast::channel(1);
        let task = tokio::spawn({
            let cut = cut.clone();
            async move {
                let mut connections = JoinSet::new();
                while let Ok((here, _)) = socket.accept().await {
                    let (server, mut cut) = (server.clone(), cut.subscribe());
                    connections.spawn(async move {
                        let there = TcpStream::connect(server).await.unwrap();
                        here.set_nodelay(true).unwrap();
                        there.set_nodelay(true).unwrap();
                        let (mut asked, replies) = here.into_split();
                        let (answers, mut server) = there.into_split();
                        tokio::select! {
                            _ = copy(&mut asked, &mut server) => {}
                            _ = bring(answers, replies) => {}
                            _ = cut.recv() => {}
                        }
                    });
                    while connections.try_join_next().is_some() {}
                }
            }
        });
        Self { port, cut, task }
    }

    /// The URL of the same server by this way.
    #[must_use]
    pub fn url(&self, url: &str) -> String {
        let mut url = Url::parse(url).unwrap();
        url.set_ip_host("127.0.0.1".parse().unwrap()).unwrap();
        url.set_port(Some(self.port)).unwrap();
        url.into()
    }

    /// Cuts all connections that there are; new ones may be made at once.
    pub fn cut(&self) {
        // There may be none.
        let _ = self.cut.send(());
    }
}

/// Brings answers, each after its time.
async fn bring(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
    let mut piece = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return Ok(());
        }
        tokio::time::sleep(LATENCY).await;
        to.write_all(&piece[..length]).await?;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}
