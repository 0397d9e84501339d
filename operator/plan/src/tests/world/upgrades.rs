//! What an upgrade in place meets: pods whose containers are replaced when their image changes, gateways that say how they took
//! over, pods that try images. What an image does follows from its name: `missing`, `exits`, `strange` (no common generation),
//! `silent` (never ready), `crashes` (when it runs as a part).

use std::collections::BTreeMap;

use imaccess_common::compat::Compat;
use imaccess_common::generation::{Generations, Span};
use imaccess_common::handover::{Handover, Takeover};
use imaccess_operator_api::names::{Part, REPLACED_ANNOTATION};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::World;
use crate::gateways_to_ask;
use crate::plan::{Kind, PodRef, Step};
use crate::upgrade::step::StepName;

impl World {
    /// What the gateways say that are asked.
    pub(super) fn pages(&self) -> BTreeMap<String, Result<Handover, String>> {
        let asks = gateways_to_ask(&self.observed);
        asks.into_iter()
            .map(|ask| (ask.uid.clone(), self.page(&ask.uid)))
            .collect()
    }

    fn page(&self, uid: &str) -> Result<Handover, String> {
        let pod = self
            .observed
            .pods
            .iter()
            .find(|pod| pod.metadata.uid.as_deref() == Some(uid));
        let pod = serde_json::to_value(pod.unwrap()).unwrap();
        let (gateway, state) = (
            &pod["status"]["containerStatuses"][0],
            &pod["status"]["initContainerStatuses"][0],
        );
        if gateway["ready"] != json!(true) {
            return Err("not reachable".to_owned());
        }
        let restarts = u32::try_from(gateway["restartCount"].as_u64().unwrap()).unwrap();
        let links = if state["ready"] == json!(true) { 2 } else { 0 };
        Ok(Handover {
            custody: true,
            complete: links == 2,
            links,
            shards: 2,
            connections: self.connections,
            held: self.connections + 2,
            lease: false,
            faults: self.faults,
            incarnation: restarts + 1,
            takeover: Takeover {
                kind: if restarts == 0 { "none" } else { "planned" }.to_owned(),
                adopted: self.connections,
                ..Takeover::default()
            },
        })
    }

    /// The kubelets: each container of a gateway pod that doesn't run its image is replaced.
    pub(super) fn run_containers(&mut self) {
        let pods: Vec<Pod> = self.observed.pods.drain(..).collect();
        for pod in pods {
            let mut pod = serde_json::to_value(pod).unwrap();
            if pod["metadata"]["labels"]["app.kubernetes.io/component"] == json!(Part::Gateway.as_str()) {
                for (list, statuses, name) in [
                    ("initContainers", "initContainerStatuses", "state"),
                    ("containers", "containerStatuses", "gateway"),
                ] {
                    let image = pod["spec"][list][0]["image"].as_str().unwrap().to_owned();
                    let before = pod["status"][statuses][0].clone();
                    if before["image"] == json!(image) {
                        continue;
                    }
                    let restarts = before["restartCount"].as_i64().map_or(0, |restarts| restarts + 1);
                    let serial = self.next();
                    pod["status"][statuses] = json!([container(name, &image, restarts, &serial)]);
                    pod["metadata"]["resourceVersion"] = json!(serial);
                }
                let ready = |statuses: &str| pod["status"][statuses][0]["ready"] == json!(true);
                let both = ready("containerStatuses") && ready("initContainerStatuses");
                pod["status"]["conditions"] = json!([{
                    "type": "Ready", "status": if both { "True" } else { "False" },
                    "lastTransitionTime": "2026-11-25T12:00:00Z",
                }]);
            }
            self.observed.pods.push(serde_json::from_value(pod).unwrap());
        }
    }

    /// Carries out one step.
    pub(in super::super) fn step(&mut self, step: &Step) {
        match step {
            Step::Preflight { pod } => self.preflight(pod.clone()),
            Step::Replace {
                pod,
                patch,
                name,
                lease,
            } => {
                let live = self.observed.pods.iter();
                let live = live.filter(|live| live.metadata.uid.as_ref() == Some(&pod.uid));
                let works = live.flat_map(|live| {
                    live.status
                        .iter()
                        .flat_map(|status| status.container_statuses.iter().flatten())
                });
                if *name == StepName::ReplaceGateway && works.into_iter().all(|gateway| gateway.ready) {
                    assert!(
                        lease.is_some(),
                        "a gateway that works isn't replaced without its lease"
                    );
                }
                self.patch_pod(pod, patch);
            }
            Step::Release { pod, patch } => self.patch_pod(pod, patch),
            Step::Pause { deployment, patch } | Step::Resume { deployment, patch } => {
                let version = self.next();
                let live = self.child(Kind::Deployment, &deployment.name);
                assert_eq!(
                    live["metadata"]["resourceVersion"],
                    json!(deployment.resource_version)
                );
                merge(live, patch);
                live["metadata"]["resourceVersion"] = json!(version);
                let generation = live["metadata"]["generation"].as_i64().unwrap();
                live["metadata"]["generation"] = json!(generation + 1);
            }
            Step::ReplicaSet { replica_set, patch } => {
                let version = self.next();
                let mut sets = self.observed.replica_sets.iter_mut();
                let live = sets
                    .find(|set| set["metadata"]["name"] == json!(replica_set.name))
                    .unwrap();
                assert_eq!(
                    live["metadata"]["resourceVersion"],
                    json!(replica_set.resource_version)
                );
                merge(live, patch);
                live["metadata"]["resourceVersion"] = json!(version);
            }
            Step::Clear { pod } => self
                .observed
                .pods
                .retain(|one| one.metadata.uid.as_ref() != Some(&pod.uid)),
        }
    }

    fn preflight(&mut self, mut pod: Value) {
        let serial = self.next();
        pod["metadata"]["uid"] = json!(format!("trial-{serial}"));
        pod["metadata"]["resourceVersion"] = json!(serial);
        let containers = pod["spec"]["containers"].as_array().unwrap();
        let mut statuses: Vec<Value> = containers.iter().map(trial).collect();
        for status in &mut statuses {
            if let Some(ended) = status["state"].get_mut("terminated") {
                ended["finishedAt"] = json!(self.now);
            }
        }
        pod["status"] = json!({"phase": "Succeeded", "containerStatuses": statuses});
        self.observed.pods.push(serde_json::from_value(pod).unwrap());
    }

    fn patch_pod(&mut self, reference: &PodRef, patch: &Value) {
        let version = self.next();
        let mut pods = self.observed.pods.iter_mut();
        let pod = pods
            .find(|pod| pod.metadata.uid.as_ref() == Some(&reference.uid))
            .unwrap();
        if pod.metadata.resource_version.as_ref() != Some(&reference.resource_version) {
            // A conflict: its labels or annotations were written before, in the same pass.
            return;
        }
        let mut value = serde_json::to_value(&*pod).unwrap();
        merge(&mut value, patch);
        value["metadata"]["resourceVersion"] = json!(version);
        *pod = serde_json::from_value(value).unwrap();
    }

    /// UIDs of the gateway pods, sorted.
    pub(in super::super) fn gateway_uids(&mut self) -> Vec<String> {
        let mut uids: Vec<String> = self
            .gateways()
            .into_iter()
            .map(|pod| pod.metadata.uid.clone().unwrap())
            .collect();
        uids.sort();
        uids
    }

    /// Of each gateway pod, its two images.
    pub(in super::super) fn gateway_images(&mut self) -> Vec<(String, String)> {
        let images = |pod: &mut Pod| {
            let spec = pod.spec.as_ref().unwrap();
            let sidecar = spec.init_containers.as_ref().unwrap()[0].image.clone().unwrap();
            (spec.containers[0].image.clone().unwrap(), sidecar)
        };
        self.gateways().into_iter().map(images).collect()
    }

    /// What the pods say of the last replacement.
    pub(in super::super) fn replaced(&mut self) -> Vec<Value> {
        let said = |pod: &mut Pod| {
            let annotations = pod.metadata.annotations.as_ref().unwrap();
            serde_json::from_str(annotations.get(REPLACED_ANNOTATION)?).ok()
        };
        self.gateways().into_iter().filter_map(said).collect()
    }
}

fn container(name: &str, image: &str, restarts: i64, serial: &str) -> Value {
    let base = json!({"name": name, "image": image, "imageID": "", "restartCount": restarts});
    let with = |more: Value| {
        let mut status = base.clone();
        merge(&mut status, &more);
        status
    };
    let id = json!(format!("containerd://{serial}"));
    if image.contains("missing") {
        let waiting = json!({"reason": "ErrImagePull", "message": "not found"});
        return with(json!({"ready": false, "state": {"waiting": waiting}}));
    }
    if image.contains("crashes") {
        let ended = json!({"exitCode": 1, "message": "no such thing"});
        return with(json!({"ready": false, "containerID": id, "state": {"terminated": ended}}));
    }
    let ready = !image.contains("silent");
    with(json!({"ready": ready, "containerID": id, "state": {"running": {}}}))
}

fn trial(container: &Value) -> Value {
    let image = container["image"].as_str().unwrap();
    let span = Span::new(1, 2);
    let link = if image.contains("strange") {
        Span::new(8, 9)
    } else {
        span
    };
    let compat = Compat {
        version: "1".to_owned(),
        speaks: Generations {
            link,
            custody: span,
            volume: span,
            lease: span,
            ticket: span,
        },
    };
    let state = match image {
        image if image.contains("missing") => json!({"waiting": {"reason": "ImagePullBackOff"}}),
        image if image.contains("exits") => {
            json!({"terminated": {"exitCode": 1, "message": "no such command"}})
        }
        _ => json!({"terminated": {"exitCode": 0, "message": serde_json::to_string(&compat).unwrap()}}),
    };
    json!({
        "name": container["name"], "image": image, "imageID": "", "ready": false, "restartCount": 0, "state": state,
    })
}

/// As the API server's merges do, lists of containers by name.
fn merge(object: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            if !object.is_object() {
                *object = json!({});
            }
            for (name, value) in fields {
                if value.is_null() {
                    object.as_object_mut().unwrap().remove(name);
                } else {
                    merge(&mut object[name], value);
                }
            }
        }
        Value::Array(items) if object.is_array() => {
            for item in items {
                let list = object.as_array_mut().unwrap();
                let known = list
                    .iter_mut()
                    .find(|known| known["name"] == item["name"])
                    .unwrap();
                merge(known, item);
            }
        }
        other => *object = other.clone(),
    }
}
