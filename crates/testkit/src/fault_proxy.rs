//! A proxy before an HTTP server, which can be slow, refuse, or answer in the server's place.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Longest request that is passed on.
const MAX_BODY: usize = 64 << 20;

/// Gives the proxy's own response to a request, if it has one.
pub type Answering = dyn Fn(&Request) -> Option<Answer> + Send + Sync;

/// What the proxy does with requests.
#[derive(Clone)]
pub enum Fault {
    /// It passes them on.
    None,
    /// It closes their connections, those that wait for a response too.
    Away,
    /// It passes each on after this long.
    Slow(Duration),
    /// It answers by this function, and passes on those for which that gives nothing.
    Answer(Arc<Answering>),
}

/// A request.
pub struct Request {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers by their names in lower case.
    pub headers: HashMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

/// A response that the proxy gives by itself.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body, as JSON.
    pub body: String,
}

/// A proxy; dropped, it is there no more.
pub struct FaultProxy {
    port: u16,
    fault: watch::Sender<Fault>,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// A proxy before the server at this port of the loopback address.
    pub async fn before(server: u16) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let (fault, faults) = watch::channel(Fault::None);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = socket.accept().await {
                connections.spawn(serve(client, server, faults.clone(), Arc::clone(&seen)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            port,
            fault,
            requests,
            task,
        }
    }

    /// The URL of the proxy.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Does something else from now on.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// The requests so far, as `METHOD target`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        let requests = self.requests.lock();
        requests.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves one connection. An error ends it, as the client sees.
async fn serve(
    client: TcpStream,
    server: u16,
    mut faults: watch::Receiver<Fault>,
    seen: Arc<Mutex<Vec<String>>>,
) -> io::Result<()> {
    let (read, mut write) = client.into_split();
    let mut read = BufReader::new(read);
    while let Some(request) = receive(&mut read).await? {
        let line = format!("{} {}", request.method, request.target);
        seen.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
        let fault = faults.borrow_and_update().clone();
        let delay = match &fault {
            Fault::Away => return Ok(()),
            Fault::Slow(delay) => *delay,
            Fault::None | Fault::Answer(_) => Duration::ZERO,
        };
        let own = match &fault {
            Fault::Answer(answer) => answer(&request),
            _ => None,
        };
        if let Some(Answer { status, body }) = own {
            let head = format!(
                "HTTP/1.1 {status} Proxy\r\ncontent-type: application/json\r\n\
                 x-elastic-product: Elasticsearch\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            write.write_all(head.as_bytes()).await?;
            write.write_all(body.as_bytes()).await?;
            continue;
        }
        let passed = async {
            tokio::time::sleep(delay).await;
            pass(&request, server).await
        };
        let away = faults.wait_for(|fault| matches!(fault, Fault::Away));
        let response = tokio::select! {
            response = passed => response?,
            _ = away => return Ok(()),
        };
        // The response says that the connection is closed after it.
        write.write_all(&response).await?;
        return Ok(());
    }
    Ok(())
}

/// Reads a request; nothing where the client has closed.
async fn receive(from: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if from.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next(), words.next());
    let (method, target) = (method.unwrap_or_default(), target.unwrap_or_default());
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        from.read_line(&mut header).await?;
        let Some((name, value)) = header.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length") {
        let length: usize = length.parse().map_err(io::Error::other)?;
        if length > MAX_BODY {
            return Err(io::Error::other("the body is too long"));
        }
        body.resize(length, 0);
        from.read_exact(&mut body).await?;
    } else if headers.contains_key("transfer-encoding") {
        loop {
            let mut size = String::new();
            from.read_line(&mut size).await?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            if size > MAX_BODY - body.len() {
                return Err(io::Error::other("the body is too long"));
            }
            let start = body.len();
            // Each piece ends with a line break.
            body.resize(start + size + 2, 0);
            from.read_exact(&mut body[start..]).await?;
            body.truncate(start + size);
            if size == 0 {
                break;
            }
        }
    }
    Ok(Some(Request {
        method: method.to_owned(),
        target: target.to_owned(),
        headers,
        body,
    }))
}

/// Sends a request to the server, and returns its whole response.
async fn pass(request: &Request, server: u16) -> io::Result<Vec<u8>> {
    let mut there = TcpStream::connect(("127.0.0.1", server)).await?;
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        if !matches!(
            name.as_str(),
            "connection" | "content-length" | "transfer-encoding"
        ) {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        }
    }
    head.push_str("connection: close\r\ncontent-length: ");
    head.push_str(&request.body.len().to_string());
    head.push_str("\r\n\r\n");
    there.write_all(head.as_bytes()).await?;
    there.write_all(&request.body).await?;
    let mut response = Vec::new();
    there.read_to_end(&mut response).await?;
    Ok(response)
}
