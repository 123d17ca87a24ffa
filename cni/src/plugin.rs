//! What the container runtime runs: a thin client of the agent's socket, with no configuration and no credentials of its own.
//!
//! It reads the call from its environment and its standard input, hands it to the agent, and prints what the agent says. What is
//! wrong with the call itself, and VERSION, it answers alone.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tortie_admin::client::{Client, Error as ClientError};
use tortie_admin::types::{CniRequest, CniResponse};

use crate::CniError;
use crate::request::{Call, Command, LATEST, VERSIONS, answer_version};

/// Where the agent listens unless the configuration says otherwise.
const DEFAULT_SOCKET: &str = "/run/tortie/tortie.sock";

/// How long the agent has for a call. Runtimes give up after some minutes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The longest configuration that is read, in bytes.
const LONGEST_INPUT: u64 = 1 << 20;

/// The plugin, whole: reads, asks, prints. Exit status 0, or 1 with an error object on standard output.
pub fn main() -> ExitCode {
    answer(run)
}

/// Reads a call, has it answered, and prints the answer.
pub(crate) fn answer(run: impl FnOnce(&CniRequest) -> CniResponse) -> ExitCode {
    let variable =
        |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
    let response = match read_input(std::io::stdin()) {
        Ok(config) => run(&CniRequest {
            command: variable("CNI_COMMAND"),
            container_id: variable("CNI_CONTAINERID"),
            netns: variable("CNI_NETNS"),
            ifname: variable("CNI_IFNAME"),
            args: variable("CNI_ARGS"),
            path: variable("CNI_PATH"),
            config,
        }),
        Err(error) => refuse(&error, LATEST),
    };
    let printed = if response.body.is_null() {
        Ok(())
    } else {
        let mut output = std::io::stdout().lock();
        writeln!(output, "{}", response.body).and_then(|()| output.flush())
    };
    if response.ok && printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The configuration; none of it is an empty object, which VERSION may come with.
fn read_input(input: impl Read) -> Result<Value, CniError> {
    let mut text = Vec::new();
    input.take(LONGEST_INPUT + 1).read_to_end(&mut text).map_err(|error| {
        CniError::new(CniError::IO, "the network configuration cannot be read from standard input", error)
    })?;
    if text.len() as u64 > LONGEST_INPUT {
        let details = format!("standard input has more than {LONGEST_INPUT} bytes");
        return Err(CniError::new(CniError::IO, "the network configuration is too long", details));
    }
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(json!({}));
    }
    serde_json::from_slice(&text)
        .map_err(|error| CniError::new(CniError::DECODING, "the network configuration is not JSON", error))
}

fn refuse(error: &CniError, version: &str) -> CniResponse {
    CniResponse { ok: false, body: error.to_json(version) }
}

/// The versions that are spoken, for VERSION.
pub(crate) fn versions(version: &str) -> Value {
    json!({ "cniVersion": version, "supportedVersions": VERSIONS })
}

fn run(request: &CniRequest) -> CniResponse {
    let version = answer_version(&request.config).to_owned();
    let call = match Call::parse(request) {
        Ok(call) => call,
        Err(error) => return refuse(&error, &version),
    };
    if call.command == Command::Version {
        return CniResponse { ok: true, body: versions(&version) };
    }
    ask(request, &call).unwrap_or_else(|error| refuse(&error, &version))
}

/// What waits for answers, in a process that has one thing to do.
pub(crate) fn runtime() -> Result<Runtime, CniError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CniError::new(CniError::TRY_AGAIN, "the plugin cannot start", error))
}

fn ask(request: &CniRequest, call: &Call) -> Result<CniResponse, CniError> {
    let socket = match request.config.get("socket") {
        None => DEFAULT_SOCKET,
        Some(Value::String(path)) if path.starts_with('/') => path,
        Some(other) => {
            let details = format!("socket is {other}; it must be the absolute path of the agent's socket");
            return Err(CniError::new(CniError::INVALID_CONFIG, "the network configuration is not valid", details));
        }
    };
    let client = Client::new(socket).with_timeout(TIMEOUT);
    runtime()?.block_on(client.post("/v1/cni", request)).map_err(|error| {
        let code = if call.command == Command::Status { CniError::NOT_AVAILABLE } else { CniError::TRY_AGAIN };
        let details = match &error {
            // A plugin has no command line: what names the socket is the network configuration.
            ClientError::NotRunning { socket, reason } => format!(
                "{}: {reason}; is tortie-node running? Start it, or name its socket by \"socket\" in the network configuration",
                socket.display()
            ),
            other => other.to_string(),
        };
        CniError::new(code, "the node's agent did not answer", details)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(command: &str, config: Value) -> CniRequest {
        CniRequest {
            command: command.into(),
            container_id: "c".into(),
            netns: "/run/netns/x".into(),
            ifname: "eth0".into(),
            args: "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b".into(),
            path: String::new(),
            config,
        }
    }

    #[test]
    fn version_needs_no_agent() {
        let response = run(&request("VERSION", json!({"cniVersion": "0.4.0"})));
        assert!(response.ok);
        assert_eq!(
            response.body,
            json!({"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]})
        );
        assert!(run(&request("VERSION", json!({}))).ok);
    }

    #[test]
    fn a_missing_agent_is_said_with_the_remedy() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("none.sock");
        let config = json!({"cniVersion": "1.0.0", "name": "tortie", "socket": socket});
        for (command, code) in [("ADD", 11), ("DEL", 11), ("STATUS", 50)] {
            let response = run(&request(command, config.clone()));
            assert!(!response.ok);
            assert_eq!((&response.body["code"], &response.body["cniVersion"]), (&json!(code), &json!("1.0.0")));
            let details = response.body["details"].as_str().expect("details");
            assert!(details.contains("none.sock") && details.contains("is tortie-node running?"), "{details}");
            assert!(
                details.contains("\"socket\" in the network configuration") && !details.contains("--"),
                "{details}"
            );
        }
    }

    #[test]
    fn what_is_wrong_with_the_call_needs_no_agent() {
        let config = json!({"cniVersion": "1.1.0", "name": "tortie", "socket": "relative"});
        assert_eq!(run(&request("ADD", config)).body["code"], 7);
        assert_eq!(run(&request("ADD", json!({"cniVersion": "3", "name": "tortie"}))).body["code"], 1);
        assert_eq!(run(&request("FOO", json!({}))).body["code"], 4);
    }

    #[test]
    fn input_is_bounded() {
        assert_eq!(read_input(&b" \n"[..]), Ok(json!({})));
        assert_eq!(read_input(&b"{"[..]).expect_err("half").code, CniError::DECODING);
        assert_eq!(read_input(std::io::repeat(b' ')).expect_err("endless").code, CniError::IO);
        let deep = [b'['].repeat(100_000);
        assert_eq!(read_input(&deep[..]).expect_err("deep").code, CniError::DECODING);
    }
}
