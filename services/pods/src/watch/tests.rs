use std::collections::VecDeque;

use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tower_test::mock::{self, Handle, SendResponse};

use super::*;

/// Longest wait for a state; far above what any takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// In a hurry.
const QUICK: Times = Times {
    answer: PATIENCE,
    first_pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(4),
};

/// The API server, scripted: the test answers each request.
struct Server {
    handle: Handle<Request<Body>, Response<Body>>,
}

/// A request that waits for its answer.
struct Asked {
    uri: String,
    answer: SendResponse<Response<Body>>,
}

impl Server {
    fn start() -> (Server, PodWatch) {
        Server::start_with(QUICK)
    }

    fn start_with(times: Times) -> (Server, PodWatch) {
        let (service, handle) = mock::pair();
        let client = Client::new(service, "default");
        let watch = PodWatch::start_with(client, Some("games"), "app=x,part in (y)", times);
        (Server { handle }, watch)
    }

    async fn asked(&mut self) -> Asked {
        let request = tokio::time::timeout(PATIENCE, self.handle.next_request()).await;
        let (request, answer) = request.expect("it asks").unwrap();
        assert_eq!(request.uri().path(), "/api/v1/namespaces/games/pods");
        Asked {
            uri: request.uri().to_string(),
            answer,
        }
    }

    /// The next request is a list; answers it with these pods.
    async fn list(&mut self, version: u32, pods: &[Value]) -> String {
        let asked = self.asked().await;
        assert!(!asked.uri.contains("watch=true"), "{}", asked.uri);
        let uri = asked.uri.clone();
        asked.json(&json!({
            "kind": "PodList", "apiVersion": "v1", "metadata": { "resourceVersion": version.to_string() },
            "items": pods,
        }));
        uri
    }

    /// The next request is a watch from `version`; tells these events and ends it.
    async fn watch(&mut self, version: u32, events: &[Value]) {
        let asked = self.asked().await;
        assert!(asked.uri.contains("watch=true"), "{}", asked.uri);
        assert!(
            asked.uri.contains(&format!("resourceVersion={version}")),
            "{}",
            asked.uri
        );
        let lines: VecDeque<String> = events.iter().map(|event| format!("{event}\n")).collect();
        asked.text(lines.into_iter().collect());
    }
}

impl Asked {
    fn json(self, body: &Value) {
        self.text(body.to_string());
    }

    fn text(self, body: String) {
        self.answer
            .send_response(Response::new(Body::from(body.into_bytes())));
    }

    fn refuse(self, status: StatusCode) {
        let body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "no", "reason": "Because", "code": status.as_u16(),
        });
        let answer = Response::builder()
            .status(status)
            .body(Body::from(body.to_string().into_bytes()));
        self.answer.send_response(answer.unwrap());
    }
}

fn pod(name: &str, version: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "uid": format!("uid-{name}"), "resourceVersion": version.to_string() },
        "spec": { "containers": [] },
        "status": { "phase": "Running", "podIP": "10.0.0.1" },
    })
}

fn event(what: &str, object: &Value) -> Value {
    json!({ "type": what, "object": object })
}

fn bookmark(version: u32) -> Value {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "resourceVersion": version.to_string() },
        "spec": { "containers": [] },
    });
    event("BOOKMARK", &object)
}

/// The names in the next snapshot.
async fn next(pods: &mut PodWatch) -> String {
    tokio::time::timeout(PATIENCE, pods.changed())
        .await
        .expect("a snapshot comes");
    shown(pods)
}

fn shown(pods: &mut PodWatch) -> String {
    match pods.latest() {
        Some(pods) => pods
            .iter()
            .map(|pod| pod.name.as_str())
            .collect::<Vec<_>>()
            .join(" "),
        None => "nothing".to_owned(),
    }
}

#[tokio::test]
async fn it_lists_and_then_follows_the_changes() {
    let (mut server, mut pods) = Server::start();
    assert_eq!(pods.latest(), None);
    let uri = server.list(7, &[pod("b", 1), pod("a", 2)]).await;
    assert!(uri.contains("labelSelector=app%3Dx%2Cpart+in+%28y%29"), "{uri}");
    assert!(uri.contains("limit=500"), "{uri}");
    assert_eq!(next(&mut pods).await, "a b");
    server
        .watch(7, &[event("ADDED", &pod("c", 8)), bookmark(20)])
        .await;
    assert_eq!(next(&mut pods).await, "a b c");
    // It continues from the bookmark.
    server
        .watch(
            20,
            &[event("MODIFIED", &pod("b", 21)), event("DELETED", &pod("a", 22))],
        )
        .await;
    assert_eq!(next(&mut pods).await, "b c");
    let idle = server.asked().await;
    assert!(idle.uri.contains("resourceVersion=22") && idle.uri.contains("timeoutSeconds=60"));
    assert_eq!((pods.health().faults(), pods.health().lists()), (0, 1));
}

#[tokio::test]
async fn a_list_in_pages_is_published_whole() {
    let (mut server, mut pods) = Server::start();
    let first = server.asked().await;
    first.json(&json!({
        "kind": "PodList", "apiVersion": "v1", "metadata": { "resourceVersion": "5", "continue": "more" },
        "items": [pod("a", 1)],
    }));
    let second = server.asked().await;
    assert!(second.uri.contains("continue=more"), "{}", second.uri);
    assert_eq!(shown(&mut pods), "nothing");
    second.json(&json!({
        "kind": "PodList", "apiVersion": "v1", "metadata": { "resourceVersion": "5" }, "items": [pod("b", 1)],
    }));
    assert_eq!(next(&mut pods).await, "a b");
}

#[tokio::test]
async fn a_watch_that_is_too_far_behind_lists_anew() {
    let (mut server, mut pods) = Server::start();
    server.list(7, &[pod("a", 1)]).await;
    assert_eq!(next(&mut pods).await, "a");
    let gone = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version", "reason": "Expired", "code": 410 });
    server.watch(7, &[event("ERROR", &gone)]).await;
    server.list(50, &[pod("b", 40)]).await;
    assert_eq!(next(&mut pods).await, "b");
    assert_eq!((pods.health().faults(), pods.health().lists()), (0, 2));
}

#[tokio::test]
async fn while_the_server_is_away_the_last_list_stands() {
    let (mut server, mut pods) = Server::start();
    // It may not list at first: nothing is known, and it asks again.
    server.asked().await.refuse(StatusCode::FORBIDDEN);
    server.asked().await.refuse(StatusCode::FORBIDDEN);
    assert_eq!(shown(&mut pods), "nothing");
    assert!(pods.health().down_for().is_some());
    server.list(7, &[pod("a", 1)]).await;
    assert_eq!(next(&mut pods).await, "a");
    assert_eq!(pods.health().down_for(), None);

    for _ in 0..50 {
        server.asked().await.answer.send_error("connection refused");
        assert_eq!(shown(&mut pods), "a");
    }
    // An answer without any news is a recovery, too.
    let back = server.asked().await;
    assert!(back.uri.contains("resourceVersion=7"), "{}", back.uri);
    assert!(pods.health().down_for().is_some());
    back.text(String::new());
    let held = server.asked().await;
    assert_eq!(pods.health().down_for(), None);
    held.text(format!("{}\n", event("ADDED", &pod("b", 9))));
    assert_eq!(next(&mut pods).await, "a b");
}

#[tokio::test]
async fn a_request_without_an_answer_is_given_up() {
    let times = Times {
        answer: Duration::from_millis(20),
        ..QUICK
    };
    let (mut server, mut pods) = Server::start_with(times);
    let hung = server.asked().await;
    server.list(7, &[]).await;
    assert_eq!(next(&mut pods).await, "");
    assert!(pods.health().faults() >= 1);
    drop(hung);
}

#[tokio::test]
async fn garbage_changes_nothing() {
    let (mut server, mut pods) = Server::start();
    server.asked().await.text("<html>".to_owned());
    server.list(7, &[pod("a", 1)]).await;
    assert_eq!(next(&mut pods).await, "a");
    server
        .watch(7, &[json!({ "type": "ADDED", "object": 5 }), json!("x")])
        .await;
    let _next = server.asked().await;
    assert_eq!(shown(&mut pods), "a");
    assert!(pods.health().faults() >= 1);
}

#[tokio::test]
async fn dropping_it_ends_it() {
    let (mut server, pods) = Server::start();
    let _hung = server.asked().await;
    drop(pods);
    let nobody = tokio::time::timeout(PATIENCE, server.handle.next_request()).await;
    assert!(matches!(nobody, Ok(None)), "the client is gone with its watch");
}

#[test]
fn pauses_double_up_to_their_bound_and_begin_anew_after_a_calm() {
    let mut pauses = Pauses {
        times: TIMES,
        last: None,
    };
    let mut now = Instant::now();
    let mut seen = Vec::new();
    for _ in 0..8 {
        let pause = pauses.after(now);
        now += pause;
        // A failing list begins with a good event each time.
        pauses.reset();
        seen.push(pause.as_millis());
    }
    assert_eq!(seen, [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000]);
    assert_eq!(pauses.after(now + Duration::from_secs(61)).as_millis(), 500);
    let jittered = pauses.next().unwrap();
    assert!(jittered >= Duration::from_millis(375), "{jittered:?}");
}
