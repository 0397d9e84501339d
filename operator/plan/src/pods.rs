//! Pod templates, each a function of its inputs alone: what a template depends on is what says when pods are replaced.

mod ending;
pub(crate) mod gateway;
pub(crate) mod ipconfig;
mod probe;
mod scheduling;
pub(crate) mod security;
pub(crate) mod state;
mod volume;

use std::collections::BTreeMap;

use imaccess_operator_api::cluster::{ImagePullPolicy, SecretName};
use imaccess_operator_api::names::{Names, Part, RESTART_ANNOTATION};
use imaccess_operator_api::options::Resources;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::access::has_token;
use crate::canonical::{hash, unless_empty, without_nulls};
use crate::cluster::Cluster;
use crate::configuration::pages;
use crate::rendered::{self, Rendering, Renderings};
use crate::upgrade::Upgrade;

/// The container port of a part's pages.
pub(crate) const PAGES_PORT: &str = "pages";
/// The container port of a sidecar's pages.
pub(crate) const SIDECAR_PAGES_PORT: &str = "sidecar-pages";

/// Image and pull options of a pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Images<'a> {
    image: &'a str,
    pull_policy: ImagePullPolicy,
    #[serde(skip_serializing_if = "is_empty")]
    pull_secrets: &'a [SecretName],
}

fn is_empty(list: &[SecretName]) -> bool {
    list.is_empty()
}

impl<'a> Images<'a> {
    fn of(cluster: &Cluster<'a>, part: Part) -> Self {
        Self {
            image: cluster.image(part),
            pull_policy: cluster.spec.image_pull_policy,
            pull_secrets: &cluster.spec.image_pull_secrets,
        }
    }
}

/// Where the sidecars' token keys come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenKeys {
    /// The Secret.
    pub(crate) secret: String,
    /// Of the operator's own Secret, which has a private key, too: the key id of the public one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) development_key: Option<String>,
}

/// The templates and start configurations of all parts, kept or rendered, and what is to be done about the gateways' images.
pub(crate) fn renderings(
    cluster: &Cluster<'_>,
    tickets: &str,
    tokens: &TokenKeys,
    now: Timestamp,
) -> (Renderings, Upgrade) {
    let gateway = gateway::Inputs::of(cluster, tickets, tokens);
    let state = state::Inputs::of(cluster);
    let ipconfig = ipconfig::Inputs::of(cluster, tokens);
    let inputs = |part: Part| match part {
        Part::Gateway => json!(gateway),
        Part::State => json!(state),
        Part::Ipconfig => json!(ipconfig),
    };
    let render = |part: Part| {
        let configuration = match part {
            Part::Gateway => gateway.configuration(),
            Part::State => state.configuration(),
            Part::Ipconfig => ipconfig.configuration(),
        };
        let pod = match part {
            Part::Gateway => gateway.pod(),
            Part::State => state.pod(),
            Part::Ipconfig => ipconfig.pod(),
        };
        let template = template(&cluster.names, part, &configuration, pod);
        Rendering::new(inputs(part), (template, configuration))
    };
    let of_gateways = inputs(Part::Gateway);
    let kept_gateway = rendered::kept(cluster, Part::Gateway);
    let upgrade = Upgrade::decide(cluster, now, kept_gateway, &of_gateways, || render(Part::Gateway));
    let renderings = Renderings::new(|part| {
        if part == Part::Gateway {
            return upgrade.rendering.clone();
        }
        let kept = rendered::kept(cluster, part).filter(|kept| {
            // An upgrade that stops stops everywhere: other parts don't get an image that gateways couldn't.
            let waits = upgrade.holds_images && main_image(kept) != cluster.image(part);
            waits || kept.inputs == hash(&inputs(part))
        });
        kept.unwrap_or_else(|| render(part))
    });
    (renderings, upgrade)
}

/// The image of the one container of a part that isn't the gateways.
fn main_image(rendering: &Rendering) -> &str {
    let image = &rendering.template["spec"]["containers"][0]["image"];
    image.as_str().unwrap_or_default()
}

fn template(names: &Names, part: Part, configuration: &Value, mut pod: Value) -> Value {
    pod["serviceAccountName"] = names.part(part).into();
    pod["automountServiceAccountToken"] = has_token(part).into();
    // Services' addresses in the environment are of no use here, and their names might be taken for configuration.
    pod["enableServiceLinks"] = false.into();
    without_nulls(json!({
        "metadata": {
            "labels": names.part_labels(part),
            "annotations": {
                RESTART_ANNOTATION: hash(configuration),
                "prometheus.io/scrape": "true",
                "prometheus.io/port": pages(part).to_string(),
                "prometheus.io/path": "/metrics",
            },
        },
        "spec": pod,
    }))
}

/// A container with what all of them have.
fn container(name: &str, images: &Images<'_>, args: &[&str], resources: &Resources, more: Value) -> Value {
    let quantities = |quantities: &BTreeMap<String, _>| unless_empty(json!(quantities));
    let mut container = json!({
        "name": name,
        "image": images.image,
        "imagePullPolicy": images.pull_policy.as_str(),
        "args": args,
        "securityContext": security::container(),
        "resources": unless_empty(without_nulls(json!({
            "requests": quantities(&resources.requests),
            "limits": quantities(&resources.limits),
        }))),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    if let (Value::Object(container), Value::Object(more)) = (&mut container, more) {
        container.extend(more);
    }
    container
}

fn container_port(name: &str, port: i32) -> Value {
    json!({"name": name, "containerPort": port, "protocol": "TCP"})
}

fn pull_secrets(images: &Images<'_>) -> Value {
    unless_empty(json!(images.pull_secrets))
}
