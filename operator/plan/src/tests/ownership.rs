//! Whose objects are touched, and when none is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::world::{MINIMAL, World, is_idle};
use crate::observed::ChildId;
use crate::plan::Kind;

fn orphan(world: &mut World, uid: &str) {
    let object = json!({"metadata": {
        "name": "demo-old", "uid": "old", "resourceVersion": "7",
        "ownerReferences": [{"kind": "ImAccessCluster", "name": "demo", "uid": uid, "controller": true}],
    }});
    let (kind, name) = (Kind::ConfigMap, "demo-old".to_owned());
    world.observed.children.insert(ChildId { kind, name }, object);
}

#[test]
fn orphans_are_deleted_if_they_are_ours() {
    let mut world = World::settled(MINIMAL);
    orphan(&mut world, "cluster-uid");
    let plan = world.plan();
    assert_eq!(plan.delete.len(), 1);
    let deletion = &plan.delete[0];
    assert_eq!(
        (deletion.uid.as_str(), deletion.resource_version.as_str()),
        ("old", "7")
    );
    world.child(Kind::ConfigMap, "demo-old")["metadata"]["deletionTimestamp"] = json!("2026-11-25T12:00:00Z");
    assert!(world.plan().delete.is_empty(), "it is going");
    orphan(&mut world, "another-cluster");
    assert!(world.plan().delete.is_empty());
}

#[test]
fn a_cluster_that_is_deleted_gets_no_plan() {
    for mut world in [World::new(MINIMAL), World::settled(MINIMAL)] {
        world.observed.cluster.metadata.deletion_timestamp = Some(Time(world.now));
        orphan(&mut world, "cluster-uid");
        world.change(|spec| spec.gateway.replicas = 9);
        let plan = world.plan();
        assert!(is_idle(&plan) && plan.notices.is_empty() && plan.look_again.is_none());
        assert_eq!(
            plan.status,
            world.observed.cluster.status.clone().unwrap_or_default()
        );
    }
}

#[test]
fn a_paused_cluster_gets_its_status_only() {
    let mut world = World::settled(MINIMAL);
    world.change(|spec| spec.paused = true);
    let plan = world.plan();
    let condition = |kind: &str| {
        let found = plan
            .status
            .conditions
            .iter()
            .find(|condition| condition.type_ == kind);
        found.map(|condition| condition.status.as_str())
    };
    assert!(is_idle(&plan));
    assert_eq!(
        (condition("Ready"), condition("Paused")),
        (Some("True"), Some("True"))
    );
    world.change(|spec| spec.gateway.image = Some("new".to_owned()));
    orphan(&mut world, "cluster-uid");
    world.observed.secrets.remove("demo-tickets");
    let plan = world.plan();
    assert!(is_idle(&plan) && plan.look_again.is_none());
    assert_eq!(plan.status.observed_generation, Some(3));
    let ready = &plan.status.conditions[0];
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("False", "Paused")
    );
    assert!(
        plan.status
            .conditions
            .iter()
            .all(|condition| condition.type_ != "Reconciling")
    );
    world.change(|spec| spec.paused = false);
    world.settle();
}

#[test]
fn other_peoples_objects_are_not_taken() {
    let mut world = World::settled(MINIMAL);
    let service = world.child(Kind::Service, "demo-state");
    service["metadata"]["ownerReferences"] =
        json!([{"kind": "Other", "name": "x", "uid": "x", "controller": true}]);
    let plan = world.plan();
    assert!(plan.apply.is_empty() && plan.delete.is_empty());
    let ready = &plan.status.conditions[0];
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("False", "NameTaken")
    );
    assert!(ready.message.contains("Service demo-state"), "{}", ready.message);
    // Of a cluster of the same name that was deleted: its objects are about to go.
    let service = world.child(Kind::Service, "demo-state");
    service["metadata"]["ownerReferences"] =
        json!([{"kind": "ImAccessCluster", "name": "demo", "uid": "former", "controller": true}]);
    let plan = world.plan();
    assert!(plan.apply.is_empty());
    assert_eq!(plan.status.conditions[0].reason, "WaitingForDeletion");
    assert_eq!(plan.look_again, Some(crate::SOON));
    // Nobody's: it becomes ours.
    world.child(Kind::Service, "demo-state")["metadata"]["ownerReferences"] = json!([]);
    assert_eq!(world.plan().apply[0].why, "changed: metadata.ownerReferences");
}

#[test]
fn a_secret_of_somebody_else_is_not_overwritten() {
    let mut world = World::new(MINIMAL);
    world.users_secret("demo-ca", &["ca.crt", "ca.key"]);
    let plan = world.plan();
    assert!(
        plan.secrets
            .iter()
            .all(|step| !matches!(step, crate::plan::SecretStep::Authority(_)))
    );
    let ready = &plan.status.conditions[0];
    assert_eq!(ready.reason, "NameTaken");
    assert!(ready.message.contains("Secret demo-ca"), "{}", ready.message);
}
