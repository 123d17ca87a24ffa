//! One listening socket: a task that accepts connections for the owner.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::owner::Input;

/// Pause before the next try to bind an address that is not there yet, or is taken.
const BIND_PAUSE: Duration = Duration::from_secs(1);
/// Pause after an error of accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts on `address` for as long as the owner lives.
pub(crate) async fn listen(address: SocketAddr, inbox: mpsc::Sender<Input>) {
    let listener = bound(address).await;
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                if inbox.send(Input::Accepted { stream, remote }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                warn!(%address, %error, "cannot accept BGP connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn bound(address: SocketAddr) -> TcpListener {
    let mut complained = false;
    loop {
        match bind(address) {
            Ok(listener) => {
                info!(%address, "listening for BGP");
                return listener;
            }
            Err(error) if !complained => {
                complained = true;
                warn!(%address, %error, "cannot listen for BGP yet; is another BGP speaker running on this node?");
            }
            Err(_) => {}
        }
        tokio::time::sleep(BIND_PAUSE).await;
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // 0.0.0.0 has a socket of its own.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}
