//! What replaces pods, and what doesn't.

use imaccess_operator_api::ImAccessClusterSpec;
use imaccess_operator_api::business::BusinessSpec;
use imaccess_operator_api::names::{CONFIGURATION_ANNOTATION, Part};
use imaccess_operator_api::quantity::Quantity;
use serde_json::json;

use super::world::{MINIMAL, World, is_idle};
use crate::plan::{Kind, Plan};

fn changed(plan: &Plan) -> Vec<String> {
    let name = |child: &crate::plan::Child| format!("{} {}", child.id.kind.as_str(), child.id.name);
    plan.apply.iter().map(name).collect()
}

fn business() -> BusinessSpec {
    serde_json::from_value(json!({"id": 1, "name": "echo", "endpoint": "http://echo.default.svc:9000"}))
        .unwrap()
}

#[test]
fn each_change_replaces_what_it_must_and_no_more() {
    type Case = (
        &'static str,
        fn(&mut ImAccessClusterSpec),
        &'static [&'static str],
    );
    let table: [Case; 13] = [
        (
            "a business",
            |spec| spec.businesses.push(business()),
            &[
                "ConfigMap demo-sidecar",
                "ConfigMap demo-state",
                "ConfigMap demo-ipconfig",
            ],
        ),
        (
            "how a business is reached, and how much of it",
            |spec| {
                let changed = json!({
                    "id": 1, "name": "echo", "endpoints": ["http://a:1", "http://b:1"], "protocol": "Http",
                    "requestRate": 9, "pushRate": 9,
                });
                spec.businesses = vec![serde_json::from_value(changed).unwrap()];
            },
            &[
                "ConfigMap demo-sidecar",
                "ConfigMap demo-state",
                "ConfigMap demo-ipconfig",
            ],
        ),
        (
            "bandwidth",
            |spec| spec.gateway.bandwidth = Quantity("125M".to_owned()),
            &["ConfigMap demo-gateway"],
        ),
        (
            "the connection limit",
            |spec| spec.gateway.connection_limit = Some(1_000),
            &["ConfigMap demo-gateway"],
        ),
        (
            "the drain's pace",
            |spec| spec.gateway.drain.rate_per_second = 7,
            &["ConfigMap demo-gateway"],
        ),
        (
            "the drain's deadline, which pods are given when they are made",
            |spec| spec.gateway.drain.deadline_seconds = 700,
            &[
                "ConfigMap demo-rendered",
                "ConfigMap demo-gateway",
                "Deployment demo-gateway",
            ],
        ),
        (
            "the gateway's image, which comes in place",
            |spec| spec.gateway.image = Some("other".to_owned()),
            &[],
        ),
        (
            "the state's image, which comes in place, and to routing after that",
            |spec| spec.state.image = Some("other".to_owned()),
            &[],
        ),
        (
            "the window",
            |spec| spec.ipconfig.window_seconds = 9,
            &[
                "ConfigMap demo-rendered",
                "ConfigMap demo-ipconfig",
                "Deployment demo-ipconfig",
            ],
        ),
        (
            "the audience",
            |spec| spec.state.push.audience = "other".to_owned(),
            &[
                "ConfigMap demo-rendered",
                "ConfigMap demo-state",
                "Deployment demo-state",
            ],
        ),
        (
            "the ping interval",
            |spec| spec.state.sidecar.ping_interval_seconds = 9,
            &[
                "ConfigMap demo-rendered",
                "ConfigMap demo-sidecar",
                "Deployment demo-gateway",
            ],
        ),
        (
            "the budget",
            |spec| spec.gateway.disruption.max_unavailable = 2,
            &["PodDisruptionBudget demo-gateway"],
        ),
        (
            "one state replica",
            |spec| spec.state.replicas = 1,
            &["Deployment demo-state"],
        ),
    ];
    for (what, change, expected) in table {
        let mut world = World::settled(MINIMAL);
        world.change(change);
        assert_eq!(changed(&world.plan()), expected, "{what}");
        world.settle();
    }
}

#[test]
fn running_pods_are_told_of_what_they_read_again() {
    let mut world = World::settled(MINIMAL);
    world.change(|spec| spec.businesses.push(business()));
    let plan = world.plan();
    assert_eq!(plan.pods.len(), 6);
    assert!(
        plan.pods
            .iter()
            .all(|patch| patch.annotations.contains_key(CONFIGURATION_ANNOTATION))
    );
    world.settle();
    world.change(|spec| spec.gateway.bandwidth = Quantity("1M".to_owned()));
    assert_eq!(world.plan().pods.len(), 2, "the gateways alone");
    world.settle();
    world.observed.secrets.get_mut("demo-state-tls").unwrap().hash = "renewed".to_owned();
    let plan = world.plan();
    assert_eq!((plan.pods.len(), plan.apply.len()), (2, 0));
    assert!(plan.pods.iter().all(|patch| patch.name.starts_with("demo-state")));
}

/// As a newer operator would, if it rendered the same inputs otherwise: what an older one rendered stands in the ConfigMap.
#[test]
fn templates_of_an_older_operator_are_kept_until_their_inputs_change() {
    let mut world = World::settled(MINIMAL);
    let older = |world: &mut World| {
        let data = &mut world.child(Kind::ConfigMap, "demo-rendered")["data"];
        let mut template: serde_json::Value =
            serde_json::from_str(data["gateway.json"].as_str().unwrap()).unwrap();
        let mut start: serde_json::Value =
            serde_json::from_str(data["gateway.configuration"].as_str().unwrap()).unwrap();
        template["spec"]["containers"][0]["env"] = json!([{"name": "FORMERLY", "value": "1"}]);
        start["sidecar.yaml"]["formerly"] = json!(true);
        let inputs = data["gateway.inputs"].clone();
        data["gateway.checksum"] = json!(crate::canonical::hash(&json!([inputs, template, start])));
        data["gateway.json"] = json!(template.to_string());
        data["gateway.configuration"] = json!(start.to_string());
    };
    older(&mut world);
    world.settle();
    let template =
        |world: &mut World| world.child(Kind::Deployment, "demo-gateway")["spec"]["template"].to_string();
    assert!(template(&mut world).contains("FORMERLY"));
    let sidecar =
        |world: &mut World| world.child(Kind::ConfigMap, "demo-sidecar")["data"]["sidecar.yaml"].to_string();
    assert!(sidecar(&mut world).contains("formerly"));
    world.observed.operator_version = "9.9.9".to_owned();
    world.change(|spec| spec.businesses.push(business()));
    world.settle();
    assert!(
        template(&mut world).contains("FORMERLY"),
        "of no concern to the template"
    );
    world.change(|spec| spec.state.sidecar.ping_interval_seconds = 9);
    world.settle();
    assert!(!template(&mut world).contains("FORMERLY"));
    assert!(!sidecar(&mut world).contains("formerly"));
}

#[test]
fn an_operator_of_another_version_changes_the_status_alone() {
    let mut world = World::settled(MINIMAL);
    world.observed.operator_version = "9.9.9".to_owned();
    let plan = world.plan();
    assert!(is_idle(&plan));
    assert_eq!(plan.status.operator_version.as_deref(), Some("9.9.9"));
}

#[test]
fn rendered_templates_that_are_lost_or_edited_are_rendered_anew() {
    let mut world = World::settled(MINIMAL);
    let id = crate::observed::ChildId {
        kind: Kind::ConfigMap,
        name: "demo-rendered".to_owned(),
    };
    world.observed.children.remove(&id);
    assert_eq!(changed(&world.plan()), ["ConfigMap demo-rendered"]);
    world.settle();
    for key in [
        "gateway.json",
        "gateway.inputs",
        "gateway.configuration",
        "gateway.checksum",
    ] {
        world.child(Kind::ConfigMap, "demo-rendered")["data"][key] = json!("{}");
        assert_eq!(changed(&world.plan()), ["ConfigMap demo-rendered"], "{key}");
        world.settle();
    }
}

#[test]
fn what_others_add_is_left_alone_and_what_they_change_is_repaired() {
    let mut world = World::settled(MINIMAL);
    let gateway = world.child(Kind::Deployment, "demo-gateway");
    // kubectl rollout restart
    gateway["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] =
        json!("now");
    gateway["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = json!("2");
    assert!(is_idle(&world.plan()));
    let gateway = world.child(Kind::Deployment, "demo-gateway");
    gateway["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other");
    let plan = world.plan();
    assert_eq!(plan.apply.len(), 1);
    assert_eq!(
        plan.apply[0].why,
        "changed: spec.template.spec.containers[0].image"
    );
    world.settle();
    world.child(Kind::Role, "demo-pods")["rules"][0]["verbs"] = json!(["*"]);
    assert_eq!(world.plan().apply[0].why, "changed: rules[0].verbs");
    world.settle();
    world.child(Kind::ConfigMap, "demo-ca")["data"]["ca.crt"] = json!("mine");
    assert_eq!(world.plan().apply[0].why, "changed: data[ca.crt]");
}

/// What was desired once and isn't any more is still there, and in what is desired nothing tells of it.
#[test]
fn what_is_not_desired_any_more_is_taken_back() {
    let mut world = World::new(MINIMAL);
    let annotate = |spec: &mut ImAccessClusterSpec| {
        let annotations = &mut spec.ipconfig.service.annotations;
        annotations.insert("example.org/balancer".to_owned(), "yes".to_owned());
    };
    world.change(annotate);
    world.settle();
    world.change(|spec| spec.ipconfig.service.annotations.clear());
    let plan = world.plan();
    assert_eq!(changed(&plan), ["Service demo-ipconfig"]);
    assert_eq!(plan.apply[0].why, "changed: what is desired");
    world.settle();
}

#[test]
fn quantities_in_canonical_form_are_no_difference() {
    let mut world = World::new(MINIMAL);
    world.change(|spec| {
        for (name, quantity) in [("cpu", "500m"), ("memory", "1024Mi")] {
            spec.gateway
                .resources
                .limits
                .insert(name.to_owned(), Quantity(quantity.to_owned()));
        }
    });
    world.settle();
    let gateway = world.child(Kind::Deployment, "demo-gateway");
    gateway["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] =
        json!({"cpu": "0.5", "memory": "1Gi"});
    assert!(is_idle(&world.plan()));
}

#[test]
fn parts_are_applied_after_what_they_need() {
    let mut world = World::new(MINIMAL);
    world.settle();
    let position = |kind: Kind, name: &str| {
        let mut applied = world.applied.iter();
        applied
            .position(|child| child.id.kind == kind && child.id.name == name)
            .unwrap()
    };
    for part in Part::ALL {
        let deployment = position(Kind::Deployment, &format!("demo-{}", part.as_str()));
        for (kind, name) in [
            (Kind::ServiceAccount, format!("demo-{}", part.as_str())),
            (Kind::ConfigMap, format!("demo-{}", part.as_str())),
            (Kind::ConfigMap, "demo-rendered".to_owned()),
        ] {
            assert!(position(kind, &name) < deployment, "{kind:?} {name}");
        }
    }
}
