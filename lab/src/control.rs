//! What the lab's commands say to the responders' process: one JSON line each way over a unix socket.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::Error;
use crate::ports::Port;

/// How long the responders may take for one request.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Open these ports where they are not open yet.
    Ensure(Vec<Listening>),
    /// Close every port of these pods.
    Remove(Vec<String>),
    /// Which of these probes' datagrams reached their pod?
    Arrived(Vec<u64>),
}

/// The ports that a pod should answer on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// `NAMESPACE/NAME`, which is the answer.
    pub pod: String,
    /// The pod's network namespace.
    pub netns: String,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// The answer to a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Ports that could not be opened.
    pub failed: Vec<Failure>,
    /// Of the probes asked for, those that arrived.
    pub arrived: Vec<u64>,
}

/// A port that could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// The port.
    pub port: Port,
    /// The kernel's reason.
    pub reason: String,
    /// Whether this kernel lacks the protocol altogether.
    pub unsupported: bool,
}

/// Sends a request to the responders behind the socket.
pub async fn call(socket: &Path, request: &Request) -> Result<Response, Error> {
    let io = |error| Error::io("talk to the responders at", socket, error);
    let exchange = async {
        let mut stream = BufReader::new(UnixStream::connect(socket).await.map_err(io)?);
        let mut line = serde_json::to_vec(request).map_err(|error| Error::Failed(error.to_string()))?;
        line.push(b'\n');
        stream.write_all(&line).await.map_err(io)?;
        let mut answer = String::new();
        stream.read_line(&mut answer).await.map_err(io)?;
        serde_json::from_str(&answer)
            .map_err(|error| Error::Failed(format!("the responders at {} answered amiss: {error}", socket.display())))
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .map_err(|_| Error::Failed(format!("the responders at {} do not answer", socket.display())))?
}
