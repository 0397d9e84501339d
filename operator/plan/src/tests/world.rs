//! A model of a cluster: an API server that takes plans, and the controllers that make pods of Deployments.

use std::collections::BTreeMap;

use imaccess_operator_api::ImAccessCluster;
use imaccess_operator_api::names::*;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::observed::{Capabilities, ChildId, Observed, SecretFacts};
use crate::plan;
mod machinery;
mod upgrades;

use crate::plan::{AuthorityStep, Child, Kind, Plan, PodPatch, SecretStep};

/// How long the certificates of the model are good, in days.
const CERTIFICATE_DAYS: i64 = 90;
const AUTHORITY_DAYS: i64 = 900;

pub(super) struct World {
    pub(super) observed: Observed,
    pub(super) now: Timestamp,
    /// Everything that was ever applied, in order.
    pub(super) applied: Vec<Child>,
    /// Of every gateway.
    pub(super) connections: u64,
    /// Closed for faults by every gateway.
    pub(super) faults: u64,
    count: u64,
}

/// The least that a user writes.
pub(super) const MINIMAL: &str = "
apiVersion: imaccess.io/v1alpha1
kind: ImAccessCluster
metadata: {name: demo, namespace: chat}
spec: {image: 'registry.example/imaccess:1'}
";

impl World {
    /// With a custom resource, as YAML.
    pub(super) fn new(yaml: &str) -> World {
        let mut cluster: ImAccessCluster = serde_yaml::from_str(yaml).unwrap();
        cluster.metadata.uid = Some("cluster-uid".to_owned());
        cluster.metadata.generation = Some(1);
        World {
            observed: Observed {
                cluster,
                children: BTreeMap::new(),
                pods: Vec::new(),
                replica_sets: Vec::new(),
                gateways: BTreeMap::new(),
                secrets: BTreeMap::new(),
                capabilities: Capabilities { pod_monitors: true },
                operator_version: "0.1.0".to_owned(),
            },
            now: "2026-11-25T12:00:00.5Z".parse().unwrap(),
            applied: Vec::new(),
            connections: 1_000,
            faults: 0,
            count: 0,
        }
    }

    /// One that serves.
    pub(super) fn settled(yaml: &str) -> World {
        let mut world = World::new(yaml);
        world.settle();
        world
    }

    /// Asks gateways first, as the controller does.
    pub(super) fn plan(&self) -> Plan {
        let mut observed = self.observed.clone();
        observed.gateways = self.pages();
        plan(&observed, self.now)
    }

    /// Plans, carries out and lets pods come, until nothing is left to do; how many rounds had writes.
    pub(super) fn settle(&mut self) -> usize {
        for round in 0..40 {
            let plan = self.plan();
            let idle = is_idle(&plan);
            self.carry_out(&plan);
            self.run_pods();
            if idle && is_idle(&self.plan()) {
                assert_eq!(self.plan().status, self.observed.cluster.status.clone().unwrap());
                return round;
            }
        }
        panic!("it never settles: {:#?}", self.plan());
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut imaccess_operator_api::ImAccessClusterSpec)) {
        change(&mut self.observed.cluster.spec);
        *self.observed.cluster.metadata.generation.get_or_insert(0) += 1;
    }

    pub(super) fn advance(&mut self, duration: SignedDuration) {
        self.now = self.now.checked_add(duration).unwrap();
    }

    fn next(&mut self) -> String {
        self.count += 1;
        self.count.to_string()
    }

    pub(super) fn carry_out(&mut self, plan: &Plan) {
        for step in &plan.secrets {
            self.secret(step);
        }
        for child in &plan.apply {
            self.apply(child);
        }
        for patch in &plan.pods {
            self.patch(patch);
        }
        for step in &plan.steps {
            self.step(step);
        }
        for deletion in &plan.delete {
            let live = self.observed.children.remove(&deletion.id).unwrap();
            assert_eq!(live["metadata"]["uid"], json!(deletion.uid));
            assert_eq!(
                live["metadata"]["resourceVersion"],
                json!(deletion.resource_version)
            );
            if deletion.id.kind == Kind::Secret {
                self.observed.secrets.remove(&deletion.id.name);
            }
        }
        self.observed.cluster.status = Some(plan.status.clone());
    }

    fn secret(&mut self, step: &SecretStep) {
        let names = Names::new("demo", "chat");
        let name = match step {
            SecretStep::Authority(_) => names.authority(),
            SecretStep::Certificate { identity, .. } => names.certificate(*identity),
            SecretStep::TicketKeys => names.tickets(),
            SecretStep::DevelopmentTokens => names.development_tokens(),
        };
        let serial = self.next();
        let now = self.now;
        let mut facts = self.observed.secrets.remove(&name).unwrap_or_default();
        facts.ours = true;
        facts.hash.clone_from(&serial);
        let set = |facts: &mut SecretFacts, key: &str, value: String| {
            facts.annotations.insert(key.to_owned(), value);
        };
        let valid = |facts: &mut SecretFacts, days: i64| {
            let until = now.checked_add(SignedDuration::from_hours(24 * days)).unwrap();
            facts
                .annotations
                .insert(NOT_BEFORE_ANNOTATION.to_owned(), now.to_string());
            facts
                .annotations
                .insert(NOT_AFTER_ANNOTATION.to_owned(), until.to_string());
        };
        let keys: &[&str] = match step {
            SecretStep::Authority(step) => {
                match step {
                    AuthorityStep::Make => {
                        facts.annotations.clear();
                        set(
                            &mut facts,
                            AUTHORITY_CURRENT_ANNOTATION,
                            format!("authority-{serial}"),
                        );
                        valid(&mut facts, AUTHORITY_DAYS);
                    }
                    AuthorityStep::AddNext => {
                        set(
                            &mut facts,
                            AUTHORITY_NEXT_ANNOTATION,
                            format!("authority-{serial}"),
                        );
                    }
                    AuthorityStep::Switch => {
                        let next = facts.annotations.remove(AUTHORITY_NEXT_ANNOTATION).unwrap();
                        let current = facts.annotations[AUTHORITY_CURRENT_ANNOTATION].clone();
                        set(&mut facts, AUTHORITY_PREVIOUS_ANNOTATION, current);
                        set(&mut facts, AUTHORITY_CURRENT_ANNOTATION, next);
                        valid(&mut facts, AUTHORITY_DAYS);
                    }
                    AuthorityStep::Forget => {
                        facts.annotations.remove(AUTHORITY_PREVIOUS_ANNOTATION).unwrap();
                    }
                }
                set(&mut facts, AUTHORITY_SINCE_ANNOTATION, now.to_string());
                let bundle = format!("certificates {serial}\n");
                set(&mut facts, AUTHORITY_BUNDLE_ANNOTATION, bundle);
                &["ca.crt", "ca.key"]
            }
            SecretStep::Certificate { issued_for, .. } => {
                set(&mut facts, ISSUED_FOR_ANNOTATION, issued_for.clone());
                valid(&mut facts, CERTIFICATE_DAYS);
                &["ca.crt", "tls.crt", "tls.key"]
            }
            SecretStep::TicketKeys => &["tickets"],
            SecretStep::DevelopmentTokens => &["key-1.pem", "signing.pem"],
        };
        facts.keys = keys.iter().map(|key| (*key).to_owned()).collect();
        facts.as_made = true;
        self.observed.secrets.insert(name.clone(), facts);
        let object = json!({"metadata": {
            "name": name,
            "uid": format!("uid-{serial}"),
            "resourceVersion": serial,
            "ownerReferences": [{"kind": "ImAccessCluster", "name": "demo", "uid": "cluster-uid", "controller": true}],
        }});
        let kind = Kind::Secret;
        self.observed.children.insert(ChildId { kind, name }, object);
    }

    /// As server-side apply would: what is desired, and what others have set beside it.
    fn apply(&mut self, child: &Child) {
        assert_ne!(child.id.kind, Kind::Secret);
        assert_eq!(child.object["kind"], json!(child.id.kind.as_str()));
        assert_eq!(child.object["apiVersion"], json!(child.id.kind.api_version()));
        assert_eq!(child.object["metadata"]["name"], json!(child.id.name));
        let version = self.next();
        let old = self.observed.children.get(&child.id);
        let old_version = old.map(|old| old["metadata"]["resourceVersion"].as_str().unwrap().to_owned());
        assert_eq!(old_version, child.resource_version, "planned from what there is");
        let mut new = child.object.clone();
        let uid = old.map_or_else(
            || json!(format!("uid-{version}")),
            |old| old["metadata"]["uid"].clone(),
        );
        new["metadata"]["uid"] = uid;
        new["metadata"]["resourceVersion"] = json!(version);
        if let Some(old) = old {
            new["status"] = old["status"].clone();
            let restarted =
                &old["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"];
            if restarted.is_string() {
                new["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] =
                    restarted.clone();
            }
        }
        match child.id.kind {
            Kind::Deployment => {
                if let Some(old) = old {
                    // Set by others: the controller, and the steps of an upgrade.
                    new["spec"]["paused"] = old["spec"]["paused"].clone();
                    for key in [machinery::REVISION, SETTLING_ANNOTATION] {
                        let value = &old["metadata"]["annotations"][key];
                        if value.is_string() {
                            new["metadata"]["annotations"][key] = value.clone();
                        }
                    }
                }
                let generation = old
                    .and_then(|old| old["metadata"]["generation"].as_i64())
                    .unwrap_or(0);
                new["metadata"]["generation"] = json!(generation + 1);
                new["spec"]["template"]["spec"]["dnsPolicy"] = json!("ClusterFirst");
            }
            Kind::Service if new["spec"]["type"] != json!("ClusterIP") => {
                let slot: i64 = child
                    .id
                    .name
                    .rsplit('-')
                    .next()
                    .and_then(|slot| slot.parse().ok())
                    .unwrap_or(99);
                for (index, port) in new["spec"]["ports"]
                    .as_array_mut()
                    .unwrap()
                    .iter_mut()
                    .enumerate()
                {
                    if !port["nodePort"].is_null() {
                        continue;
                    }
                    port["nodePort"] = json!(30_000 + 10 * slot + i64::try_from(index).unwrap());
                }
                if new["spec"]["type"] == json!("LoadBalancer") {
                    new["status"] =
                        json!({"loadBalancer": {"ingress": [{"ip": format!("203.0.113.{slot}")}]}});
                }
            }
            _ => {}
        }
        self.observed.children.insert(child.id.clone(), new);
        self.applied.push(child.clone());
    }

    fn patch(&mut self, patch: &PodPatch) {
        let version = self.next();
        let mut pods = self.observed.pods.iter_mut();
        let pod = pods
            .find(|pod| pod.metadata.uid.as_ref() == Some(&patch.uid))
            .unwrap();
        assert_eq!(
            pod.metadata.resource_version.as_ref(),
            Some(&patch.resource_version)
        );
        pod.metadata.resource_version = Some(version);
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.remove(SLOT_LABEL);
        labels.extend(patch.labels.clone());
        let annotations = pod.metadata.annotations.get_or_insert_default();
        for key in [
            ENDPOINTS_ANNOTATION,
            CONFIGURATION_ANNOTATION,
            DELETION_COST_ANNOTATION,
        ] {
            annotations.remove(key);
        }
        annotations.extend(patch.annotations.clone());
    }

    pub(super) fn child(&mut self, kind: Kind, name: &str) -> &mut Value {
        let name = name.to_owned();
        self.observed.children.get_mut(&ChildId { kind, name }).unwrap()
    }

    pub(super) fn has(&self, kind: Kind, name: &str) -> bool {
        let name = name.to_owned();
        self.observed.children.contains_key(&ChildId { kind, name })
    }

    pub(super) fn gateways(&mut self) -> Vec<&mut Pod> {
        let is_gateway = |pod: &&mut Pod| {
            pod.metadata.labels.as_ref().unwrap()["app.kubernetes.io/component"] == "gateway"
        };
        self.observed.pods.iter_mut().filter(is_gateway).collect()
    }

    /// A Secret that the user made.
    pub(super) fn users_secret(&mut self, name: &str, keys: &[&str]) {
        let facts = SecretFacts {
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            hash: "users".to_owned(),
            ..SecretFacts::default()
        };
        self.observed.secrets.insert(name.to_owned(), facts);
    }
}

/// Whether a plan writes nothing but the status.
pub(super) fn is_idle(plan: &Plan) -> bool {
    let nothing_to_do = plan.secrets.is_empty() && plan.apply.is_empty() && plan.pods.is_empty();
    nothing_to_do && plan.steps.is_empty() && plan.delete.is_empty()
}

/// Slots of pods, as labelled.
pub(super) fn slots(world: &mut World) -> Vec<Option<String>> {
    let label = |pod: &mut Pod| pod.metadata.labels.as_ref().unwrap().get(SLOT_LABEL).cloned();
    world.gateways().into_iter().map(label).collect()
}
