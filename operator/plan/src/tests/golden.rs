//! Custom resources in, all their children out, as files that people read in a review. `IMACCESS_BLESS=1` writes them anew.
//!
//! The inputs' hashes in the ConfigMap `…-rendered` are part of them: a change of the code that changes one restarts every cluster
//! when its operator is upgraded (see `rendered`).

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::world::World;
use crate::canonical::{sorted, yaml};
use crate::plan::Kind;

pub(super) const NAMES: [&str; 3] = ["minimal", "production", "host-port"];

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// The world of a golden custom resource, all done.
pub(super) fn world(name: &str) -> World {
    let mut world = World::new(&fs::read_to_string(file(&format!("{name}.yaml"))).unwrap());
    world.users_secret("issuers", &["2026.pem"]);
    world.users_secret("tickets", &["tickets"]);
    world.settle();
    world
}

#[test]
fn children_are_rendered_as_reviewed() {
    let mut stale = Vec::new();
    for name in NAMES {
        let world = world(name);
        let mut last = BTreeMap::new();
        for child in &world.applied {
            last.insert(child.id.clone(), yaml(&child.object));
        }
        let documents: Vec<String> = last.into_values().collect();
        let rendered = documents.join("---\n");
        let path = file(&format!("{name}.children.yaml"));
        if std::env::var_os("IMACCESS_BLESS").is_some() {
            fs::write(&path, &rendered).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != rendered {
            stale.push(path);
        }
    }
    assert!(
        stale.is_empty(),
        "{stale:?} aren't what is rendered: look at the difference with IMACCESS_BLESS=1 and git diff"
    );
}

/// A field that Kubernetes doesn't know would be refused by a server that checks, and be lost by one that doesn't.
#[test]
fn kubernetes_knows_every_field() {
    fn check<T: Serialize + DeserializeOwned>(object: &Value) {
        let typed: T = serde_json::from_value(object.clone()).unwrap();
        assert_eq!(sorted(&serde_json::to_value(typed).unwrap()), sorted(object));
    }
    for name in NAMES {
        for child in &world(name).applied {
            let object = &child.object;
            match child.id.kind {
                Kind::ServiceAccount => check::<ServiceAccount>(object),
                Kind::ConfigMap => check::<ConfigMap>(object),
                Kind::Role => check::<Role>(object),
                Kind::RoleBinding => check::<RoleBinding>(object),
                Kind::Service => check::<Service>(object),
                Kind::NetworkPolicy => check::<NetworkPolicy>(object),
                Kind::PodDisruptionBudget => check::<PodDisruptionBudget>(object),
                Kind::Deployment => check::<Deployment>(object),
                Kind::HorizontalPodAutoscaler => check::<HorizontalPodAutoscaler>(object),
                Kind::PodMonitor => assert_eq!(object["apiVersion"], "monitoring.coreos.com/v1"),
                Kind::Secret => panic!("a Secret is never applied"),
            }
        }
    }
}
