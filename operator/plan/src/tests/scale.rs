//! Scaling: pods are condemned before the Deployment is reduced, slots and their Services follow.

use imaccess_operator_api::gateway::ExposureType;
use imaccess_operator_api::names::{DELETION_COST_ANNOTATION, ENDPOINTS_ANNOTATION, Part, SLOT_LABEL};
use serde_json::{Value, json};

use super::world::{MINIMAL, World, slots};
use crate::plan::{Kind, Plan};

fn replicas(plan: &Plan) -> Option<&Value> {
    let deployment = plan
        .apply
        .iter()
        .find(|child| child.id.kind == Kind::Deployment && child.id.name == "demo-gateway")?;
    Some(&deployment.object["spec"]["replicas"])
}

#[test]
fn pods_that_go_are_marked_before_the_deployment_is_reduced() {
    let mut world = World::new(MINIMAL);
    world.change(|spec| spec.gateway.replicas = 4);
    world.settle();
    let numbers = ["0", "1", "2", "3"].map(|slot| Some(slot.to_owned()));
    assert_eq!(slots(&mut world), numbers);

    world.change(|spec| spec.gateway.replicas = 2);
    let first = world.plan();
    assert_eq!(replicas(&first), None, "not yet");
    let marked: Vec<(&str, &str)> = first
        .pods
        .iter()
        .map(|patch| {
            (
                patch.labels[SLOT_LABEL].as_str(),
                patch.annotations[DELETION_COST_ANNOTATION].as_str(),
            )
        })
        .collect();
    assert_eq!(marked, [("2", "-1002"), ("3", "-1003")]);
    world.carry_out(&first);

    let second = world.plan();
    assert_eq!(replicas(&second), Some(&json!(2)));
    world.carry_out(&second);
    // The Deployment is reduced, its pods aren't told to end yet: they stay condemned.
    assert!(world.plan().pods.is_empty());
    world.run_pods();
    assert_eq!(slots(&mut world), numbers[..2]);
    world.settle();
}

#[test]
fn a_reduction_that_is_taken_back_condemns_nobody() {
    let mut world = World::new(MINIMAL);
    world.change(|spec| spec.gateway.replicas = 3);
    world.settle();
    world.change(|spec| spec.gateway.replicas = 1);
    world.carry_out(&world.plan());
    world.change(|spec| spec.gateway.replicas = 3);
    let plan = world.plan();
    assert_eq!(replicas(&plan), None);
    let costs: Vec<&str> = plan
        .pods
        .iter()
        .map(|patch| patch.annotations[DELETION_COST_ANNOTATION].as_str())
        .collect();
    assert_eq!(costs, ["-1", "-2"]);
}

#[test]
fn pods_of_a_surge_are_not_condemned() {
    let mut world = World::settled(MINIMAL);
    let surge = world
        .observed
        .pods
        .iter()
        .find(|pod| pod.metadata.name.as_ref().unwrap().contains("gateway"));
    let mut surge = surge.unwrap().clone();
    surge.metadata.uid = Some("surge".to_owned());
    surge.metadata.labels.as_mut().unwrap().remove(SLOT_LABEL);
    surge
        .metadata
        .annotations
        .as_mut()
        .unwrap()
        .remove(DELETION_COST_ANNOTATION);
    world.observed.pods.push(surge);
    let plan = world.plan();
    let costs: Vec<&str> = plan
        .pods
        .iter()
        .map(|patch| patch.annotations[DELETION_COST_ANNOTATION].as_str())
        .collect();
    assert_eq!(costs, ["-2"]);
}

#[test]
fn more_replicas_come_at_once_and_by_hand_scaling_is_undone() {
    let mut world = World::settled(MINIMAL);
    world.change(|spec| spec.gateway.replicas = 5);
    assert_eq!(replicas(&world.plan()), Some(&json!(5)));
    world.settle();
    world.child(Kind::Deployment, "demo-gateway")["spec"]["replicas"] = json!(1);
    let plan = world.plan();
    assert_eq!(replicas(&plan), Some(&json!(5)));
    assert_eq!(plan.apply[0].why, "changed: spec.replicas");
    world.settle();
    world.child(Kind::Deployment, "demo-state")["spec"]["replicas"] = json!(9);
    let plan = world.plan();
    assert_eq!(plan.apply[0].object["spec"]["replicas"], json!(2));
    assert_eq!(plan.apply.len(), 1);
}

#[test]
fn a_draining_pod_keeps_its_slot() {
    let mut world = World::settled(MINIMAL);
    let now = world.now;
    world.gateways()[0].metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
    world.observed.pods.push({
        let mut fresh = world.observed.pods.last().unwrap().clone();
        let part = Part::Gateway.as_str().to_owned();
        fresh
            .metadata
            .labels
            .as_mut()
            .unwrap()
            .insert("app.kubernetes.io/component".to_owned(), part);
        fresh.metadata.labels.as_mut().unwrap().remove(SLOT_LABEL);
        fresh.metadata.uid = Some("fresh".to_owned());
        fresh
    });
    let plan = world.plan();
    let fresh = plan.pods.iter().find(|patch| patch.uid == "fresh").unwrap();
    assert_eq!(fresh.labels[SLOT_LABEL], "2");
    assert_eq!(plan.pods.len(), 1, "what ends is left alone");
    assert_eq!(plan.status.gateway.terminating, 1);
}

fn said(world: &mut World) -> Vec<Option<String>> {
    let said = |pod: &mut k8s_openapi::api::core::v1::Pod| {
        pod.metadata
            .annotations
            .as_ref()
            .unwrap()
            .get(ENDPOINTS_ANNOTATION)
            .cloned()
    };
    world.gateways().into_iter().map(said).collect()
}

#[test]
fn pods_say_where_clients_reach_them() {
    type Case = (ExposureType, Option<&'static str>, Option<&'static str>);
    let table: [Case; 6] = [
        (ExposureType::PodIP, None, None),
        (
            ExposureType::HostPort,
            None,
            Some(r#"[{"host":"192.0.2.1","port":7000,"protocol":"tcp"}]"#),
        ),
        (
            ExposureType::HostPort,
            Some("g{slot}.example"),
            Some(r#"[{"host":"g1.example","port":7000,"protocol":"tcp"}]"#),
        ),
        (
            ExposureType::NodePort,
            None,
            Some(r#"[{"host":"192.0.2.1","port":30010,"protocol":"tcp"}]"#),
        ),
        (
            ExposureType::LoadBalancer,
            None,
            Some(r#"[{"host":"203.0.113.1","port":7000,"protocol":"tcp"}]"#),
        ),
        (
            ExposureType::LoadBalancer,
            Some("g{slot}.example"),
            Some(r#"[{"host":"g1.example","port":7000,"protocol":"tcp"}]"#),
        ),
    ];
    for (kind, host, expected) in table {
        let mut world = World::new(MINIMAL);
        world.change(|spec| {
            spec.gateway.exposure.kind = kind;
            spec.gateway.exposure.host = host.map(str::to_owned);
        });
        world.settle();
        assert_eq!(said(&mut world)[1].as_deref(), expected, "{kind:?} {host:?}");
        let services = matches!(kind, ExposureType::NodePort | ExposureType::LoadBalancer);
        assert_eq!(world.has(Kind::Service, "demo-gateway-1"), services);
        assert!(!world.has(Kind::Service, "demo-gateway-2"));
    }
}

#[test]
fn an_address_is_said_once_it_is_known() {
    for kind in [ExposureType::NodePort, ExposureType::LoadBalancer] {
        let mut world = World::new(MINIMAL);
        world.change(|spec| spec.gateway.exposure.kind = kind);
        world.settle();
        let service = world.child(Kind::Service, "demo-gateway-0");
        service["status"] = json!({});
        service["spec"]["ports"][0]
            .as_object_mut()
            .unwrap()
            .remove("nodePort");
        let plan = world.plan();
        assert_eq!(plan.pods.len(), 1);
        assert!(!plan.pods[0].annotations.contains_key(ENDPOINTS_ANNOTATION));
        let ready = &plan.status.conditions[0];
        assert_eq!(
            (ready.status.as_str(), ready.reason.as_str()),
            ("False", "WaitingForAddress")
        );
        // Other exposures take it away again, and the Services with it.
        world.change(|spec| spec.gateway.exposure.kind = ExposureType::PodIP);
        world.settle();
        assert_eq!(said(&mut world), [None, None]);
        assert!(!world.has(Kind::Service, "demo-gateway-0"));
    }
}
