//! An API server for tests: answers requests by a function, and keeps them.

use std::future::pending;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use imaccess_operator_api::{ImAccessCluster, ImAccessClusterSpec, ImAccessClusterStatus};
use imaccess_operator_plan::observed::ChildId;
use imaccess_operator_plan::plan::{Child, Kind};
use imaccess_operator_plan::{Observed, Plan};
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use prometheus::Registry;
use serde_json::{Value, json};
use tower::BoxError;
use tower::util::BoxCloneService;

use crate::metrics::Metrics;

/// A request as the server got it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn is(&self, method: &Method, end_of_path: &str) -> bool {
        self.method == *method && self.path.ends_with(end_of_path)
    }
}

/// What it answers: a code and an object.
pub(crate) type Answer = (u16, Value);

/// The server; clones are the same.
#[derive(Clone)]
pub(crate) struct Server {
    asked: Arc<Mutex<Vec<Asked>>>,
    answer: Arc<Answerer>,
}

type Answerer = dyn Fn(&Asked) -> Option<Answer> + Send + Sync;

impl Server {
    /// Answers by `answer`; where that has none: lists are empty, nothing else is there, a watch never brings anything, and a
    /// write is answered by what was written, with resource version 100.
    pub(crate) fn new(answer: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static) -> Server {
        Server {
            asked: Arc::default(),
            answer: Arc::new(answer),
        }
    }

    pub(crate) fn service(&self) -> BoxCloneService<Request<Body>, Response<Body>, BoxError> {
        let server = self.clone();
        BoxCloneService::new(tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { server.serve(request).await }
        }))
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.service(), "default")
    }

    async fn serve(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let asked = Asked {
            method: head.method,
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        if asked.query.contains("watch=true") {
            return pending().await;
        }
        self.asked.lock().unwrap().push(asked.clone());
        let (code, object) = (self.answer)(&asked).unwrap_or_else(|| usual(&asked));
        Ok(Response::builder()
            .status(code)
            .body(Body::from(serde_json::to_vec(&object)?))?)
    }

    /// The writes so far.
    pub(crate) fn writes(&self) -> Vec<Asked> {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .filter(|asked| asked.method != Method::GET)
            .cloned()
            .collect()
    }

    /// `METHOD last-part-of-path` of each write.
    pub(crate) fn written(&self) -> Vec<String> {
        self.writes()
            .iter()
            .map(|asked| {
                let name: Vec<&str> = asked.path.rsplit('/').take(2).collect();
                format!("{} {}/{}", asked.method, name[1], name[0])
            })
            .collect()
    }
}

fn usual(asked: &Asked) -> Answer {
    if asked.method != Method::GET {
        let mut object = asked.body.clone();
        object["metadata"]["resourceVersion"] = json!("100");
        return (200, object);
    }
    // …/namespaces/NAMESPACE/PLURAL is a list, one part more an object.
    let parts = asked.path.split('/').count();
    let named = match asked.path.find("/namespaces/") {
        Some(at) => asked.path[at..].split('/').count() > 4,
        None => parts > 5,
    };
    if named {
        failure(404, "NotFound", "it isn't there")
    } else {
        list(&[])
    }
}

/// A list of `items`.
pub(crate) fn list(items: &[Value]) -> Answer {
    (
        200,
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items}),
    )
}

/// A refusal.
pub(crate) fn failure(code: u16, reason: &str, message: &str) -> Answer {
    (
        code,
        json!({
            "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
            "code": code, "reason": reason, "message": message,
        }),
    )
}

/// A cluster `default/NAME`, generation 3, at resource version 7.
pub(crate) fn cluster(name: &str) -> ImAccessCluster {
    let mut cluster = ImAccessCluster::new(name, ImAccessClusterSpec::new("registry.example/imaccess:0.1.0"));
    cluster.metadata.namespace = Some("default".to_owned());
    cluster.metadata.uid = Some(format!("uid-of-{name}"));
    cluster.metadata.generation = Some(3);
    cluster.metadata.resource_version = Some("7".to_owned());
    cluster
}

/// A plan of nothing, which leaves the status as it is.
pub(crate) fn nothing(observed: &Observed, _: Timestamp) -> Plan {
    Plan {
        secrets: vec![],
        apply: vec![],
        pods: vec![],
        steps: vec![],
        leases: vec![],
        delete: vec![],
        status: observed
            .cluster
            .status
            .clone()
            .unwrap_or_else(|| ImAccessClusterStatus {
                observed_generation: observed.cluster.metadata.generation,
                ..ImAccessClusterStatus::default()
            }),
        notices: vec![],
        look_again: None,
    }
}

/// An object to apply.
pub(crate) fn child(kind: Kind, name: &str, version: Option<&str>) -> Child {
    let resource = crate::kinds::resource(kind);
    Child {
        id: ChildId {
            kind,
            name: name.to_owned(),
        },
        object: json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"marker": 1},
        }),
        resource_version: version.map(str::to_owned),
        why: "missing".to_owned(),
        step: None,
    }
}

pub(crate) fn metrics() -> Metrics {
    Metrics::register(&Registry::new())
}
