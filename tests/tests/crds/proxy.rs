//! Many requests to an API server, by the plain HTTP that `kubectl proxy` makes of its TLS: a kubectl for each would take minutes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tortie_api::Kind;
use tortie_tests::k8s::ApiServer;
use tortie_tests::root;

/// A running `kubectl proxy`.
pub(crate) struct Proxy {
    child: Child,
    address: String,
}

impl Proxy {
    pub(crate) fn start(server: &ApiServer) -> Self {
        let mut child = Command::new(root().join("target/peers/k8s/bin/kubectl"))
            .arg("--kubeconfig")
            .arg(server.kubeconfig())
            .args(["proxy", "--port=0"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe"))
            .read_line(&mut line)
            .expect("kubectl says where it listens");
        let address = line.trim().rsplit(' ').next().expect("an address").to_owned();
        Self { child, address }
    }

    /// Would the server make this object? If not, what it says.
    pub(crate) fn try_create(&self, manifest: &Value, kind: Kind) -> Result<(), String> {
        let namespace = if kind.is_namespaced() { "/namespaces/default" } else { "" };
        let path = format!("/apis/{}{namespace}/{}", kind.api_version(), kind.plural());
        let mut manifest = manifest.clone();
        // Calico's cases have namespaces where they make no difference.
        manifest["metadata"].as_object_mut().expect("metadata").remove("namespace");
        let body = manifest.to_string();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let (status, answer) = self.post(&path, &body);
            match status {
                201 => return Ok(()),
                400 | 422 => {
                    let said: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{path}: {answer}"));
                    return Err(said["message"].as_str().expect("a message").to_owned());
                }
                // A definition is established a moment before its objects are served.
                404 if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(100)),
                _ => panic!("{path}: {status}: {answer}"),
            }
        }
    }

    /// The status and the body of the answer.
    fn post(&self, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).expect("kubectl listens");
        write!(
            stream,
            "POST {path}?dryRun=All&fieldValidation=Strict HTTP/1.0\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .expect("kubectl reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("kubectl answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("{head}")), body.to_owned())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
