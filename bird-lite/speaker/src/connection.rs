//! One TCP connection: a task that reads into the owner's inbox and writes what the owner hands it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ipnet::IpNet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tortie_bird_lite::{ConnectionId, Event};

use crate::owner::Input;
use crate::security::{self, Security};

/// After we have closed, how long the peer may take to read what we said last: closing with unread bytes would reset the connection, and
/// a NOTIFICATION on its way would be lost.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes to read at once, little from an idle peer, much from a busy one.
const SMALL_READ: usize = 4 << 10;
const LARGE_READ: usize = 64 << 10;

/// What the owner hands a connection.
#[derive(Debug)]
pub(crate) enum Order {
    /// Bytes to write.
    Write(Bytes),
    /// To be closed when all before is written.
    Close,
}

/// Opens a connection and hands it to the owner, or the reason why not.
pub(crate) async fn connect(
    connection: ConnectionId,
    remote: SocketAddr,
    local: Option<IpAddr>,
    security: Security,
    inbox: mpsc::Sender<Input>,
) {
    let input = match open(remote, local, &security).await {
        Ok(stream) => Input::Connected { connection, stream },
        Err(error) => {
            let error = format!("connecting to {remote}: {error}");
            Input::Event(Event::ConnectFailed { connection, error })
        }
    };
    let _ = inbox.send(input).await;
}

async fn open(remote: SocketAddr, local: Option<IpAddr>, security: &Security) -> io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(local) = local {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    if security.password.is_some() {
        security::set_password(socket.as_fd(), IpNet::from(remote.ip()), security.password.as_ref())?;
    }
    if let Some(hops) = security.hops {
        security::set_hops(socket.as_fd(), remote.is_ipv4(), hops)?;
    }
    socket.connect(remote).await
}

/// Serves a connection until either side ends it.
pub(crate) async fn serve(
    connection: ConnectionId,
    stream: TcpStream,
    inbox: mpsc::Sender<Input>,
    orders: mpsc::UnboundedReceiver<Order>,
) {
    // Messages are written whole; waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.into_split();
    let ended = tokio::select! {
        error = read(connection, &mut reader, &inbox) => Some(error),
        error = write(connection, &mut writer, &inbox, orders) => error,
    };
    if let Some(error) = ended {
        let _ = inbox.send(Input::Event(Event::Closed { connection, error })).await;
        return;
    }
    let _ = writer.shutdown().await;
    let mut rest = [0; SMALL_READ];
    let drain = async { while reader.read(&mut rest).await.is_ok_and(|count| count > 0) {} };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

/// Reads until the end: `None` if the peer closed in order.
async fn read(connection: ConnectionId, reader: &mut OwnedReadHalf, inbox: &mpsc::Sender<Input>) -> Option<String> {
    let mut size = SMALL_READ;
    loop {
        // The buffer is made when there is something to read, so that an idle connection holds none.
        if let Err(error) = reader.readable().await {
            return Some(format!("reading: {error}"));
        }
        let mut buffer = BytesMut::with_capacity(size);
        match reader.try_read_buf(&mut buffer) {
            Ok(0) => return None,
            Ok(count) => {
                size =
                    if count == size { LARGE_READ } else { SMALL_READ.max(count.next_power_of_two()).min(LARGE_READ) };
                let event = Event::Received { connection, bytes: buffer.freeze() };
                if inbox.send(Input::Event(event)).await.is_err() {
                    return None;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Some(format!("reading: {error}")),
        }
    }
}

/// Writes until told to close (`None`), or until it cannot (`Some`).
async fn write(
    connection: ConnectionId,
    writer: &mut OwnedWriteHalf,
    inbox: &mpsc::Sender<Input>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> Option<Option<String>> {
    while let Some(Order::Write(bytes)) = orders.recv().await {
        if let Err(error) = writer.write_all(&bytes).await {
            return Some(Some(format!("writing: {error}")));
        }
        let event = Event::Sent { connection, bytes: bytes.len() };
        if inbox.send(Input::Event(event)).await.is_err() {
            return None;
        }
    }
    None
}
