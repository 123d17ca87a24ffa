//! A handle on one namespace: single requests, any number of them at a time.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::AsyncSocket;
use nix::errno::Errno;
use tokio::runtime;

use crate::socket::{ACKNOWLEDGED, request, tune};
use crate::{Bulk, Error, Netns};

/// How long a request may take. The kernel answers in microseconds unless it is overloaded.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How often a dump that a concurrent change tore is read again.
const DUMP_ATTEMPTS: usize = 20;

/// A handle on one network namespace, whichever thread uses it. Clones share the socket, which a task of the runtime serves.
#[derive(Debug, Clone)]
pub struct Net {
    handle: rtnetlink::Handle,
    /// Held while a dump is read: the kernel runs one dump at a time on a socket, and answers EBUSY to a second.
    dumping: Arc<tokio::sync::Mutex<()>>,
    /// For routes, which are read and written without a detour over the library's messages.
    bulk: Arc<Mutex<Bulk>>,
}

impl Net {
    /// A handle on the calling thread's namespace. Needs a tokio runtime.
    pub fn current() -> Result<Self, Error> {
        let runtime = current_runtime()?;
        Self::open(&runtime)
    }

    /// A handle on another namespace. Needs a tokio runtime.
    pub fn in_netns(netns: &Netns) -> Result<Self, Error> {
        let runtime = current_runtime()?;
        netns.run(|| {
            let _guard = runtime.enter();
            Self::open(&runtime)
        })?
    }

    fn open(runtime: &runtime::Handle) -> Result<Self, Error> {
        let (mut connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| Error::socket("open a netlink socket", &error))?;
        tune(connection.socket_mut().socket_ref())?;
        // A dump that fails half-way says so in its last message only.
        connection.set_forward_done(true);
        runtime.spawn(connection);
        Ok(Self { handle, dumping: Arc::default(), bulk: Arc::new(Mutex::new(Bulk::current()?)) })
    }

    /// Does something with the socket for routes, on a thread that may wait.
    pub(crate) async fn with_bulk<T: Send + 'static>(
        &self,
        operation: &str,
        work: impl FnOnce(&mut Bulk) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let bulk = Arc::clone(&self.bulk);
        let task = tokio::task::spawn_blocking(move || work(&mut bulk.lock().unwrap_or_else(PoisonError::into_inner)));
        task.await.unwrap_or_else(|error| {
            Err(Error::Protocol { operation: operation.to_owned(), reason: format!("it ended early: {error}") })
        })
    }

    /// Sends a request that changes something, and waits for its acknowledgement.
    pub(crate) async fn change(&self, operation: &str, message: RouteNetlinkMessage, flags: u16) -> Result<(), Error> {
        self.answers(operation, request(message, ACKNOWLEDGED | flags)).await.map(|_| ())
    }

    /// Sends a request for one object; none if the answer names none.
    pub(crate) async fn ask(
        &self,
        operation: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, Error> {
        let (mut answers, _) = self.answers(operation, request(message, ACKNOWLEDGED)).await?;
        Ok(if answers.is_empty() { None } else { Some(answers.swap_remove(0)) })
    }

    /// Reads all objects that the request's own fields select, as they were at one time.
    pub(crate) async fn dump(
        &self,
        operation: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let _turn = self.dumping.lock().await;
        for _ in 0..DUMP_ATTEMPTS {
            match self.answers(operation, request(message.clone(), NLM_F_DUMP)).await {
                Ok((answers, false)) => return Ok(answers),
                Ok(_) => tracing::debug!(operation, "a change came in between; reading again"),
                // A dump whose reader gave up half-way still runs; it ends as soon as its answers are read.
                Err(Error::Kernel { errno: Errno::EBUSY, .. }) => tokio::time::sleep(Duration::from_millis(2)).await,
                Err(error) => return Err(error),
            }
        }
        Err(Error::Kernel { operation: operation.to_owned(), errno: Errno::EINTR, detail: None })
    }

    /// All objects that answer a request, and whether the dump was torn by a concurrent change.
    async fn answers(
        &self,
        operation: &str,
        request: NetlinkMessage<RouteNetlinkMessage>,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), Error> {
        let collect = async {
            let mut handle = self.handle.clone();
            let mut stream = handle.request(request).map_err(|_| closed(operation))?;
            let (mut objects, mut torn) = (Vec::new(), false);
            while let Some(message) = stream.next().await {
                torn |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(object) => objects.push(object),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(Error::from_message(operation, &error, message.header.flags));
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        let errno = Errno::from_raw(done.code.saturating_abs());
                        return Err(Error::Kernel { operation: operation.to_owned(), errno, detail: None });
                    }
                    NetlinkPayload::Overrun(_) => return Err(Error::Overrun { operation: operation.to_owned() }),
                    _ => {}
                }
            }
            Ok((objects, torn))
        };
        in_time(operation, collect).await
    }
}

/// Waits for an answer, but not forever: a lost one never comes.
pub(crate) async fn in_time<T>(operation: &str, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(TIMEOUT, request)
        .await
        .unwrap_or_else(|_| Err(Error::Timeout { operation: operation.to_owned(), seconds: TIMEOUT.as_secs() }))
}

fn closed(operation: &str) -> Error {
    Error::Protocol { operation: operation.to_owned(), reason: "the netlink socket was closed".to_owned() }
}

pub(crate) fn current_runtime() -> Result<runtime::Handle, Error> {
    runtime::Handle::try_current()
        .map_err(|_| Error::Invalid("a netlink handle needs a running tokio runtime".to_owned()))
}
