//! One listening socket: a task that accepts connections for the owner.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tortie_bird_lite::Password;
use tracing::{info, warn};

use crate::owner::Input;
use crate::security::{self, Securities};

/// Pause before the next try to bind an address that is not there yet, or is taken.
const BIND_PAUSE: Duration = Duration::from_secs(1);
/// Pause after an error of accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts on `address` for as long as the owner lives.
pub(crate) async fn listen(
    address: SocketAddr,
    inbox: mpsc::Sender<Input>,
    mut peers: watch::Receiver<Arc<Securities>>,
) {
    let listener = bound(address).await;
    let mut keys = BTreeMap::new();
    loop {
        let wanted = peers.borrow_and_update().keys(address.is_ipv4());
        set_keys(&listener, &mut keys, wanted);
        tokio::select! {
            biased;
            changed = peers.changed() => if changed.is_err() {
                return;
            },
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) => {
                    if inbox.send(Input::Accepted { stream, remote }).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    warn!(%address, %error, "cannot accept BGP connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// Gives the socket the passwords of peers. Those that it cannot have are tried again when they change.
fn set_keys(listener: &TcpListener, keys: &mut BTreeMap<IpNet, Password>, wanted: BTreeMap<IpNet, Password>) {
    if *keys == wanted {
        return;
    }
    let gone = keys.keys().filter(|peers| !wanted.contains_key(*peers)).map(|peers| (peers, None));
    let new = wanted.iter().filter(|(peers, password)| keys.get(*peers) != Some(*password));
    for (peers, password) in gone.chain(new.map(|(peers, password)| (peers, Some(password)))) {
        // Where the socket never had the key, there is none to take away.
        if let Err(error) = security::set_password(listener.as_fd(), *peers, password)
            && password.is_some()
        {
            warn!(%peers, %error, "cannot set a BGP password: these peers cannot connect; has the kernel CONFIG_TCP_MD5SIG?");
        }
    }
    *keys = wanted;
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
