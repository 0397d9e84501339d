//! What Deployment and ReplicaSet controllers, scheduler and kubelet do, all at once.

use imaccess_operator_api::names::{DELETION_COST_ANNOTATION, Part};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::World;
use crate::observed::ChildId;
use crate::plan::Kind;

/// Kubernetes' own, on Deployments and ReplicaSets.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";

impl World {
    /// Until nothing changes any more.
    pub(in super::super) fn run_pods(&mut self) {
        for part in Part::ALL {
            let id = ChildId {
                kind: Kind::Deployment,
                name: format!("demo-{}", part.as_str()),
            };
            let Some(mut deployment) = self.observed.children.remove(&id) else {
                continue;
            };
            let set = self.replica_set(part, &mut deployment);
            let wanted = usize::try_from(deployment["spec"]["replicas"].as_i64().unwrap()).unwrap();
            self.scale(part, &set, wanted, &id.name);
            deployment["status"] = json!({
                "observedGeneration": deployment["metadata"]["generation"],
                "replicas": wanted, "updatedReplicas": wanted, "readyReplicas": wanted, "availableReplicas": wanted,
            });
            self.observed.children.insert(id, deployment);
        }
        self.run_containers();
    }

    /// The one that the Deployment's pods are of: the oldest whose template equals its; a paused Deployment keeps the one it has.
    fn replica_set(&mut self, part: Part, deployment: &mut Value) -> Value {
        let owner = deployment["metadata"]["uid"].clone();
        let owned = |set: &Value| set["metadata"]["ownerReferences"][0]["uid"] == owner;
        let template = without_nulls(&deployment["spec"]["template"]);
        let same = |set: &&Value| owned(set) && without_nulls(&set["spec"]["template"]) == template;
        let current = |set: &&Value| {
            let revision = &deployment["metadata"]["annotations"][REVISION];
            owned(set) && revision.is_string() && set["metadata"]["annotations"][REVISION] == *revision
        };
        let sets = &self.observed.replica_sets;
        let found = if deployment["spec"]["paused"] == json!(true) {
            sets.iter().find(current).cloned()
        } else {
            sets.iter().find(same).cloned()
        };
        let mut set = found.unwrap_or_else(|| {
            let serial = self.next();
            json!({
                "metadata": {
                    "name": format!("demo-{}-{serial}", part.as_str()), "uid": format!("set-{serial}"),
                    "resourceVersion": serial, "ownerReferences": [{"uid": owner}],
                },
                "spec": {"template": template},
            })
        });
        if !current(&&set) {
            let serial = self.next();
            set["metadata"]["annotations"][REVISION] = json!(serial);
            deployment["metadata"]["annotations"][REVISION] = json!(serial);
        }
        self.observed
            .replica_sets
            .retain(|other| other["metadata"]["uid"] != set["metadata"]["uid"]);
        self.observed.replica_sets.push(set.clone());
        for other in &mut self.observed.replica_sets {
            if other["metadata"]["ownerReferences"][0]["uid"] == owner {
                let mine = other["metadata"]["uid"] == set["metadata"]["uid"];
                let wanted = if mine {
                    deployment["spec"]["replicas"].clone()
                } else {
                    json!(0)
                };
                other["spec"]["replicas"] = wanted.clone();
                other["status"] = json!({"replicas": wanted});
            }
        }
        set
    }

    fn scale(&mut self, part: Part, set: &Value, wanted: usize, name: &str) {
        let component =
            |pod: &Pod| pod.metadata.labels.as_ref().unwrap()["app.kubernetes.io/component"] == part.as_str();
        let (mut pods, rest): (Vec<Pod>, Vec<Pod>) = self.observed.pods.drain(..).partition(component);
        self.observed.pods = rest;
        let uid = set["metadata"]["uid"].as_str().unwrap();
        pods.retain(|pod| pod.metadata.owner_references.as_ref().unwrap()[0].uid == uid);
        let cost = |pod: &Pod| -> i64 {
            let annotations = pod.metadata.annotations.as_ref().unwrap();
            annotations
                .get(DELETION_COST_ANNOTATION)
                .map_or(0, |cost| cost.parse().unwrap())
        };
        while pods.len() > wanted {
            let least = pods
                .iter()
                .enumerate()
                .min_by_key(|(_, pod)| cost(pod))
                .unwrap()
                .0;
            pods.remove(least);
        }
        while pods.len() < wanted {
            let serial = self.next();
            let mut pod: Value = set["spec"]["template"].clone();
            pod["metadata"]["name"] = json!(format!("{name}-{serial}"));
            pod["metadata"]["uid"] = json!(format!("pod-{serial}"));
            pod["metadata"]["resourceVersion"] = json!(serial);
            pod["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": uid}]);
            pod["metadata"]["creationTimestamp"] = json!(format!("2026-11-25T12:{:02}:00Z", self.count % 60));
            pod["spec"]["nodeName"] = json!(format!("node-{}", pods.len() % 2));
            pod["status"] =
                json!({"phase": "Running", "hostIP": "192.0.2.1", "podIP": format!("192.0.2.{serial}")});
            pods.push(serde_json::from_value(pod).unwrap());
        }
        self.observed.pods.extend(pods);
    }
}

fn without_nulls(template: &Value) -> Value {
    crate::canonical::without_nulls(template.clone())
}
