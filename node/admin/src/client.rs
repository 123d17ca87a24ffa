//! A client for the admin socket: one connection a request, JSON both ways, errors that tell an operator what to do.
//!
//! A connection to a unix socket costs some 20 us, so none is kept: a client that sleeps between two requests never meets a socket that
//! an agent's restart has closed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::types::ApiError;

/// How long a request may take unless [`Client::with_timeout`] says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer that is read, in bytes: a ruleset of 5,000 rules and 100,000 elements is some 10 MB of text.
const LARGEST_ANSWER: usize = 256 << 20;

/// A client for one agent's admin socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

/// Why a request failed. The text names the socket and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens: the socket is missing, or nobody accepts on it.
    #[error("{}: {reason}; is tortie-node running? Start it, or name its socket with --socket or --run-dir", socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        reason: std::io::Error,
    },
    /// The socket is there, but this user may not use it.
    #[error("{}: permission denied; the admin socket is root's alone: run this as root", socket.display())]
    Forbidden {
        /// The socket.
        socket: PathBuf,
    },
    /// The agent did not answer in time.
    #[error("{}: no answer to {request} within {timeout:?}; the agent is busy or stuck: its log and http://127.0.0.1:9099/liveness tell which", socket.display())]
    Timeout {
        /// The socket.
        socket: PathBuf,
        /// Method and path.
        request: String,
        /// The time that it had.
        timeout: Duration,
    },
    /// The agent answered with an error of its own.
    #[error("{message}")]
    Agent {
        /// The HTTP status.
        status: u16,
        /// The agent's [`ApiError`] text.
        message: String,
    },
    /// The connection broke, or what came is not what this version expects.
    #[error("{}: {request}: {reason}; do the agent and this program have the same version?", socket.display())]
    Protocol {
        /// The socket.
        socket: PathBuf,
        /// Method and path.
        request: String,
        /// What went wrong.
        reason: String,
    },
}

impl Error {
    /// The HTTP status, where the agent answered with an error of its own.
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Agent { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether no agent answered at all, so that trying again later may help.
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::NotRunning { .. })
    }
}

impl Client {
    /// A client for the agent that listens on `socket` (`RUN_DIR/tortie.sock`). Connects with each request, not here.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), timeout: DEFAULT_TIMEOUT }
    }

    /// The same, with another limit for each request, connecting included.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET path`, read as JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let body = self.request(Method::GET, path, Bytes::new()).await?;
        self.decode(&Method::GET, path, &body)
    }

    /// `GET path`, as text.
    pub async fn get_text(&self, path: &str) -> Result<String, Error> {
        let body = self.request(Method::GET, path, Bytes::new()).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// `POST path` with a JSON body, the answer read as JSON.
    pub async fn post<B: Serialize + ?Sized, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, Error> {
        let body = serde_json::to_vec(body).map_err(|error| self.protocol(&Method::POST, path, error))?;
        let answer = self.request(Method::POST, path, Bytes::from(body)).await?;
        self.decode(&Method::POST, path, &answer)
    }

    async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Error> {
        let exchange = self.exchange(&method, path, body);
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or_else(|_| {
            Err(Error::Timeout {
                socket: self.socket.clone(),
                request: format!("{method} {path}"),
                timeout: self.timeout,
            })
        })
    }

    async fn exchange(&self, method: &Method, path: &str, body: Bytes) -> Result<Bytes, Error> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|reason| match reason.kind() {
            std::io::ErrorKind::PermissionDenied => Error::Forbidden { socket: self.socket.clone() },
            _ => Error::NotRunning { socket: self.socket.clone(), reason },
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.protocol(method, path, error))?;
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "tortie");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|error| self.protocol(method, path, error))?;

        // The connection is driven here, beside the request, so that a dropped request closes it and nothing outlives the call.
        let answer = async {
            let answer = sender.send_request(request).await.map_err(|error| self.protocol(method, path, error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
            let body = body.map_err(|error| self.protocol(method, path, error))?.to_bytes();
            if status.is_success() { Ok(body) } else { Err(refusal(status, &body)) }
        };
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            // The connection may end with the answer already read into the channel between the two; whatever it ended with, the
            // request knows more.
            _ = connection => answer.await,
        }
    }

    fn decode<T: DeserializeOwned>(&self, method: &Method, path: &str, body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body).map_err(|error| self.protocol(method, path, error))
    }

    fn protocol(&self, method: &Method, path: &str, reason: impl fmt::Display) -> Error {
        Error::Protocol { socket: self.socket.clone(), request: format!("{method} {path}"), reason: reason.to_string() }
    }
}

/// The agent's own words for an answer that is not 2xx.
fn refusal(status: StatusCode, body: &[u8]) -> Error {
    let text = String::from_utf8_lossy(body);
    let message = match serde_json::from_str::<ApiError>(&text) {
        Ok(error) => error.error,
        Err(_) if text.trim().is_empty() => format!("the agent answered {status}"),
        Err(_) => format!("the agent answered {status}: {}", text.trim()),
    };
    Error::Agent { status: status.as_u16(), message }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;
    use crate::types::{CniRequest, CniResponse, NodeStatus};

    /// Answers one request with `answer`, and returns what was asked.
    fn serve(listener: UnixListener, answer: String) -> tokio::task::JoinHandle<String> {
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let count = stream.read(&mut buffer).await.expect("a request");
                request.extend_from_slice(&buffer[..count]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length =
                    head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if body.len() >= length.unwrap_or(0) {
                    stream.write_all(answer.as_bytes()).await.expect("an answer");
                    return text;
                }
            }
        })
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn gets_json_and_posts_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("tortie.sock");
        let status = NodeStatus { node: "a".into(), ..NodeStatus::default() };
        let body = serde_json::to_string(&status).expect("JSON");
        let asked = serve(UnixListener::bind(&socket).expect("a socket"), answer("200 OK", &body));
        assert_eq!(Client::new(&socket).get::<NodeStatus>("/v1/status").await.expect("a status"), status);
        assert!(asked.await.expect("the server").starts_with("GET /v1/status HTTP/1.1\r\n"));

        std::fs::remove_file(&socket).expect("the socket goes");
        let asked =
            serve(UnixListener::bind(&socket).expect("a socket"), answer("200 OK", r#"{"ok":true,"body":null}"#));
        let request = CniRequest { command: "ADD".into(), ..CniRequest::default() };
        let response: CniResponse = Client::new(&socket).post("/v1/cni", &request).await.expect("a response");
        assert!(response.ok);
        assert!(asked.await.expect("the server").contains(r#""command":"ADD""#));
    }

    #[tokio::test]
    async fn tells_the_remedy() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("tortie.sock");
        let client = Client::new(&socket).with_timeout(Duration::from_millis(50));
        let error = client.get_text("/v1/status").await.expect_err("nobody there");
        assert!(error.is_unreachable());
        let text = error.to_string();
        assert!(text.contains("tortie.sock") && text.contains("is tortie-node running?"), "{text}");

        // A socket that a killed agent left behind.
        drop(UnixListener::bind(&socket).expect("a socket"));
        assert!(client.get_text("/v1/status").await.expect_err("nobody there").is_unreachable());

        std::fs::remove_file(&socket).expect("the socket goes");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let text = client.get_text("/v1/status").await.expect_err("no answer").to_string();
        assert!(text.contains("no answer to GET /v1/status within 50ms"), "{text}");
        drop(listener);
    }

    #[tokio::test]
    async fn carries_the_agents_words() {
        let folder = tempfile::tempdir().expect("a folder");
        for (status, body, expected) in [
            ("503 Service Unavailable", r#"{"error":"not in sync yet"}"#, "not in sync yet"),
            ("404 Not Found", "", "the agent answered 404 Not Found"),
        ] {
            let socket = folder.path().join(&status[..3]);
            serve(UnixListener::bind(&socket).expect("a socket"), answer(status, body));
            let error = Client::new(&socket).get::<NodeStatus>("/v1/status").await.expect_err("a refusal");
            assert_eq!((error.status(), error.to_string().as_str()), (status[..3].parse().ok(), expected));
        }
        let socket = folder.path().join("bad");
        serve(UnixListener::bind(&socket).expect("a socket"), answer("200 OK", "{"));
        let error = Client::new(&socket).get::<NodeStatus>("/v1/status").await.expect_err("half an answer");
        assert!(error.to_string().contains("same version"), "{error}");
    }
}
