//! Reads what is shown: custom resources, their pods, and through the API server the pods' own pages.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use imaccess_common::gateway_page::GatewayPage;
use imaccess_operator_api::condition;
use imaccess_operator_api::names::{ENDPOINTS_ANNOTATION, Names, Part, SLOT_LABEL, port};
use imaccess_operator_api::status::PartStatus;
use imaccess_operator_api::{ImAccessCluster, ImAccessClusterStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde::Deserialize;

use super::in_place;
use super::troubles::{is_ready, restarts_of, state_of, trouble_of};
use super::view::{ClusterView, Figures, PartView, PodView, Score};

/// How long one pod's page may take: a pod that is stuck must not hold up the rest.
const PAGE: Duration = Duration::from_secs(3);

/// ipconfig's page of scores; more fields are skipped.
#[derive(Deserialize)]
struct Scores {
    gateways: Vec<GatewayScore>,
}

#[derive(Deserialize)]
struct GatewayScore {
    name: String,
    /// Not there before the first reading.
    dynamic: Option<f64>,
    #[serde(rename = "static")]
    fixed: Option<f64>,
    state: String,
}

#[derive(Deserialize)]
struct Endpoint {
    protocol: String,
    host: String,
    port: u16,
}

/// Every cluster asked for: one by name, or all of a namespace or of all namespaces.
pub(crate) async fn clusters(
    client: &Client,
    namespace: Option<&str>,
    name: Option<&str>,
) -> kube::Result<Vec<ClusterView>> {
    let api: Api<ImAccessCluster> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let found = match name {
        Some(name) => vec![api.get(name).await?],
        None => api.list(&ListParams::default()).await?.items,
    };
    let mut views = Vec::with_capacity(found.len());
    for cluster in &found {
        views.push(view(client, cluster).await);
    }
    Ok(views)
}

async fn view(client: &Client, cluster: &ImAccessCluster) -> ClusterView {
    let namespace = cluster.namespace().unwrap_or_default();
    let names = Names::new(&cluster.name_any(), &namespace);
    let mut view = from_status(cluster, &names);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    for (part, shown) in Part::ALL.into_iter().rev().zip(&mut view.parts) {
        match pods
            .list(&ListParams::default().labels(&names.selector_text(part)))
            .await
        {
            Ok(list) => {
                view.troubles.extend(list.items.iter().filter_map(trouble_of));
                shown.pods = list.items.iter().map(pod_view).collect();
            }
            Err(error) => view
                .unknown
                .push(format!("pods of {}: {}", part.as_str(), reason(&error))),
        }
    }
    figures(client, &namespace, &mut view).await;
    scores(client, &namespace, &pods, &names, &mut view).await;
    view
}

/// What the custom resource itself says.
fn from_status(cluster: &ImAccessCluster, names: &Names) -> ClusterView {
    let status = cluster.status.clone().unwrap_or_default();
    let current = status.observed_generation == cluster.metadata.generation;
    let condition_of = |kind: &str| status.conditions.iter().find(|condition| condition.type_ == kind);
    let ready = condition_of(condition::READY);
    let (mut reason, mut message) = match ready {
        Some(condition) => (condition.reason.clone(), condition.message.clone()),
        None => (
            "Pending".to_owned(),
            "no operator has looked at it yet; is one installed, and does it watch this namespace?"
                .to_owned(),
        ),
    };
    if ready.is_some() && !current {
        reason = "Pending".to_owned();
        message =
            "the operator hasn't looked at the last change yet; is it running? kubectl get pods -A -l app.kubernetes.io/name=imaccess-operator"
                .to_owned();
    }
    let is_true = |kind: &&str| condition_of(kind).is_some_and(|condition| condition.status == "True");
    let told = |kind: &str| condition_of(kind).map(|condition| format!("{kind}: {}", condition.message));
    let troubles = [condition::STALLED, condition::DEGRADED];
    let remarks = [
        condition::PAUSED,
        condition::DEVELOPMENT_TOKENS,
        condition::PRIVILEGED_PORTS,
        condition::RECONCILING,
    ];
    ClusterView {
        namespace: names.namespace.clone(),
        name: names.cluster.clone(),
        ready: current && ready.is_some_and(|condition| condition.status == "True"),
        reason,
        message,
        parts: parts(cluster, &status),
        upgrade: status.upgrade.as_ref().map(in_place::upgrade),
        troubles: troubles
            .iter()
            .filter(|kind| is_true(kind))
            .filter_map(|kind| told(kind))
            .collect(),
        remarks: remarks
            .iter()
            .filter(|kind| is_true(kind))
            .filter_map(|kind| told(kind))
            .collect(),
        unknown: Vec::new(),
    }
}

/// Gateway, ipconfig, state: what clients see first.
fn parts(cluster: &ImAccessCluster, status: &ImAccessClusterStatus) -> Vec<PartView> {
    let spec = &cluster.spec;
    let part = |part: Part, wanted: i32, status: &PartStatus| PartView {
        name: part.as_str().to_owned(),
        wanted,
        ready: status.ready,
        updated: status.updated,
        image: status.image.clone(),
        pods: Vec::new(),
    };
    vec![
        part(Part::Gateway, spec.gateway.replicas, &status.gateway),
        part(Part::Ipconfig, spec.ipconfig.replicas, &status.ipconfig),
        part(Part::State, spec.state.replicas, &status.state),
    ]
}

fn pod_view(pod: &Pod) -> PodView {
    let annotation = pod.annotations().get(ENDPOINTS_ANNOTATION);
    let endpoints: Vec<Endpoint> = annotation
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    PodView {
        name: pod.name_any(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        ip: pod.status.as_ref().and_then(|status| status.pod_ip.clone()),
        state: state_of(pod),
        restarts: restarts_of(pod),
        slot: pod.labels().get(SLOT_LABEL).cloned(),
        endpoints: endpoints
            .iter()
            .map(|end| format!("{}://{}:{}", end.protocol, end.host, end.port))
            .collect(),
        figures: None,
        score: None,
        in_place: in_place::pod(pod),
    }
}

/// Connections, from each gateway's own page.
async fn figures(client: &Client, namespace: &str, view: &mut ClusterView) {
    let Some(gateways) = view.parts.first_mut() else {
        return;
    };
    let pages = gateways.pods.iter().map(|pod| async {
        match pod.ip {
            Some(_) => Some(page(client, namespace, &pod.name, port::GATEWAY_PAGES, "metrics").await),
            None => None,
        }
    });
    let mut faults: BTreeMap<String, usize> = BTreeMap::new();
    for (page, pod) in join_all(pages).await.into_iter().zip(&mut gateways.pods) {
        let parsed = match page {
            Some(Ok(text)) => GatewayPage::parse(&text).map_err(|error| error.to_string()),
            Some(Err(fault)) => Err(fault),
            None => continue,
        };
        match parsed {
            Ok(page) => {
                pod.figures = Some(Figures {
                    connections: page.connections,
                    connection_limit: page.connection_limit,
                });
            }
            Err(fault) => *faults.entry(fault).or_default() += 1,
        }
    }
    for (fault, pods) in faults {
        view.unknown
            .push(format!("connections of {pods} gateway(s): {fault}"));
    }
}

/// Scores, from one ipconfig that answers.
async fn scores(client: &Client, namespace: &str, pods: &Api<Pod>, names: &Names, view: &mut ClusterView) {
    let selector = names.selector_text(Part::Ipconfig);
    // Whoever may not list pods has been told so.
    let Ok(ipconfigs) = pods.list(&ListParams::default().labels(&selector)).await else {
        return;
    };
    let mut fault = "no ipconfig pod is ready".to_owned();
    for pod in ipconfigs.items.iter().filter(|pod| is_ready(pod)) {
        let text = page(
            client,
            namespace,
            &pod.name_any(),
            port::IPCONFIG_PAGES,
            "v1/scores",
        )
        .await;
        let read =
            text.and_then(|text| serde_json::from_str::<Scores>(&text).map_err(|error| error.to_string()));
        match read {
            Ok(scores) => return enter(scores, view),
            Err(error) => fault = error,
        }
    }
    if view
        .parts
        .first()
        .is_some_and(|gateways| !gateways.pods.is_empty())
    {
        view.unknown.push(format!("scores: {fault}"));
    }
}

fn enter(scores: Scores, view: &mut ClusterView) {
    let mut by_name: BTreeMap<String, GatewayScore> = scores
        .gateways
        .into_iter()
        .map(|score| (score.name.clone(), score))
        .collect();
    for pod in view.parts.iter_mut().flat_map(|part| &mut part.pods) {
        if let Some(score) = by_name.remove(&pod.name) {
            pod.score = Some(Score {
                dynamic: score.dynamic.unwrap_or(0.0),
                fixed: score.fixed.unwrap_or(0.0),
                state: score.state,
            });
        }
    }
}

/// A page of a pod, by the API server.
async fn page(client: &Client, namespace: &str, pod: &str, port: i32, path: &str) -> Result<String, String> {
    let uri = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/{path}");
    let request = http::Request::get(uri)
        .body(Vec::new())
        .map_err(|error| error.to_string())?;
    match tokio::time::timeout(PAGE, client.request_text(request)).await {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(error)) => Err(reason(&error)),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// Why the API server didn't answer, in a clause.
fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.is_forbidden() => {
            "you may not read that (it needs get on pods/proxy, or list on pods)".to_owned()
        }
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use imaccess_operator_api::ImAccessClusterSpec;

    use super::*;

    fn cluster(generation: i64, observed: i64, conditions: serde_json::Value) -> ImAccessCluster {
        let mut cluster = ImAccessCluster::new("demo", ImAccessClusterSpec::new("imaccess:1"));
        cluster.metadata.generation = Some(generation);
        cluster.status = Some(ImAccessClusterStatus {
            observed_generation: Some(observed),
            conditions: serde_json::from_value(conditions).unwrap(),
            ..ImAccessClusterStatus::default()
        });
        cluster
    }

    fn condition(kind: &str, status: &str, message: &str) -> serde_json::Value {
        serde_json::json!({
            "type": kind, "status": status, "reason": "Because", "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    }

    #[test]
    fn ready_counts_only_for_the_present_generation() {
        let names = Names::new("demo", "chat");
        let ready = serde_json::json!([condition("Ready", "True", "")]);
        assert!(from_status(&cluster(2, 2, ready.clone()), &names).ready);
        let behind = from_status(&cluster(3, 2, ready), &names);
        assert!(
            !behind.ready && behind.message.contains("last change"),
            "{behind:?}"
        );
        let fresh = ImAccessCluster::new("demo", ImAccessClusterSpec::new("imaccess:1"));
        let unseen = from_status(&fresh, &names);
        assert!(
            !unseen.ready && unseen.message.contains("no operator"),
            "{unseen:?}"
        );
    }

    #[test]
    fn conditions_that_hold_are_told_under_their_heading() {
        let names = Names::new("demo", "chat");
        let conditions = serde_json::json!([
            condition("Ready", "False", "x"),
            condition("Stalled", "True", "correct spec.image"),
            condition("DevelopmentTokens", "True", "anyone gets a token"),
            condition("Paused", "False", "not told"),
        ]);
        let view = from_status(&cluster(1, 1, conditions), &names);
        assert_eq!(view.troubles, ["Stalled: correct spec.image"]);
        assert_eq!(view.remarks, ["DevelopmentTokens: anyone gets a token"]);
        assert_eq!(
            view.parts
                .iter()
                .map(|part| part.name.as_str())
                .collect::<Vec<_>>(),
            ["gateway", "ipconfig", "state"]
        );
    }
}
