//! The watch over one kind: a list, then what changes, for as long as the agent lives.
//!
//! The list comes as a stream where the server has that (`sendInitialEvents`), so that neither side holds it as a whole, and in pages
//! elsewhere. The watch then goes on from the version it was at, over any interruption, until the server says that it is too old (410).
//! Whoever asks for less (429) is given the time it asks for.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::Client;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::{Request, Status};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tortie_api::calico::{HOSTNAME_HASH_LABEL, hostname_hash};
use tortie_api::{Kind, ObjectKey};

use super::PAGE;
use super::content::{Content, WITH_STATUS};
use super::history::History;
use super::known::Known;
use super::resources::{Group, Scope, collection};
use super::wire::{self, Head, List};
use crate::{Change, Problem};

/// How many objects are handed on at once while a list is read.
const PIECE: usize = 256;

/// How long the server keeps a watch open: from here to twice as long, so that a cluster's agents do not come back together.
const WATCH_SECONDS: u32 = 300;

/// The first and the longest pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How often a resource that the server does not have is looked for.
const ABSENT_PAUSE: Duration = Duration::from_secs(30);

/// On the bookmark that ends the list of a watch.
const END_OF_LIST: &str = "k8s.io/initial-events-end";

/// How long a list, or the beginning of a watch, may take.
const ANSWER: Duration = Duration::from_secs(60);

/// What a watch tells.
#[derive(Debug)]
pub(super) struct News {
    pub(super) kind: Kind,
    pub(super) changes: Vec<Change>,
    /// How many objects have been told.
    pub(super) objects: usize,
    /// Which these are, as a digest, of kinds with a status.
    pub(super) content: Option<u64>,
    /// For each object that was looked at, what is wrong with it now.
    pub(super) problems: Vec<(ObjectKey, Vec<Problem>)>,
    /// Whether everything of the kind that exists has now been told.
    pub(super) listed: bool,
    /// The newest version that was seen.
    pub(super) version: u64,
    /// Why the watch does not go on at present.
    pub(super) trouble: Option<Problem>,
}

/// Why a watch broke off.
pub(super) enum Broken {
    /// The receiver is gone.
    Closed,
    /// The version is too old; a list is due.
    TooOld,
    /// The server has no streaming lists.
    NoStreaming,
    /// The server does not have the resource.
    Absent,
    /// Something else, and how long the server wants to be left alone.
    Failed(String, Option<Duration>),
}

/// The watch over one kind.
pub(super) struct Watch {
    client: Client,
    kind: Kind,
    scope: Scope,
    group: Group,
    node: String,
    known: Known,
    /// Of kinds with a status.
    content: Option<Content>,
    told_content: Option<u64>,
    streaming: bool,
    /// From where to go on; none before the first list.
    version: Option<String>,
    out: mpsc::Sender<News>,
    changes: Vec<Change>,
    problems: Vec<(ObjectKey, Vec<Problem>)>,
    /// Objects that cannot be read.
    unsound: BTreeSet<ObjectKey>,
    /// What has been told of all kinds, and whether that is still so.
    history: Arc<History>,
    /// Which of the server's pasts it is that was told.
    past: u32,
    /// When the watch broke off: since then the server may be another one, or have another past.
    broke: Option<Instant>,
    /// Whether the last word was that the watch does not go on.
    troubled: bool,
}

impl Watch {
    pub(super) fn new(
        client: Client,
        (kind, scope): (Kind, Scope),
        (group, node): (Group, &str),
        history: Arc<History>,
        out: mpsc::Sender<News>,
    ) -> Self {
        Self {
            client,
            kind,
            scope,
            group,
            node: node.to_owned(),
            known: Known::new(kind),
            content: WITH_STATUS.contains(&kind).then(Content::default),
            told_content: None,
            streaming: true,
            version: None,
            out,
            changes: Vec::new(),
            problems: Vec::new(),
            unsound: BTreeSet::new(),
            history,
            past: 0,
            broke: None,
            troubled: false,
        }
    }

    /// Watches until the receiver is gone.
    pub(super) async fn run(mut self) {
        let mut failures = 0_u32;
        loop {
            let started = Instant::now();
            let ended = self.go_on(started).await;
            let (reason, pause) = match ended {
                Ok(()) => {
                    failures = 0;
                    continue;
                }
                Err(Broken::Closed) => return,
                Err(Broken::TooOld) => {
                    tracing::debug!(kind = %self.kind, "the watch is too old; a new list");
                    self.version = None;
                    failures += 1;
                    (None, pause(failures.saturating_sub(1)))
                }
                Err(Broken::NoStreaming) if self.streaming => {
                    tracing::debug!(kind = %self.kind, "the API server has no streaming lists");
                    self.streaming = false;
                    continue;
                }
                Err(Broken::Absent) => {
                    let (reason, listed) = self.absent();
                    if listed && self.tell(true, None).await.is_err() {
                        return;
                    }
                    (reason, spread(ABSENT_PAUSE))
                }
                Err(broken) => {
                    let (reason, wish) = match broken {
                        Broken::Failed(reason, wish) => (reason, wish),
                        // Of a list in pages nothing of the kind was asked.
                        _ => ("the server refuses a list, as if it were a streamed one".to_owned(), None),
                    };
                    failures = if started.elapsed() > LONGEST_PAUSE { 1 } else { failures + 1 };
                    self.broke = Some(Instant::now());
                    tracing::debug!(kind = %self.kind, reason, "the watch broke off");
                    // One that lasted is no failure to speak of: servers restart, and connections end.
                    let reason = (failures > 1).then_some(reason);
                    (reason, wish.map_or_else(|| pause(failures), |wish| wish + pause(1)))
                }
            };
            if let Some(reason) = reason {
                let trouble = Problem {
                    place: format!("the API server, {}", self.kind),
                    message: reason,
                    warning: true,
                    kind: Some(self.kind),
                };
                if self.tell(false, Some(trouble)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = self.out.closed() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Goes on from where the watch was, or from the beginning, until something ends it.
    async fn go_on(&mut self, started: Instant) -> Result<(), Broken> {
        if let Some(broke) = self.broke {
            // Before anything is read: it would be taken for what was told.
            let past = self.history.past(broke).await?;
            self.broke = None;
            if std::mem::replace(&mut self.past, past) != past {
                self.version = None;
            }
        }
        match self.version.clone() {
            None if !self.streaming => self.list().await,
            version => self.follow(version.as_deref(), started).await,
        }
    }

    /// What to say of a resource that is not there, and whether that is all there is of the kind.
    fn absent(&self) -> (Option<String>, bool) {
        if self.known.len() > 0 {
            // Objects are deleted one by one before their definition goes. This is something else.
            let reason = format!(
                "is no longer served, and what it had, {} objects, stays in force: apply its CustomResourceDefinition again",
                self.known.len()
            );
            return (Some(reason), false);
        }
        (None, true)
    }

    // ---- the list --------------------------------------------------------------------------------------------------------------

    /// Reads everything that exists, in pages.
    async fn list(&mut self) -> Result<(), Broken> {
        self.known.begin_list();
        let version = self.page_list().await?;
        self.listed(version).await
    }

    /// Ends a list: what it did not have is gone.
    async fn listed(&mut self, version: String) -> Result<(), Broken> {
        for (key, delivered) in self.known.end_list() {
            self.is_sound(&key);
            if let Some(content) = &mut self.content {
                content.remove(&key);
            }
            if delivered {
                self.changes.push(Change::Delete(key));
            }
        }
        self.version = Some(version);
        self.tell(true, None).await
    }

    async fn page_list(&mut self) -> Result<String, Broken> {
        let mut token = None;
        loop {
            let params = ListParams { limit: Some(PAGE), continue_token: token, ..ListParams::default() };
            let page = self.page(&params).await?;
            for object in page.items() {
                self.upsert(object, false);
                if self.changes.len() >= PIECE {
                    self.tell(false, None).await?;
                }
            }
            token = page.metadata.token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(page.metadata.resource_version);
            }
        }
    }

    async fn page(&self, params: &ListParams) -> Result<List, Broken> {
        let request = Request::new(collection(self.kind, self.group, None));
        let request = match self.scope {
            Scope::Whole => request.list(params),
            Scope::Own => request.list(&ListParams { label_selector: Some(self.own()), ..params.clone() }),
            Scope::Metadata => request.list_metadata(params),
        };
        let request = request.map_err(|error| Broken::Failed(error.to_string(), None))?;
        answer(self.client.request(request)).await
    }

    // ---- the watch -------------------------------------------------------------------------------------------------------------

    /// Tells what changes from a version on; without one, all that exists first. Ends well when the server ends the watch in time.
    async fn follow(&mut self, version: Option<&str>, started: Instant) -> Result<(), Broken> {
        let mut listing = version.is_none();
        let seconds = WATCH_SECONDS + (RandomState::new().hash_one(version) % u64::from(WATCH_SECONDS)) as u32;
        let params = WatchParams {
            bookmarks: true,
            timeout: Some(seconds),
            send_initial_events: listing,
            ..WatchParams::default()
        };
        let mut events = self.events(&params, version.unwrap_or_default()).await?;
        self.tell(false, None).await?;
        if listing {
            self.known.begin_list();
        }
        loop {
            let limit = if listing { ANSWER } else { Duration::from_secs(u64::from(seconds) + 30) };
            let Ok(event) = tokio::time::timeout(limit, events.next()).await else {
                return Err(Broken::Failed("the watch hangs".to_owned(), None));
            };
            let Some(event) = event else { break };
            match event.map_err(|error| broken(&error))? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => self.upsert(&object, !listing),
                WatchEvent::Deleted(object) => self.delete(&object, !listing),
                WatchEvent::Bookmark(mark) if listing => {
                    if mark.metadata.annotations.contains_key(END_OF_LIST) {
                        listing = false;
                        self.listed(mark.metadata.resource_version).await?;
                    }
                }
                WatchEvent::Bookmark(mark) => self.version = Some(mark.metadata.resource_version),
                WatchEvent::Error(status) => return Err(refused(&status)),
            }
            if !listing || self.changes.len() >= PIECE {
                self.tell(false, None).await?;
            }
        }
        if listing {
            return Err(Broken::Failed("the list ended early".to_owned(), None));
        }
        // One that ends before its time: the server, or the connection, went.
        if started.elapsed() + Duration::from_secs(2) < Duration::from_secs(u64::from(seconds)) {
            return Err(Broken::Failed("the watch ended early".to_owned(), None));
        }
        Ok(())
    }

    async fn events(
        &self,
        params: &WatchParams,
        version: &str,
    ) -> Result<futures::stream::BoxStream<'static, Result<WatchEvent<Box<RawValue>>, kube::Error>>, Broken> {
        let request = Request::new(collection(self.kind, self.group, None));
        let request = match self.scope {
            Scope::Whole => request.watch(params, version),
            Scope::Own => request.watch(&WatchParams { label_selector: Some(self.own()), ..params.clone() }, version),
            Scope::Metadata => request.watch_metadata(params, version),
        };
        let request = request.map_err(|error| Broken::Failed(error.to_string(), None))?;
        Ok(answer(self.client.request_events::<Box<RawValue>>(request)).await?.boxed())
    }

    /// What selects the own node's objects.
    fn own(&self) -> String {
        format!("{HOSTNAME_HASH_LABEL}={}", hostname_hash(&self.node))
    }

    // ---- objects ---------------------------------------------------------------------------------------------------------------

    /// Takes in an object. In a watch its version is the one to go on from; the objects of a list have older ones.
    fn upsert(&mut self, json: &RawValue, goes_on: bool) {
        if let Some(content) = &mut self.content
            && let Ok(head) = serde_json::from_str::<Head>(json.get())
        {
            content.set(&head.key(self.kind), &head.metadata.uid, head.metadata.generation);
        }
        match wire::read(self.kind, self.group, json.get()) {
            Ok(mut object) => {
                self.history.upserted(object.metadata().resource_version.as_deref(), || object.key());
                if goes_on {
                    self.version.clone_from(&object.metadata().resource_version);
                }
                wire::slim(&mut object, &self.node);
                if !self.unsound.is_empty() {
                    self.is_sound(&object.key());
                }
                if self.known.is_news(&object) {
                    self.changes.push(Change::Upsert(object));
                }
            }
            Err(errors) => {
                let Ok(head) = serde_json::from_str::<Head>(json.get()) else {
                    tracing::warn!(kind = %self.kind, "an object without a name");
                    return;
                };
                let key = head.key(self.kind);
                self.history.upserted(head.metadata.resource_version.as_deref(), || key.clone());
                if goes_on {
                    self.version = head.metadata.resource_version;
                }
                self.known.exists(&key);
                let problem = |error: tortie_api::FieldError| Problem {
                    place: key.to_string(),
                    message: error.to_string(),
                    warning: false,
                    kind: Some(self.kind),
                };
                let problems = errors.into_iter().map(problem).collect();
                self.unsound.insert(key.clone());
                self.problems.push((key, problems));
            }
        }
    }

    /// Takes in that an object is gone. A version in the middle of a list is not one to go on from, here as there.
    fn delete(&mut self, json: &RawValue, goes_on: bool) {
        let Ok(head) = serde_json::from_str::<Head>(json.get()) else { return };
        let key = head.key(self.kind);
        self.history.deleted(head.metadata.resource_version.as_deref(), &key);
        if goes_on {
            self.version = head.metadata.resource_version;
        }
        self.is_sound(&key);
        if let Some(content) = &mut self.content {
            content.remove(&key);
        }
        if self.known.forget(&key) {
            self.changes.push(Change::Delete(key));
        }
    }

    /// Takes back what was said of an object.
    fn is_sound(&mut self, key: &ObjectKey) {
        if self.unsound.remove(key) {
            self.problems.push((key.clone(), Vec::new()));
        }
    }

    /// Hands on what has come together, if there is anything to say.
    async fn tell(&mut self, listed: bool, trouble: Option<Problem>) -> Result<(), Broken> {
        let was_troubled = std::mem::replace(&mut self.troubled, trouble.is_some());
        let content = self.content.as_ref().map(Content::digest);
        let nothing = self.changes.is_empty() && self.problems.is_empty() && content == self.told_content;
        if nothing && !listed && !was_troubled && !self.troubled {
            return Ok(());
        }
        self.told_content = content;
        let version = self.version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default();
        let (changes, problems) = (std::mem::take(&mut self.changes), std::mem::take(&mut self.problems));
        let objects = self.known.len();
        let news = News { kind: self.kind, changes, objects, content, problems, listed, version, trouble };
        self.out.send(news).await.map_err(|_| Broken::Closed)
    }
}

/// Waits for an answer, but not for ever.
pub(super) async fn answer<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Broken> {
    match tokio::time::timeout(ANSWER, request).await {
        Ok(answer) => answer.map_err(|error| broken(&error)),
        Err(_) => Err(Broken::Failed(format!("does not answer within {} s", ANSWER.as_secs()), None)),
    }
}

fn broken(error: &kube::Error) -> Broken {
    match error {
        kube::Error::Api(status) => refused(status),
        other => Broken::Failed(super::text(other), None),
    }
}

/// What the server's refusal means.
fn refused(status: &Status) -> Broken {
    let wish = status.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0);
    match status.code {
        410 => Broken::TooOld,
        404 => Broken::Absent,
        400 | 422 if ["sendInitialEvents", "resourceVersionMatch"].iter().any(|it| status.message.contains(it)) => {
            Broken::NoStreaming
        }
        _ => Broken::Failed(super::refusal(status), wish.map(|seconds| Duration::from_secs(u64::from(seconds)))),
    }
}

/// The pause after so many failures in a row.
fn pause(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => spread((FIRST_PAUSE * 2_u32.pow(doublings.min(10))).min(LONGEST_PAUSE)),
    }
}

/// A time from half to one and a half times of this one, each time another, so that agents do not come together.
pub fn spread(pause: Duration) -> Duration {
    let percent = RandomState::new().hash_one(pause) % 100;
    pause * (50 + percent as u32) / 100
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// What a server answers, one request after the other, and what it was asked. The last answer stays.
    type Script = (Vec<(u16, String)>, Vec<String>);

    /// A watch over namespaces at a server that answers by a script.
    fn watch(answers: &[(u16, Value)]) -> (Watch, mpsc::Receiver<News>, Arc<Mutex<Script>>) {
        let answers = answers.iter().rev().map(|(code, lines)| {
            let lines: Vec<String> = lines.as_array().into_iter().flatten().map(line).collect();
            (*code, lines.join("\n") + "\n")
        });
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new((answers.collect(), Vec::new())));
        let service = {
            let script = Arc::clone(&script);
            tower::service_fn(move |request: http::Request<Body>| {
                let mut script = script.lock().expect("the script");
                script.1.push(request.uri().query().unwrap_or_default().to_owned());
                let answer = if script.0.len() > 1 { script.0.pop() } else { script.0.last().cloned() };
                let (code, body) = answer.expect("an answer");
                let answer = http::Response::builder().status(code).body(Body::from(body.into_bytes()));
                async move { answer }
            })
        };
        let (out, news) = mpsc::channel(64);
        let client = Client::new(service, "default");
        let history = Arc::new(History::new(client.clone(), Group::V3));
        (Watch::new(client, (Kind::Namespace, Scope::Metadata), (Group::V3, "n"), history, out), news, script)
    }

    /// A line of an answer; in an event the type comes first, as servers have it.
    fn line(line: &Value) -> String {
        match (&line["type"], &line["object"]) {
            (Value::Null, _) => line.to_string(),
            (kind, object) => format!(r#"{{"type":{kind},"object":{object}}}"#),
        }
    }

    fn refusal(code: u16, message: &str, seconds: u32) -> (u16, Value) {
        let details = json!({"retryAfterSeconds": seconds});
        (code, json!([{"kind": "Status", "status": "Failure", "code": code, "message": message, "details": details}]))
    }

    fn event(kind: &str, name: &str, version: &str) -> Value {
        json!({"type": kind, "object": {"metadata": {"name": name, "resourceVersion": version}}})
    }

    fn end_of_list(version: &str) -> Value {
        let metadata = json!({"resourceVersion": version, "annotations": {END_OF_LIST: "true"}});
        json!({"type": "BOOKMARK", "object": {"kind": "Namespace", "apiVersion": "v1", "metadata": metadata}})
    }

    /// What is told until everything has been, and how long that took.
    async fn first_list(watch: Watch, news: &mut mpsc::Receiver<News>) -> (Vec<String>, Duration) {
        let started = tokio::time::Instant::now();
        let running = tokio::spawn(watch.run());
        let mut told = Vec::new();
        loop {
            let next = news.recv().await.expect("news");
            told.extend(next.changes.iter().map(|change| match change {
                Change::Upsert(object) => format!("+{}", object.metadata().name),
                Change::Delete(key) => format!("-{}", key.name),
            }));
            if next.listed {
                running.abort();
                return (told, started.elapsed());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_to_be_left_alone_is() {
        let list = json!([event("ADDED", "a", "3"), end_of_list("9")]);
        let (watch, mut news, _) = watch(&[refusal(429, "too many requests", 20), (200, list)]);
        let (told, took) = first_list(watch, &mut news).await;
        assert_eq!(told, ["+a"]);
        assert!(took >= Duration::from_secs(20) && took < Duration::from_secs(22), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_without_streaming_lists_is_asked_for_pages() {
        let page = |names: &[&str], token: &str| {
            let items: Vec<Value> = names.iter().map(|name| json!({"metadata": {"name": name}})).collect();
            (200, json!([{"metadata": {"resourceVersion": "9", "continue": token}, "items": items}]))
        };
        let refused = refusal(422, "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch", 0);
        let (watch, mut news, script) = watch(&[refused, page(&["a"], "more"), page(&["b"], "")]);
        assert_eq!(first_list(watch, &mut news).await.0, ["+a", "+b"]);
        let asked = script.lock().expect("the script").1.clone();
        assert!(asked[0].contains("sendInitialEvents=true") && asked[2].contains("continue=more"), "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_breaks_off_is_made_anew_whatever_it_said() {
        // Not what servers say in a list, and no version to go on from.
        let half = json!([event("ADDED", "a", "3"), event("DELETED", "x", "4")]);
        let whole = json!([event("ADDED", "b", "5"), end_of_list("9")]);
        let now = (200, json!([{"metadata": {"resourceVersion": "12"}, "items": null}]));
        let as_told = (200, json!([{"items": [{"metadata": {"name": "a", "resourceVersion": "3"}}]}]));
        let gone = (200, json!([{"items": []}]));
        let (watch, mut news, script) = watch(&[(200, half), now, as_told, gone, (200, whole)]);
        assert_eq!(first_list(watch, &mut news).await.0, ["+a", "+b", "-a"]);
        let asked = script.lock().expect("the script").1.clone();
        assert!(asked[4].contains("sendInitialEvents=true"), "{asked:?}");
    }

    /// Two changes, and then that what the first list had is gone.
    async fn is_listed_anew(watch: Watch, news: &mut mpsc::Receiver<News>) {
        let running = tokio::spawn(watch.run());
        let mut told = Vec::new();
        while told.len() < 3 {
            told.extend(news.recv().await.expect("news").changes);
        }
        running.abort();
        assert!(matches!(&told[2], Change::Delete(key) if key.name == "a"), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_that_is_too_old_means_a_new_list() {
        let list = |name: &str| (200, json!([event("ADDED", name, "3"), end_of_list("9")]));
        let gone = json!([{"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old", "status": "Failure"}}]);
        let now = (200, json!([{"metadata": {"resourceVersion": "12"}, "items": null}]));
        let as_told = (200, json!([{"items": [{"metadata": {"name": "a", "resourceVersion": "3"}}]}]));
        let (watch, mut news, script) = watch(&[list("a"), now, as_told, (200, gone), list("b")]);
        is_listed_anew(watch, &mut news).await;
        let asked = script.lock().expect("the script").1.clone();
        assert!(asked[2].contains("resourceVersion=3") && asked[2].contains("Exact"), "{asked:?}");
        assert!(asked[3].contains("resourceVersion=9") && asked[4].contains("sendInitialEvents"), "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn another_past_means_a_new_list_however_far_the_server_has_come() {
        let list = |name: &str, version: &str| (200, json!([event("ADDED", name, version), end_of_list("9")]));
        let now = (200, json!([{"metadata": {"resourceVersion": "500"}, "items": null}]));
        for other in [json!([{"items": []}]), json!([{"items": [{"metadata": {"name": "a", "resourceVersion": "2"}}]}])]
        {
            let (watch, mut news, script) = watch(&[list("a", "3"), now.clone(), (200, other), list("b", "7")]);
            is_listed_anew(watch, &mut news).await;
            let asked = script.lock().expect("the script").1.clone();
            assert!(asked[3].contains("sendInitialEvents"), "{asked:?}");
        }
    }

    #[test]
    fn pauses_grow_and_differ() {
        assert_eq!(pause(0), Duration::ZERO);
        let longest = LONGEST_PAUSE + LONGEST_PAUSE / 2;
        assert!((1..40).map(pause).all(|pause| pause >= FIRST_PAUSE / 2 && pause <= longest));
        let some: BTreeSet<Duration> = (0..20).map(|_| spread(LONGEST_PAUSE)).collect();
        assert!(some.len() > 1, "{some:?}");
    }
}
