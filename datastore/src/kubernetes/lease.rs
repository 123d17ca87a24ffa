//! Who leads, in a cluster: whoever holds a Lease and renews it.
//!
//! As in client-go, nobody trusts another's clock: a Lease has run out when it has stood still for its whole duration as seen from here.
//! Who loses touch with the server stops leading before others may begin. Of thousands of agents only one leads, and the others ask rarely:
//! one among many asks soon after the leader is gone.

use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{GetParams, PostParams};
use kube::core::Request;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::watch::spread;
use crate::{Error, Leadership};

/// For how long a Lease holds.
const DURATION: Duration = Duration::from_secs(15);

/// How often the leader renews it.
const RENEW: Duration = Duration::from_secs(4);

/// How often others look, on average. A little longer than a Lease holds, so that two looks tell whether it stands still.
const LOOK: Duration = Duration::from_secs(20);

/// How long the server may take.
const ANSWER: Duration = Duration::from_secs(5);

/// A Lease, and who would like to hold it.
#[derive(Clone)]
pub(super) struct Lease {
    client: Client,
    place: String,
    namespace: String,
    name: String,
    holder: String,
}

/// What became of an attempt to hold the Lease.
enum Attempt {
    /// It is ours.
    Held,
    /// Somebody else has it, or was faster.
    Others,
}

/// A version of the Lease that somebody else holds, and since when it has been seen.
struct Seen {
    version: String,
    since: Instant,
}

/// Gives the Lease back when whoever leads stops.
struct Hold {
    renewing: AbortHandle,
    lease: Lease,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.renewing.abort();
        let lease = self.lease.clone();
        // Where there is no time for it any more, it runs out by itself.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { lease.release().await });
        }
    }
}

impl Lease {
    pub(super) fn new(client: Client, place: &str, duty: &str, holder: &str) -> Self {
        let namespace = std::env::var("POD_NAMESPACE").ok().filter(|namespace| !namespace.is_empty());
        Self {
            client,
            place: place.to_owned(),
            namespace: namespace.unwrap_or_else(|| "kube-system".to_owned()),
            name: format!("tortie-{duty}"),
            holder: holder.to_owned(),
        }
    }

    /// Waits until the Lease is ours, and renews it from then on.
    ///
    /// # Errors
    /// When the server forbids us the Lease.
    pub(super) async fn lead(self) -> Result<Leadership, Error> {
        let mut seen = None;
        loop {
            let started = Instant::now();
            match self.take(&mut seen).await {
                Ok(Attempt::Held) => return Ok(self.keep(started)),
                Ok(Attempt::Others) => {}
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    return Err(Error::Store { place: self.place.clone(), reason: super::refusal(&status) });
                }
                Err(error) => tracing::debug!(lease = self.name, %error, "the Lease cannot be read"),
            }
            tokio::time::sleep(spread(LOOK)).await;
        }
    }

    /// Renews the Lease until that fails for too long.
    fn keep(self, mut renewed: Instant) -> Leadership {
        let (lost, seen) = watch::channel(false);
        let lease = self.clone();
        let renewing = tokio::spawn(async move {
            let mut unseen = None;
            loop {
                tokio::time::sleep(RENEW).await;
                let started = Instant::now();
                match self.take(&mut unseen).await {
                    Ok(Attempt::Held) => renewed = started,
                    Ok(Attempt::Others) => break,
                    // Another attempt might end after the Lease has run out.
                    Err(error) if renewed.elapsed() + RENEW + ANSWER > DURATION => {
                        tracing::warn!(lease = self.name, %error, "the Lease could not be renewed; no longer leading");
                        break;
                    }
                    Err(_) => {}
                }
            }
            lost.send_replace(true);
        });
        Leadership::new(seen, Hold { renewing: renewing.abort_handle(), lease })
    }

    /// Takes the Lease if it is free, ours already, or has run out.
    async fn take(&self, seen: &mut Option<Seen>) -> Result<Attempt, kube::Error> {
        let current = match self.send(self.requests().get(&self.name, &GetParams::default())).await {
            Ok(current) => current,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let new = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": self.name, "namespace": self.namespace},
                    "spec": self.spec(0, &Value::Null),
                });
                let request = self.requests().create(&PostParams::default(), new.to_string().into_bytes());
                return held(self.send(request).await);
            }
            Err(error) => return Err(error),
        };
        let spec = &current["spec"];
        let holder = spec["holderIdentity"].as_str().unwrap_or_default();
        let ours = holder == self.holder;
        if !ours && !holder.is_empty() {
            let version = current["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            let duration = spec["leaseDurationSeconds"].as_u64().map_or(DURATION, Duration::from_secs);
            match seen {
                Some(seen) if seen.version == version && seen.since.elapsed() > duration => {}
                Some(seen) if seen.version == version => return Ok(Attempt::Others),
                _ => {
                    *seen = Some(Seen { version: version.to_owned(), since: Instant::now() });
                    return Ok(Attempt::Others);
                }
            }
        }
        let transitions = spec["leaseTransitions"].as_u64().unwrap_or_default() + u64::from(!ours);
        let acquired = if ours { spec["acquireTime"].clone() } else { Value::Null };
        let mut wanted = current.clone();
        wanted["spec"] = self.spec(transitions, &acquired);
        held(self.replace(&wanted).await)
    }

    /// Gives the Lease back, if it is ours.
    async fn release(&self) {
        let Ok(mut lease) = self.send(self.requests().get(&self.name, &GetParams::default())).await else { return };
        if lease["spec"]["holderIdentity"].as_str() == Some(&self.holder) {
            lease["spec"]["holderIdentity"] = "".into();
            // If that fails it runs out.
            let _ = self.replace(&lease).await;
        }
    }

    fn spec(&self, transitions: u64, acquired: &Value) -> Value {
        let now = Value::from(format!("{:.6}", Timestamp::now()));
        json!({
            "holderIdentity": self.holder,
            "leaseDurationSeconds": DURATION.as_secs(),
            "acquireTime": if acquired.is_null() { &now } else { acquired },
            "renewTime": now,
            "leaseTransitions": transitions,
        })
    }

    fn requests(&self) -> Request {
        Request::new(format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace))
    }

    /// Writes the Lease if nobody else has since it was read.
    async fn replace(&self, lease: &Value) -> Result<Value, kube::Error> {
        self.send(self.requests().replace(&self.name, &PostParams::default(), lease.to_string().into_bytes())).await
    }

    async fn send(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Value, kube::Error> {
        let request = request.map_err(kube::Error::BuildRequest)?;
        match tokio::time::timeout(ANSWER, self.client.request(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(kube::Error::Service("no answer".into())),
        }
    }
}

/// Whether a write made the Lease ours.
fn held(written: Result<Value, kube::Error>) -> Result<Attempt, kube::Error> {
    match written {
        Ok(_) => Ok(Attempt::Held),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Attempt::Others),
        Err(error) => Err(error),
    }
}
