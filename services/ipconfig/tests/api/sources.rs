//! Lists from the API server, figures from a Prometheus server: both scripted.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use imaccess_ipconfig::{IpconfigConfig, PodListener, PodsConfig, PrometheusConfig};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, Page, Running, figures, gateway, quick, serve, wait_for_metric};

/// An API server with pods of one namespace: a list, and a watch that tells what the test sends.
struct ApiServer {
    kubeconfig: tempfile::NamedTempFile,
    events: broadcast::Sender<String>,
    stop: CancellationToken,
}

impl ApiServer {
    async fn start(pods: Vec<Value>) -> ApiServer {
        let (events, _) = broadcast::channel(64);
        let watched = events.clone();
        let list = json!({ "kind": "PodList", "apiVersion": "v1", "metadata": { "resourceVersion": "5" }, "items": pods });
        let answer = async move |Query(query): Query<Vec<(String, String)>>| {
            let asked = |key: &str, value: &str| query.contains(&(key.to_owned(), value.to_owned()));
            assert!(asked("labelSelector", "app=x"), "{query:?}");
            if asked("watch", "true") {
                let changes = futures_util::stream::unfold(watched.subscribe(), async |mut events| {
                    let event: String = events.recv().await.ok()?;
                    Some((Ok::<_, std::io::Error>(event), events))
                });
                Body::from_stream(changes).into_response()
            } else {
                list.to_string().into_response()
            }
        };
        let router = Router::new().route("/api/v1/namespaces/games/pods", get(answer));
        let (address, stop) = serve(router).await;
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{ "name": "x", "cluster": { "server": format!("http://{address}") } }],
            "users": [{ "name": "x", "user": {} }],
            "contexts": [{ "name": "x", "context": { "cluster": "x", "user": "x", "namespace": "games" } }],
        });
        std::fs::write(kubeconfig.path(), text.to_string()).unwrap();
        ApiServer {
            kubeconfig,
            events,
            stop,
        }
    }

    fn config(&self, metrics_port: u16) -> PodsConfig {
        PodsConfig {
            namespace: None,
            selector: "app=x".to_owned(),
            metrics_port,
            listeners: vec![PodListener {
                protocol: "tcp".to_owned(),
                port: 7_000,
            }],
            annotated_only: false,
            kubeconfig: Some(self.kubeconfig.path().to_owned()),
        }
    }

    /// Tells a change, to a watch that is there or soon will be.
    async fn tell(&self, what: &str, pod: &Value) {
        let begun = Instant::now();
        let event = json!({ "type": what, "object": pod });
        while self.events.send(format!("{event}\n")).is_err() {
            assert!(begun.elapsed() < PATIENCE, "nobody watches");
            tokio::task::yield_now().await;
        }
    }
}

fn pod(name: &str, ip: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "uid": name, "resourceVersion": "9", "annotations": annotations },
        "spec": { "containers": [] },
        "status": { "phase": "Running", "podIP": ip },
    })
}

fn terminating(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    pod
}

/// Asks until the answer names exactly these, in any order.
async fn wait_for_set(running: &Running, expected: &[&str]) {
    let begun = Instant::now();
    loop {
        let (_, answer) = running.ask("/v1/endpoints").await;
        let names = answer["endpoints"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<_> = names
            .iter()
            .filter_map(|endpoint| endpoint["name"].as_str())
            .collect();
        names.sort_unstable();
        if names == expected {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer} didn't become {expected:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_change_of_the_pods_is_acted_upon_at_once() {
    let at_a = r#"[{"protocol": "tcp", "host": "203.0.113.5", "port": 30001}]"#;
    let at_a = json!({ "imaccess.io/endpoints": at_a });
    let none = json!({});
    let server = ApiServer::start(vec![pod("a", "127.0.0.1", &at_a), pod("b", "127.0.0.1", &none)]).await;
    // Nothing can be scraped, and the next round is far away: what happens comes from the watch alone.
    let config = IpconfigConfig {
        pods: Some(server.config(1)),
        scrape_interval: Duration::from_secs(600),
        window: Duration::from_secs(600),
        absence: Duration::from_secs(700),
        ..quick(Vec::new())
    };
    let running = Running::start(config).await;
    wait_for_set(&running, &["a", "b"]).await;
    server
        .tell("MODIFIED", &terminating(pod("b", "127.0.0.1", &none)))
        .await;
    wait_for_set(&running, &["a"]).await;
    let (_, answer) = running.ask("/v1/endpoints").await;
    let endpoint = &answer["endpoints"][0];
    assert_eq!(
        (&endpoint["host"], &endpoint["port"]),
        (&json!("203.0.113.5"), &json!(30_001))
    );
    let broken = json!({ "imaccess.io/endpoints": "{" });
    server.tell("ADDED", &pod("c", "127.0.0.1", &broken)).await;
    wait_for_metric(&running, "imaccess_ipconfig_pods{state=\"malformed\"} 1").await;
    wait_for_metric(&running, "imaccess_ipconfig_pod_annotation_faults_total 1").await;
    server.tell("MODIFIED", &pod("c", "127.0.0.1", &none)).await;
    wait_for_set(&running, &["a", "c"]).await;
    server.tell("DELETED", &pod("a", "127.0.0.1", &at_a)).await;
    wait_for_set(&running, &["c"]).await;
    running.end().await;
}

#[tokio::test]
async fn while_the_api_server_is_away_the_last_list_stands() {
    let first = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = first.local_addr().unwrap().port();
    let second = TcpListener::bind(("127.0.0.3", port)).await.unwrap();
    let (a, b) = (Page::of(0, 1e9), Page::of(0, 2e9));
    a.serve_at(first);
    b.serve_at(second);
    let none = json!({});
    let server = ApiServer::start(vec![pod("a", "127.0.0.2", &none), pod("b", "127.0.0.3", &none)]).await;
    let config = IpconfigConfig {
        pods: Some(server.config(port)),
        ..quick(Vec::new())
    };
    let running = Running::start(config).await;
    running.wait_for(&["b", "a"]).await;
    wait_for_metric(&running, "imaccess_ipconfig_pods{state=\"listed\"} 2").await;
    server.stop.cancel();
    drop(server.events);
    wait_for_metric(&running, "imaccess_ipconfig_pod_watch_faults_total 2").await;
    let (_, page) = running.page("/metrics").await;
    assert!(
        !page.contains("imaccess_ipconfig_pod_watch_down_seconds 0\n"),
        "{page}"
    );
    assert_eq!(running.names("/v1/endpoints").await, ["b", "a"]);
    // Scores are followed all the same.
    a.say(figures(0, 3e9));
    running.wait_for(&["a", "b"]).await;
    running.end().await;
}

#[tokio::test]
async fn the_scores_page_says_how_each_gateway_stands() {
    let (a, b) = (Page::of(900, 1e9), Page::of(100, 1e9));
    let ((a_at, _), (b_at, _)) = (a.serve().await, b.serve().await);
    let unseen = gateway("c", "127.0.0.1:1".parse().unwrap());
    let gateways = vec![gateway("a", a_at), gateway("b", b_at), unseen];
    let running = Running::start(quick(gateways)).await;
    running.wait_for(&["b", "a"]).await;
    b.say(figures(100, 1e9).replace("draining 0", "draining 1"));
    running.wait_for(&["a"]).await;
    let scores = running.scores().await;
    assert_eq!(
        (&scores["cluster"], &scores["source"], &scores["scraper_ill"]),
        (&json!("test"), &json!("scrape"), &json!(false))
    );
    assert!(scores["version"].is_u64());
    let a = &scores["gateways"][0];
    let remaining = a["static"].as_i64().unwrap();
    assert!((99_990_000..=100_000_000).contains(&remaining), "{remaining}");
    let endpoints = json!([{ "protocol": "tcp", "host": "127.0.0.1", "port": 7_000 }]);
    let expected = json!({
        "name": "a", "state": "listed", "endpoints": endpoints, "dynamic": 1.0, "static": remaining,
        "connections": 900e6, "connection_limit": 1e9, "rate": 0.0, "bandwidth": 1e9,
    });
    assert_eq!(*a, expected);
    assert_eq!(scores["gateways"][1]["state"], "draining");
    let unseen = json!({ "name": "c", "state": "unseen", "endpoints": endpoints });
    assert_eq!(scores["gateways"][2], unseen);
    wait_for_metric(
        &running,
        "imaccess_ipconfig_score{gateway=\"a\",kind=\"dynamic\"} 1",
    )
    .await;
    let (_, page) = running.page("/metrics").await;
    assert!(!page.contains("gateway=\"c\""), "{page}");
    running.end().await;
}

#[tokio::test]
async fn a_gateway_that_goes_takes_its_scores_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("targets.json");
    let ((a_at, _), (b_at, _)) = (Page::of(0, 2e9).serve().await, Page::of(0, 1e9).serve().await);
    let write = |gateways: &[_]| std::fs::write(&path, json!({ "gateways": gateways }).to_string()).unwrap();
    write(&[gateway("a", a_at), gateway("b", b_at)]);
    let config = IpconfigConfig {
        targets_file: Some(path.clone()),
        ..quick(Vec::new())
    };
    let running = Running::start(config).await;
    wait_for_metric(&running, "imaccess_ipconfig_score{gateway=\"a\",kind=\"static\"}").await;
    write(&[gateway("b", b_at)]);
    wait_for_metric(&running, "imaccess_ipconfig_gateways{state=\"listed\"} 1").await;
    let (_, page) = running.page("/metrics").await;
    assert!(!page.contains("gateway=\"a\""), "{page}");
    running.end().await;
}

/// What a scripted Prometheus server answers.
#[derive(Clone)]
enum Says {
    /// These pods' free bandwidth in GB/s, of 10.
    Free(Vec<(&'static str, f64)>),
    /// It can't answer.
    Nothing,
}

fn prometheus_answer(says: &Says) -> Response {
    let Says::Free(pods) = says else {
        return (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable").into_response();
    };
    let mut samples = Vec::new();
    for (pod, free) in pods {
        let figures = [
            ("age", 0.1),
            ("rate", 10e9 - free * 1e9),
            ("connections", 0.0),
            ("connection_limit", 1e9),
            ("bandwidth", 10e9),
        ];
        for (figure, value) in figures {
            let metric = json!({ "gw": pod, "imaccess_figure": figure });
            samples.push(json!({ "metric": metric, "value": [1.0, value.to_string()] }));
        }
    }
    json!({ "status": "success", "data": { "resultType": "vector", "result": samples } })
        .to_string()
        .into_response()
}

#[tokio::test]
async fn a_prometheus_server_is_asked_instead_of_the_gateways() {
    let says = Arc::new(Mutex::new(Says::Free(vec![("a", 1.0), ("b", 2.0), ("c", 3.0)])));
    let say = |pods: &[(&'static str, f64)]| *says.lock().unwrap() = Says::Free(pods.to_vec());
    let asked = Arc::new(Mutex::new(String::new()));
    let (answered, recorded) = (Arc::clone(&says), Arc::clone(&asked));
    let answer = async move |headers: HeaderMap, uri: Uri| {
        let token = headers
            .get("authorization")
            .map_or("", |value| value.to_str().unwrap());
        *recorded.lock().unwrap() = format!("{token} {uri}");
        let says = answered.lock().unwrap().clone();
        prometheus_answer(&says)
    };
    let (address, stop) = serve(Router::new().route("/prefix/api/v1/query", get(answer))).await;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "secret\n").unwrap();
    let prometheus = PrometheusConfig {
        url: format!("http://{address}/prefix"),
        interval: Duration::from_millis(50),
        timeout: Duration::from_secs(1),
        scrape_interval: Duration::from_millis(20),
        pod_label: "gw".to_owned(),
        matchers: [("namespace".to_owned(), "games".to_owned())].into(),
        token_file: Some(token.path().to_owned()),
    };
    // Their pages are nowhere.
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let config = IpconfigConfig {
        prometheus: Some(prometheus),
        ..quick(["a", "b", "c"].map(|name| gateway(name, nowhere)).to_vec())
    };
    let running = Running::start(config).await;
    running.wait_for(&["c", "b", "a"]).await;
    assert_eq!(running.scores().await["source"], "prometheus");
    wait_for_metric(&running, "imaccess_ipconfig_source_info{source=\"prometheus\"} 1").await;
    let question = asked.lock().unwrap().clone();
    assert!(
        question.starts_with("Bearer secret /prefix/api/v1/query?query=label_replace"),
        "{question}"
    );
    assert!(question.contains("namespace%3D%22games%22"), "{question}");
    say(&[("a", 1.0), ("b", 4.0), ("c", 3.0)]);
    running.wait_for(&["b", "c", "a"]).await;
    // Once the server has had its time to find all, who isn't in its answers is absent, and leaves.
    say(&[("a", 1.0), ("b", 4.0)]);
    running.wait_for(&["b", "a"]).await;
    wait_for_metric(&running, "imaccess_ipconfig_gateways{state=\"left\"} 1").await;
    // It can't answer, then it is gone: the last picture stays.
    *says.lock().unwrap() = Says::Nothing;
    wait_for_metric(
        &running,
        "imaccess_ipconfig_source_faults_total{reason=\"status\"}",
    )
    .await;
    wait_for_metric(&running, "imaccess_ipconfig_scraper_ill 1").await;
    stop.cancel();
    wait_for_metric(
        &running,
        "imaccess_ipconfig_source_faults_total{reason=\"unreachable\"} 30",
    )
    .await;
    assert_eq!(running.names("/v1/endpoints").await, ["b", "a"]);
    running.end().await;
}
