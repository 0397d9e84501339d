//! What the status says, by situation.

use imaccess_operator_api::cluster::SecretName;
use imaccess_operator_api::gateway::ExposureType;
use imaccess_operator_api::options::PodMonitorSpec;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use super::world::{MINIMAL, World};
use crate::plan::{Kind, Plan};

fn condition<'p>(plan: &'p Plan, kind: &str) -> Option<&'p Condition> {
    plan.status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind)
}

/// Ready's status and reason, and which of Reconciling and Stalled there is.
fn summary(plan: &Plan) -> String {
    let ready = condition(plan, "Ready").unwrap();
    let others: Vec<&str> = ["Reconciling", "Stalled"]
        .into_iter()
        .filter(|kind| condition(plan, kind).is_some())
        .collect();
    format!("{} {} [{}]", ready.status, ready.reason, others.join(" "))
}

fn deployment_status(world: &mut World, name: &str, status: &Value) {
    let live = world.child(Kind::Deployment, name);
    for (key, value) in status.as_object().unwrap() {
        live["status"][key] = value.clone();
    }
}

fn pod_status(world: &mut World, status: &Value) {
    world.gateways()[0].status = Some(serde_json::from_value(status.clone()).unwrap());
}

fn waiting(reason: &str) -> Value {
    json!({"phase": "Pending", "containerStatuses": [{
        "name": "gateway", "image": "registry.example/imaccess:1", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": "as the kubelet says."}},
    }]})
}

#[test]
fn each_situation_has_its_conditions() {
    type Case = (&'static str, Box<dyn Fn(&mut World)>, &'static str, &'static str);
    let table: Vec<Case> = vec![
        (
            "all is well",
            Box::new(|_| ()),
            "True Serving []",
            "Clients are served",
        ),
        (
            "a change isn't carried out yet",
            Box::new(|world| world.change(|spec| spec.state.push.audience = "new".to_owned())),
            "False Updating [Reconciling]",
            "demo-state",
        ),
        (
            "images are brought to running pods",
            Box::new(|world| world.change(|spec| spec.image = "new".to_owned())),
            "False UpgradingInPlace [Reconciling]",
            "0 of 2 gateway pods are upgraded",
        ),
        (
            "a rollout isn't through",
            Box::new(|world| deployment_status(world, "demo-gateway", &json!({"updatedReplicas": 1}))),
            "False Updating [Reconciling]",
            "demo-gateway",
        ),
        (
            "old pods are left",
            Box::new(|world| deployment_status(world, "demo-gateway", &json!({"replicas": 3}))),
            "False Updating [Reconciling]",
            "demo-gateway",
        ),
        (
            "a pod has gone",
            Box::new(|world| deployment_status(world, "demo-ipconfig", &json!({"availableReplicas": 1}))),
            "False Updating [Reconciling]",
            "demo-ipconfig",
        ),
        (
            "the Deployment's controller hasn't looked",
            Box::new(|world| deployment_status(world, "demo-gateway", &json!({"observedGeneration": 0}))),
            "False Updating [Reconciling]",
            "demo-gateway",
        ),
        (
            "the rollout is stuck",
            Box::new(|world| {
                let conditions =
                    json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]);
                deployment_status(
                    world,
                    "demo-gateway",
                    &json!({"updatedReplicas": 1, "conditions": conditions}),
                );
            }),
            "False ProgressDeadlineExceeded [Stalled]",
            "kubectl describe pods -n chat -l app.kubernetes.io/component=gateway",
        ),
        (
            "the rollout was paused by hand",
            Box::new(|world| {
                world.child(Kind::Deployment, "demo-gateway")["spec"]["paused"] = json!(true);
                deployment_status(world, "demo-gateway", &json!({"updatedReplicas": 1}));
            }),
            "False RolloutPaused [Stalled]",
            "kubectl rollout resume -n chat deployment/demo-gateway",
        ),
        (
            "pods are refused",
            Box::new(|world| {
                let conditions =
                    json!([{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: x."}]);
                deployment_status(world, "demo-gateway", &json!({"conditions": conditions}));
            }),
            "False PodsRefused [Stalled]",
            "exceeded quota: x",
        ),
        (
            "an image can't be pulled",
            Box::new(|world| pod_status(world, &waiting("ImagePullBackOff"))),
            "False ImageNotPulled [Stalled]",
            "registry.example/imaccess:1",
        ),
        (
            "an image has no proper name",
            Box::new(|world| pod_status(world, &waiting("InvalidImageName"))),
            "False ImageNotPulled [Stalled]",
            "correct the name",
        ),
        (
            "a container crashes",
            Box::new(|world| pod_status(world, &waiting("CrashLoopBackOff"))),
            "False CrashLoop [Stalled]",
            "kubectl logs -n chat",
        ),
        (
            "a container crashes, and runs at this moment",
            Box::new(|world| {
                let mut status = waiting("");
                let container = &mut status["containerStatuses"][0];
                container["state"] = json!({"running": {}});
                container["lastState"] = json!({"terminated": {"exitCode": 1}});
                container["restartCount"] = json!(3);
                pod_status(world, &status);
            }),
            "False CrashLoop [Stalled]",
            "--previous",
        ),
        (
            "a sidecar can't be made",
            Box::new(|world| {
                let mut status = waiting("CreateContainerConfigError");
                status["initContainerStatuses"] = status["containerStatuses"].take();
                pod_status(world, &status);
            }),
            "False ContainerNotCreated [Stalled]",
            "as the kubelet says",
        ),
        (
            "no node takes a pod",
            Box::new(|world| {
                let conditions =
                    json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]);
                pod_status(world, &json!({"phase": "Pending", "conditions": conditions}));
            }),
            "False Unschedulable [Reconciling]",
            "spec.gateway.resources",
        ),
        (
            "the user's Secret is missing",
            Box::new(|world| {
                world.change(|spec| {
                    spec.auth.token_keys_secret = Some(SecretName {
                        name: "issuers".to_owned(),
                    });
                });
            }),
            "False SecretMissing [Stalled]",
            "The Secret issuers, which spec.auth.tokenKeysSecret names, doesn't exist",
        ),
        (
            "the user's Secret has the wrong keys",
            Box::new(|world| {
                world.users_secret("keys", &["ticket"]);
                world.change(|spec| {
                    spec.auth.ticket_keys_secret = Some(SecretName {
                        name: "keys".to_owned(),
                    });
                });
            }),
            "False SecretMissing [Stalled]",
            "a key `tickets`",
        ),
        (
            "there are no gateways",
            Box::new(|world| {
                world.change(|spec| spec.gateway.replicas = 0);
                world.settle();
            }),
            "True ScaledToZero []",
            "spec.gateway.replicas is 0",
        ),
    ];
    for (what, change, expected, message) in table {
        let mut world = World::settled(MINIMAL);
        change(&mut world);
        let plan = world.plan();
        assert_eq!(summary(&plan), expected, "{what}");
        let ready = condition(&plan, "Ready").unwrap();
        assert!(ready.message.contains(message), "{what}: {}", ready.message);
        assert!(ready.message.ends_with('.'), "{what}: {}", ready.message);
        let generation = world.observed.cluster.metadata.generation;
        assert_eq!(plan.status.observed_generation, generation, "{what}");
        let conditions = &plan.status.conditions;
        assert!(
            conditions
                .iter()
                .all(|condition| condition.observed_generation == generation),
            "{what}"
        );
    }
}

#[test]
fn nothing_replaces_pods_while_a_users_secret_is_missing() {
    let mut world = World::settled(MINIMAL);
    world.change(|spec| {
        spec.auth.token_keys_secret = Some(SecretName {
            name: "issuers".to_owned(),
        });
    });
    let plan = world.plan();
    let deployments = plan
        .apply
        .iter()
        .filter(|child| child.id.kind == Kind::Deployment);
    let names: Vec<&str> = deployments.map(|child| child.id.name.as_str()).collect();
    assert_eq!(
        names,
        ["demo-ipconfig"],
        "which doesn't need it, and gives no development tokens any more"
    );
    assert!(plan.delete.is_empty());
    world.users_secret("issuers", &["2026.pem"]);
    world.settle();
}

#[test]
fn a_new_cluster_is_being_made() {
    let world = World::new(MINIMAL);
    assert_eq!(summary(&world.plan()), "False Creating [Reconciling]");
    let plan = world.plan();
    for kind in ["GatewayAvailable", "StateAvailable", "IpconfigAvailable"] {
        assert_eq!(condition(&plan, kind).unwrap().status, "False");
    }
    assert_eq!(
        plan.status.addresses.push.as_deref(),
        Some("https://demo-state.chat.svc:8100")
    );
}

#[test]
fn conditions_that_are_there_only_while_they_are_true() {
    let mut world = World::settled(MINIMAL);
    let there =
        |world: &World, kind: &str| condition(&world.plan(), kind).map(|condition| condition.status.clone());
    assert_eq!(there(&world, "DevelopmentTokens").as_deref(), Some("True"));
    assert_eq!(there(&world, "NotRestricted"), None);
    assert_eq!(there(&world, "Degraded"), None);
    world.change(|spec| spec.gateway.exposure.kind = ExposureType::HostPort);
    assert_eq!(there(&world, "NotRestricted").as_deref(), Some("True"));
    let monitor = PodMonitorSpec {
        labels: Default::default(),
        interval_seconds: 15,
    };
    world.change(|spec| spec.monitoring.pod_monitor = Some(monitor));
    world.observed.capabilities.pod_monitors = false;
    assert_eq!(there(&world, "Degraded").as_deref(), Some("True"));
    world.settle();
    assert!(
        world
            .applied
            .iter()
            .all(|child| child.id.kind != Kind::PodMonitor)
    );
    assert_eq!(
        summary(&world.plan()),
        "True Serving []",
        "nothing else is held up"
    );
    world.observed.capabilities.pod_monitors = true;
    world.settle();
    assert!(world.has(Kind::PodMonitor, "demo-gateway"));
    assert_eq!(there(&world, "Degraded"), None);
    world.users_secret("issuers", &["2026.pem"]);
    world.change(|spec| {
        spec.auth.token_keys_secret = Some(SecretName {
            name: "issuers".to_owned(),
        });
    });
    world.settle();
    assert_eq!(there(&world, "DevelopmentTokens"), None);
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let mut world = World::settled(MINIMAL);
    let time = |world: &World| {
        condition(&world.plan(), "Ready")
            .unwrap()
            .last_transition_time
            .clone()
    };
    let since = time(&world);
    assert_eq!(since.0.subsec_nanosecond(), 0, "as Kubernetes has it");
    world.advance(SignedDuration::from_hours(1));
    assert_eq!(time(&world), since);
    assert_eq!(Some(&world.plan().status), world.observed.cluster.status.as_ref());
    deployment_status(&mut world, "demo-gateway", &json!({"availableReplicas": 1}));
    let later = time(&world);
    assert!(later.0 > since.0);
    world.carry_out(&world.plan());
    pod_status(&mut world, &waiting("CrashLoopBackOff"));
    world.advance(SignedDuration::from_hours(1));
    assert_eq!(time(&world), later, "another reason, the same status");
}

#[test]
fn people_are_told_once() {
    let mut world = World::settled(MINIMAL);
    assert!(world.plan().notices.is_empty());
    pod_status(&mut world, &waiting("CrashLoopBackOff"));
    let plan = world.plan();
    assert_eq!(plan.notices.len(), 1);
    assert!(plan.notices[0].warning);
    assert_eq!(plan.notices[0].reason, "CrashLoop");
    world.carry_out(&plan);
    assert!(world.plan().notices.is_empty());
    let first = World::new(MINIMAL).plan();
    let reasons: Vec<&str> = first
        .notices
        .iter()
        .map(|notice| notice.reason.as_str())
        .collect();
    assert_eq!(reasons, ["AuthorityChanged", "DevelopmentTokens"]);
}

#[test]
fn the_status_counts_and_selects_gateways_alone() {
    let world = World::settled(MINIMAL);
    let status = world.plan().status;
    assert_eq!(
        (status.replicas, status.gateway.ready, status.state.updated),
        (2, 2, 2)
    );
    assert_eq!(
        status.selector.as_deref(),
        Some(
            "app.kubernetes.io/component=gateway,app.kubernetes.io/instance=demo,app.kubernetes.io/name=imaccess"
        )
    );
    assert_eq!(
        status.addresses.ipconfig.as_deref(),
        Some("http://demo-ipconfig.chat.svc:8000")
    );
}
