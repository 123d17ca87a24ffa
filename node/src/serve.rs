//! Serves pages by HTTP where the settings say, and elsewhere as soon as they say otherwise.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tortie_felix::settings::Listener;
use tracing::{info, warn};

/// How often a port that is taken is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// Where to listen: what the settings leave open is as `default`, from the command line.
pub(crate) fn address(listener: &Listener, default: SocketAddr) -> Option<SocketAddr> {
    let address = SocketAddr::new(listener.host.unwrap_or(default.ip()), listener.port.unwrap_or(default.port()));
    listener.enabled.then_some(address)
}

/// Serves for ever, `what` at the address of the moment; none means not at all. A port that is taken is no reason to leave pods
/// without an agent.
pub(crate) async fn serve(what: &'static str, mut address: watch::Receiver<Option<SocketAddr>>, router: Router) {
    let mut known = None;
    loop {
        let wanted = *address.borrow_and_update();
        let Some(wanted) = wanted else {
            if address.changed().await.is_err() {
                return;
            }
            continue;
        };
        let changed = match TcpListener::bind(wanted).await {
            Ok(listener) => {
                if known.replace(wanted).is_some_and(|known| known != wanted) {
                    info!("{what} is served at {wanted} from now on");
                }
                let server = axum::serve(listener, router.clone());
                tokio::select! {
                    ended = server.into_future() => {
                        if let Err(error) = ended {
                            warn!("{what} at {wanted}: {error}");
                        }
                        Ok(())
                    }
                    changed = address.changed() => changed,
                }
            }
            Err(error) => {
                if known.replace(wanted) != Some(wanted) {
                    warn!("no {what}: cannot listen on {wanted}: {error}; free the port or choose another address");
                }
                tokio::time::timeout(RETRY, address.changed()).await.unwrap_or(Ok(()))
            }
        };
        if changed.is_err() {
            return;
        }
    }
}
