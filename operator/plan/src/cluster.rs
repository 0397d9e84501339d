//! One cluster as the modules here look at it: what was observed, with the questions that several of them ask.

use std::collections::BTreeMap;

use imaccess_operator_api::cluster::ImAccessClusterSpec;
use imaccess_operator_api::names::{APPLIED_ANNOTATION, Names, Part};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::canonical::{hash, unless_empty, without_nulls};
use crate::observed::{ChildId, Observed, SecretFacts};
use crate::plan::Kind;

/// A cluster that is looked at.
#[derive(Debug)]
pub(crate) struct Cluster<'a> {
    /// All that is known.
    pub(crate) observed: &'a Observed,
    /// What the user wants.
    pub(crate) spec: &'a ImAccessClusterSpec,
    /// Names that follow from its own.
    pub(crate) names: Names,
    /// The custom resource's UID.
    pub(crate) uid: &'a str,
}

/// An object as it should be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Desired {
    /// Which.
    pub(crate) id: ChildId,
    /// All fields that the operator owns, the annotation with their hash among them.
    pub(crate) object: Value,
}

/// Who has a name that the operator needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// This cluster, or nobody in particular: it is taken over.
    Ours,
    /// A cluster of the same name that was deleted: the garbage collector is on its way.
    Former,
    /// Somebody else.
    Foreign,
}

impl<'a> Cluster<'a> {
    pub(crate) fn of(observed: &'a Observed) -> Self {
        let metadata = &observed.cluster.metadata;
        let text = |value: &'a Option<String>| value.as_deref().unwrap_or_default();
        Self {
            observed,
            spec: &observed.cluster.spec,
            names: Names::new(text(&metadata.name), text(&metadata.namespace)),
            uid: text(&metadata.uid),
        }
    }

    /// The image of a part's main container.
    pub(crate) fn image(&self, part: Part) -> &'a str {
        let own = match part {
            Part::Gateway => &self.spec.gateway.image,
            Part::State => &self.spec.state.image,
            Part::Ipconfig => &self.spec.ipconfig.image,
        };
        own.as_deref().unwrap_or(&self.spec.image)
    }

    /// How many pods a part should have.
    pub(crate) fn replicas(&self, part: Part) -> i32 {
        match part {
            Part::Gateway => self.spec.gateway.replicas,
            Part::State => self.spec.state.replicas,
            Part::Ipconfig => self.spec.ipconfig.replicas,
        }
    }

    /// An object of the cluster, with what all of them have. Fields that are null aren't said.
    pub(crate) fn object(
        &self,
        kind: Kind,
        name: String,
        labels: &BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
        fields: Value,
    ) -> Desired {
        let mut object = fields;
        object["apiVersion"] = kind.api_version().into();
        object["kind"] = kind.as_str().into();
        object["metadata"] = json!({
            "name": name,
            "namespace": self.names.namespace,
            "labels": labels,
            "annotations": unless_empty(json!(annotations)),
            "ownerReferences": [self.owner()],
        });
        let mut object = without_nulls(object);
        let applied = hash(&object);
        object["metadata"]["annotations"][APPLIED_ANNOTATION] = applied.into();
        let id = ChildId { kind, name };
        Desired { id, object }
    }

    /// What makes the garbage collector remove an object with the custom resource.
    pub(crate) fn owner(&self) -> Value {
        json!({
            "apiVersion": "imaccess.io/v1alpha1",
            "kind": "ImAccessCluster",
            "name": self.names.cluster,
            "uid": self.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        })
    }

    /// An object of one part without annotations of its own.
    pub(crate) fn part_object(&self, kind: Kind, name: String, part: Part, fields: Value) -> Desired {
        let labels = self.names.part_labels(part);
        self.object(kind, name, &labels, &BTreeMap::new(), fields)
    }

    /// A child as the API server has it.
    pub(crate) fn live(&self, kind: Kind, name: &str) -> Option<&'a Value> {
        let name = name.to_owned();
        self.observed.children.get(&ChildId { kind, name })
    }

    /// A part's Deployment as the API server has it.
    pub(crate) fn deployment(&self, part: Part) -> Option<Deployment> {
        let live = self.live(Kind::Deployment, &self.names.part(part))?;
        serde_json::from_value(live.clone()).ok()
    }

    /// What is known of a Secret.
    pub(crate) fn secret(&self, name: &str) -> Option<&'a SecretFacts> {
        self.observed.secrets.get(name)
    }

    /// Who an object belongs to.
    pub(crate) fn holder(&self, live: &Value) -> Holder {
        let owners = live["metadata"]["ownerReferences"].as_array();
        let controller = owners
            .into_iter()
            .flatten()
            .find(|owner| owner["controller"] == json!(true));
        match controller {
            None => Holder::Ours,
            Some(owner) if owner["uid"] == json!(self.uid) => Holder::Ours,
            Some(owner)
                if owner["kind"] == json!("ImAccessCluster")
                    && owner["name"] == json!(self.names.cluster) =>
            {
                Holder::Former
            }
            Some(_) => Holder::Foreign,
        }
    }

    /// A part's pods that haven't ended, terminating ones among them, oldest first.
    pub(crate) fn pods(&self, part: Part) -> Vec<&'a Pod> {
        let selector = self.names.selector(part);
        let belongs = |pod: &Pod| {
            let labels = pod.metadata.labels.as_ref();
            let has =
                |(key, value): (&String, &String)| labels.and_then(|labels| labels.get(key)) == Some(value);
            selector.iter().all(has)
        };
        let ended = |pod: &Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            matches!(phase, Some("Succeeded" | "Failed"))
        };
        let mut pods: Vec<&Pod> = self
            .observed
            .pods
            .iter()
            .filter(|pod| belongs(pod) && !ended(pod))
            .collect();
        pods.sort_by_key(|pod| {
            let metadata = &pod.metadata;
            (metadata.creation_timestamp.clone(), metadata.uid.clone())
        });
        pods
    }
}

/// Whether a pod was told to end.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// A pod's annotation.
pub(crate) fn annotation<'p>(pod: &'p Pod, key: &str) -> Option<&'p str> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(key).map(String::as_str)
}
