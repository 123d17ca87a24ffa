//! The connection to the API server: one, HTTP/2, for all watches and requests of an agent.
//!
//! The stock client speaks HTTP/1.1, where every watch needs a TLS connection of its own: of 5,000 agents with some twenty watches each,
//! 100,000. Over one connection the pings of HTTP/2 also tell within half a minute that a server went without a word.

use std::path::Path;
use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use crate::Error;

/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a connection on which nothing comes is asked whether it still stands, and how long the answer may take.
const PING: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A client for the API server that a kubeconfig names; without one, that which `KUBECONFIG`, `~/.kube/config` or a pod's service account
/// names. Returns the server's address with it.
///
/// # Errors
/// When none of them does, or what it names cannot be used.
pub(super) async fn connect(kubeconfig: Option<&Path>) -> Result<(Client, String), Error> {
    let failed = |reason: String| Error::Store { place: "the Kubernetes API server".to_owned(), reason };
    let config = match kubeconfig {
        Some(path) => {
            let unusable = |error| failed(format!("{} cannot be used: {error}", path.display()));
            let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(unusable)?
        }
        None => Config::infer().await.map_err(|error| {
            failed(format!("nothing says where it is: {error}; set KUBECONFIG, or run in a pod with a service account"))
        })?,
    };
    let place = config.cluster_url.to_string();
    let client = client(config).map_err(|error| failed(format!("{place} cannot be used: {error}")))?;
    Ok((client, place))
}

fn client(config: Config) -> Result<Client, BoxError> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let mut https = HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_or_http();
    if let Some(name) = &config.tls_server_name {
        https = https.with_server_name_resolver(FixedServerNameResolver::new(name.clone().try_into()?));
    }
    let connector = https.enable_http1().enable_http2().wrap_connector(http);
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}
