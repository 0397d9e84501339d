//! Changed images reach running pods in place: pods stay, Deployments come to what pods have, and whatever goes wrong stops it.

use std::collections::BTreeSet;

use imaccess_operator_api::gateway::Handover;
use imaccess_operator_api::names::TRY_AGAIN_ANNOTATION;
use imaccess_operator_api::quantity::Quantity;
use imaccess_operator_api::status::{Method, UpgradePhase};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::world::{MINIMAL, World, is_idle};
use crate::plan::{Kind, Plan, StepName};

fn both(image: &str) -> Vec<(String, String)> {
    vec![(image.to_owned(), image.to_owned()); 2]
}

/// All steps of a plan, those that are children among them.
fn steps(plan: &Plan) -> Vec<StepName> {
    let children = plan.apply.iter().filter_map(|child| child.step);
    children
        .chain(plan.steps.iter().map(crate::plan::Step::name))
        .collect()
}

/// Plans and carries out until nothing is left to do; the steps, in order.
fn go(world: &mut World) -> Vec<StepName> {
    let (mut all, mut idle) = (Vec::new(), 0);
    for _ in 0..120 {
        let plan = world.plan();
        idle = if is_idle(&plan) { idle + 1 } else { 0 };
        all.extend(steps(&plan));
        world.carry_out(&plan);
        world.run_pods();
        // Longer than any time that something is given.
        if idle == 12 {
            return all;
        }
        // What is waited for has its time, but not more.
        world.advance(SignedDuration::from_secs(5));
    }
    panic!("it never ends: {:#?}", world.plan());
}

fn condition(world: &World, kind: &str) -> Option<(String, String)> {
    let status = world.observed.cluster.status.as_ref().unwrap();
    let found = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind)?;
    (found.status == "True").then(|| (found.reason.clone(), found.message.clone()))
}

#[test]
fn changed_images_come_in_place_and_pods_stay() {
    let mut world = World::settled(MINIMAL);
    let uids = world.gateway_uids();
    world.change(|spec| spec.image = "new".to_owned());
    let done = go(&mut world);
    use StepName::{
        Clear, Pause, Preflight, Record, Release, ReplaceGateway, ReplaceState, ReplicaSet, Resume, Template,
    };
    assert_eq!(
        done,
        [
            Preflight,
            Preflight, // a node each
            ReplaceState,
            Release,
            ReplaceGateway,
            Release, // the first pod
            ReplaceState,
            Release,
            ReplaceGateway,
            Release, // the second
            Record,
            Pause,
            ReplicaSet,
            Template,
            Resume,
            Clear,
            Clear
        ]
    );
    assert_eq!(world.gateway_uids(), uids);
    assert_eq!(world.gateway_images(), both("new"));
    let deployment = world.child(Kind::Deployment, "demo-gateway").clone();
    assert!(
        deployment["spec"]["paused"].is_null()
            && deployment["metadata"]["annotations"]["imaccess.io/settling"].is_null()
    );
    assert_eq!(
        deployment["spec"]["template"]["spec"]["containers"][0]["image"],
        json!("new")
    );
    let status = world.observed.cluster.status.clone().unwrap();
    assert_eq!(status.upgrade, None);
    assert_eq!(status.change.unwrap().method, Method::InPlace);
    assert_eq!(world.replaced().len(), 2);
    assert!(condition(&world, "Ready").is_some());
    // Other parts get theirs afterwards.
    let routing = world.child(Kind::Deployment, "demo-state").clone();
    assert_eq!(
        routing["spec"]["template"]["spec"]["containers"][0]["image"],
        json!("new")
    );
}

#[test]
fn one_image_alone_touches_one_container_alone() {
    for (state, untouched) in [(true, StepName::ReplaceGateway), (false, StepName::ReplaceState)] {
        let mut world = World::settled(MINIMAL);
        let uids = world.gateway_uids();
        world.change(|spec| {
            let image = Some("new".to_owned());
            if state {
                spec.state.image = image;
            } else {
                spec.gateway.image = image;
            }
        });
        let done = go(&mut world);
        assert!(!done.contains(&untouched), "{done:?}");
        assert_eq!(world.gateway_uids(), uids);
        let old = "registry.example/imaccess:1".to_owned();
        let pair = if state {
            (old, "new".to_owned())
        } else {
            ("new".to_owned(), old)
        };
        assert_eq!(world.gateway_images(), vec![pair.clone(), pair]);
    }
}

#[test]
fn other_parts_and_the_template_wait_for_the_pods() {
    let mut world = World::settled(MINIMAL);
    world.change(|spec| spec.image = "new".to_owned());
    for _ in 0..60 {
        let plan = world.plan();
        let told = plan
            .apply
            .iter()
            .filter(|child| child.id.kind == Kind::Deployment);
        let pods_left = world.gateway_images() != both("new");
        assert!(told.count() == 0 || !pods_left, "{plan:#?}");
        world.carry_out(&plan);
        world.run_pods();
        world.advance(SignedDuration::from_secs(1));
    }
}

#[test]
fn what_else_has_changed_replaces_pods_and_says_why() {
    type Case = (&'static str, fn(&mut imaccess_operator_api::ImAccessClusterSpec));
    let cases: [Case; 2] = [
        ("pingIntervalSeconds", |spec| {
            spec.state.sidecar.ping_interval_seconds = 7;
        }),
        ("Disabled", |spec| {
            spec.gateway.handover = Handover::Disabled;
        }),
    ];
    for (why, change) in cases {
        let mut world = World::settled(MINIMAL);
        let uids = world.gateway_uids();
        world.change(|spec| {
            spec.image = "new".to_owned();
            change(spec);
        });
        assert_eq!(go(&mut world), []);
        assert!(world.gateway_uids().iter().all(|uid| !uids.contains(uid)));
        let change = world.observed.cluster.status.clone().unwrap().change.unwrap();
        assert_eq!(change.method, Method::Replacement);
        assert!(change.why.contains(why), "{}", change.why);
    }
}

#[test]
fn a_business_is_read_by_what_runs() {
    let mut world = World::settled(MINIMAL);
    world.change(|spec| spec.gateway.drain.rate_per_second = 7);
    go(&mut world);
    let change = world.observed.cluster.status.clone().unwrap().change.unwrap();
    assert_eq!(change.method, Method::Reload);
}

#[test]
fn what_cant_be_used_stops_before_anything_is_touched_and_a_corrected_image_goes_on() {
    for (image, why) in [
        ("missing", "pulled"),
        ("exits", "no such command"),
        ("strange", "in common for link"),
    ] {
        let mut world = World::settled(MINIMAL);
        let uids = world.gateway_uids();
        world.change(|spec| spec.image = image.to_owned());
        let done = go(&mut world);
        assert_eq!(done, [StepName::Preflight; 2], "{image}");
        assert_eq!(world.gateway_images(), both("registry.example/imaccess:1"));
        let routing = world.child(Kind::Deployment, "demo-state").clone();
        assert_ne!(
            routing["spec"]["template"]["spec"]["containers"][0]["image"],
            json!(image)
        );
        let (reason, message) = condition(&world, "Stalled").unwrap();
        assert_eq!(reason, "PreflightFailed");
        assert!(message.contains(why), "{message}");
        world.change(|spec| spec.image = "new".to_owned());
        go(&mut world);
        assert_eq!(world.gateway_images(), both("new"));
        assert_eq!(world.gateway_uids(), uids);
        assert!(condition(&world, "Ready").is_some());
    }
}

#[test]
fn a_pod_that_fails_is_put_back_and_the_others_arent_touched() {
    for (gateway, image) in [
        (true, "silent"),
        (true, "crashes"),
        (false, "silent"),
        (false, "crashes"),
    ] {
        let mut world = World::settled(MINIMAL);
        let uids = world.gateway_uids();
        world.change(|spec| {
            let image = Some(image.to_owned());
            if gateway {
                spec.gateway.image = image;
            } else {
                spec.state.image = image;
            }
        });
        let done = go(&mut world);
        let (begun, back) = if gateway {
            (StepName::ReplaceGateway, StepName::RestoreGateway)
        } else {
            (StepName::ReplaceState, StepName::RestoreState)
        };
        use StepName::{Preflight, Release};
        assert_eq!(done, [Preflight, Preflight, begun, back, Release], "{image}");
        assert_eq!(world.gateway_images(), both("registry.example/imaccess:1"));
        let upgrade = world.observed.cluster.status.clone().unwrap().upgrade.unwrap();
        assert_eq!(upgrade.phase, UpgradePhase::Stopped);
        let (reason, message) = condition(&world, "Stalled").unwrap();
        assert_eq!(reason, "UpgradeStopped");
        assert!(
            message.contains(image) && message.contains("try-again"),
            "{message}"
        );
        // It isn't tried again by itself, but when somebody says so.
        assert_eq!(go(&mut world), []);
        let annotations = world
            .observed
            .cluster
            .metadata
            .annotations
            .get_or_insert_default();
        annotations.insert(TRY_AGAIN_ANNOTATION.to_owned(), "1".to_owned());
        assert!(go(&mut world).contains(&back));
        world.change(|spec| {
            (spec.gateway.image, spec.state.image) = (None, None);
            spec.image = "new".to_owned();
        });
        go(&mut world);
        assert_eq!(world.gateway_images(), both("new"));
        assert_eq!(world.gateway_uids(), uids);
    }
}

#[test]
fn pods_that_never_worked_get_a_corrected_image_too() {
    for broken in ["missing", "crashes", "silent"] {
        let mut world = World::new(MINIMAL);
        world.connections = 0;
        world.change(|spec| spec.image = broken.to_owned());
        go(&mut world);
        // As long as anybody could still hold a connection of theirs.
        world.advance(SignedDuration::from_secs(100));
        let uids = world.gateway_uids();
        // One broken image after the other, and in the end one that works.
        for image in ["silent-too", "new"] {
            world.change(|spec| spec.image = image.to_owned());
            go(&mut world);
            world.advance(SignedDuration::from_secs(300));
            go(&mut world);
        }
        assert_eq!(world.gateway_images(), both("new"), "{broken}");
        assert_eq!(world.gateway_uids(), uids);
    }
}

#[test]
fn an_image_that_is_given_up_while_it_fails_makes_room_for_the_next() {
    let mut world = World::settled(MINIMAL);
    let uids = world.gateway_uids();
    world.change(|spec| spec.image = "silent".to_owned());
    while world.observed.pods.iter().all(|pod| {
        pod.metadata
            .annotations
            .as_ref()
            .is_none_or(|all| !all.contains_key("imaccess.io/replacing"))
    }) {
        let plan = world.plan();
        world.carry_out(&plan);
        world.run_pods();
        world.advance(SignedDuration::from_secs(1));
    }
    world.change(|spec| spec.image = "new".to_owned());
    go(&mut world);
    assert_eq!(world.gateway_images(), both("new"));
    assert_eq!(world.gateway_uids(), uids);
    assert_eq!(world.observed.cluster.status.clone().unwrap().upgrade, None);
}

#[test]
fn what_has_stopped_stays_so_when_the_template_is_put_back() {
    let mut world = World::settled(MINIMAL);
    let older = world.observed.replica_sets[0]["spec"]["template"].clone();
    world.change(|spec| spec.state.sidecar.ping_interval_seconds = 7);
    go(&mut world);
    world.change(|spec| spec.gateway.image = Some("silent".to_owned()));
    go(&mut world);
    let stopped = world.observed.cluster.status.clone().unwrap().upgrade;
    assert!(stopped.as_ref().unwrap().stopped_at.is_some());
    world.child(Kind::Deployment, "demo-gateway")["spec"]["template"] = older;
    assert_eq!(go(&mut world), [], "it isn't tried again");
    assert_eq!(world.observed.cluster.status.clone().unwrap().upgrade, stopped);
}

#[test]
fn what_a_gateway_has_closed_before_is_not_the_new_sidecars_fault() {
    let mut world = World::settled(MINIMAL);
    world.faults = 5_000;
    world.change(|spec| spec.state.image = Some("new".to_owned()));
    let done = go(&mut world);
    assert!(!done.contains(&StepName::RestoreState), "{done:?}");
    // A gateway that begins anew with so many has done something wrong.
    world.change(|spec| spec.gateway.image = Some("new".to_owned()));
    assert!(go(&mut world).contains(&StepName::RestoreGateway));
}

#[test]
fn pods_of_a_stopped_upgrade_are_brought_back_also_with_handover_disabled() {
    let mut world = World::settled(MINIMAL);
    let uids = world.gateway_uids();
    world.change(|spec| {
        spec.state.image = Some("new".to_owned());
        spec.gateway.image = Some("silent".to_owned());
    });
    go(&mut world);
    assert!(world.gateway_images().iter().any(|(_, state)| state == "new"));
    world.change(|spec| {
        (spec.state.image, spec.gateway.image) = (None, None);
        spec.gateway.handover = Handover::Disabled;
    });
    go(&mut world);
    assert_eq!(world.gateway_images(), both("registry.example/imaccess:1"));
    assert_eq!(world.gateway_uids(), uids);
}

#[test]
fn renderings_that_are_lost_replace_no_pods_after_a_change_in_place_either() {
    let mut world = World::settled(MINIMAL);
    let uids = world.gateway_uids();
    world.change(|spec| spec.image = "new".to_owned());
    go(&mut world);
    let id = crate::observed::ChildId {
        kind: Kind::ConfigMap,
        name: "demo-rendered".to_owned(),
    };
    world.observed.children.remove(&id);
    go(&mut world);
    assert_eq!(world.gateway_uids(), uids);
}

#[test]
fn a_pod_without_a_node_holds_nothing_up() {
    let mut world = World::settled(MINIMAL);
    let mut pods = world.gateways();
    let pod = pods.remove(0);
    pod.spec.as_mut().unwrap().node_name = None;
    pod.status = Some(Default::default());
    world.change(|spec| spec.image = "new".to_owned());
    go(&mut world);
    assert_eq!(world.gateway_images(), both("new"));
    assert_eq!(world.observed.cluster.status.clone().unwrap().upgrade, None);
}

#[test]
fn a_rollout_and_changes_in_place_and_undo_and_scaling_replace_no_pod_more_than_once() {
    let mut world = World::settled(MINIMAL);
    world.change(|spec| {
        spec.image = "b".to_owned();
        spec.state.sidecar.ping_interval_seconds = 7;
    });
    go(&mut world);
    let uids = world.gateway_uids();
    for image in ["registry.example/imaccess:1", "c", "b", "c"] {
        world.change(|spec| spec.image = image.to_owned());
        go(&mut world);
        assert_eq!(world.gateway_uids(), uids, "{image}");
        assert_eq!(world.gateway_images(), both(image));
    }
    // `kubectl rollout undo` puts an older template there.
    let older = world.observed.replica_sets[0]["spec"]["template"].clone();
    let deployment = world.child(Kind::Deployment, "demo-gateway");
    assert_ne!(deployment["spec"]["template"], older);
    deployment["spec"]["template"] = older;
    let plan = world.plan();
    assert_eq!(steps(&plan), []);
    assert_eq!(plan.apply.len(), 1);
    world.carry_out(&plan);
    world.run_pods();
    assert_eq!(world.gateway_uids(), uids);
    go(&mut world);
    world.change(|spec| spec.gateway.replicas = 3);
    go(&mut world);
    assert_eq!(world.gateway_images(), vec![("c".to_owned(), "c".to_owned()); 3]);
    assert!(uids.iter().all(|uid| world.gateway_uids().contains(uid)));
}

#[test]
fn a_pod_that_comes_in_the_middle_is_upgraded_too() {
    let mut world = World::settled(MINIMAL);
    world.change(|spec| spec.image = "new".to_owned());
    loop {
        let plan = world.plan();
        world.carry_out(&plan);
        world.run_pods();
        world.advance(SignedDuration::from_secs(1));
        if steps(&plan).contains(&StepName::Record) {
            break;
        }
    }
    // The template isn't told yet: the third pod has the old images.
    world.change(|spec| spec.gateway.replicas = 3);
    let deployment = world.child(Kind::Deployment, "demo-gateway");
    deployment["spec"]["replicas"] = json!(3);
    world.run_pods();
    go(&mut world);
    assert_eq!(
        world.gateway_images(),
        vec![("new".to_owned(), "new".to_owned()); 3]
    );
}

#[test]
fn more_than_one_pod_goes_at_a_time_only_after_the_first() {
    let mut world = World::settled(MINIMAL);
    world.change(|spec| {
        spec.gateway.replicas = 4;
        spec.gateway.disruption.max_unavailable = 2;
    });
    world.settle();
    world.change(|spec| spec.gateway.image = Some("new".to_owned()));
    let mut at_once = Vec::new();
    for _ in 0..30 {
        let plan = world.plan();
        let begun = steps(&plan)
            .iter()
            .filter(|step| **step == StepName::ReplaceGateway)
            .count();
        at_once.extend((begun > 0).then_some(begun));
        world.carry_out(&plan);
        world.run_pods();
        world.advance(SignedDuration::from_secs(1));
    }
    assert_eq!(at_once, [1, 2, 1]);
}

/// The operator may die after any step, and what comes after it knows no more than the cluster.
#[test]
fn whoever_comes_after_any_step_brings_it_to_the_same_end() {
    let mut seen = BTreeSet::new();
    for image in ["new", "silent"] {
        let gateway_only = image != "new";
        for sides in [[true, true], [true, false], [false, true]] {
            if gateway_only && sides == [true, true] {
                continue;
            }
            for kill in 0.. {
                let mut world = World::settled(MINIMAL);
                let uids = world.gateway_uids();
                world.change(|spec| {
                    spec.gateway.image = sides[0].then(|| image.to_owned());
                    spec.state.image = sides[1].then(|| image.to_owned());
                });
                let (mut carried, mut idle) = (0, 0);
                while idle < 13 {
                    let mut plan = world.plan();
                    // Only one write, and not the status that would be written after it.
                    let names = steps(&plan);
                    let ends_here = !names.is_empty() && (carried..carried + names.len()).contains(&kill);
                    if ends_here {
                        seen.extend(names.get(kill - carried).copied());
                        let children = plan.apply.iter().filter(|child| child.step.is_some()).count();
                        if kill - carried < children {
                            plan.steps.clear();
                        } else {
                            plan.steps.truncate(kill - carried - children + 1);
                        }
                        plan.status = world.observed.cluster.status.clone().unwrap();
                    }
                    carried += names.len();
                    world.carry_out(&plan);
                    world.run_pods();
                    world.advance(SignedDuration::from_secs(5));
                    idle = if is_idle(&plan) { idle + 1 } else { 0 };
                }
                assert_eq!(
                    world.gateway_uids(),
                    uids,
                    "{image} {sides:?} killed after step {kill}"
                );
                let expected = |side: bool| {
                    if side && image == "new" {
                        "new".to_owned()
                    } else {
                        "registry.example/imaccess:1".to_owned()
                    }
                };
                let pair = (expected(sides[0]), expected(sides[1]));
                assert_eq!(
                    world.gateway_images(),
                    vec![pair.clone(), pair],
                    "{image} {sides:?} {kill}"
                );
                if kill >= carried {
                    // There was no such step: all have been tried.
                    break;
                }
                let deployment = world.child(Kind::Deployment, "demo-gateway");
                assert!(deployment["spec"]["paused"].is_null());
            }
        }
    }
    assert_eq!(seen, StepName::ALL.into_iter().collect());
}

#[test]
fn an_upgrade_waits_for_what_is_ending_of_a_rollout_before() {
    for component in ["state", "ipconfig"] {
        let mut world = World::settled(MINIMAL);
        let mut ending = world.gateways()[0].clone();
        ending.metadata.name = Some("demo-old".to_owned());
        ending.metadata.uid = Some("old".to_owned());
        let labels = ending.metadata.labels.as_mut().unwrap();
        labels.insert("app.kubernetes.io/component".to_owned(), component.to_owned());
        let until = world.now + SignedDuration::from_secs(25);
        ending.metadata.deletion_timestamp = Some(Time(until));
        world.change(|spec| spec.image = "new".to_owned());
        for _ in 0..3 {
            // Those that run the world's pods take it away at once.
            world.observed.pods.push(ending.clone());
            let plan = world.plan();
            assert_eq!(steps(&plan), [], "{component}");
            world.carry_out(&plan);
            world.run_pods();
        }
        world.observed.pods.push(ending);
        let said = world.plan().status.upgrade.unwrap().message.unwrap();
        assert!(said.contains("demo-old"), "{said}");
        // It should be gone by now: its node may be lost.
        world.advance(SignedDuration::from_secs(26));
        assert!(go(&mut world).contains(&StepName::ReplaceState), "{component}");
    }
}

#[test]
fn the_first_container_waits_until_the_preflight_is_put_away() {
    let mut world = World::settled(MINIMAL);
    world.change(|spec| spec.image = "new".to_owned());
    let plan = world.plan();
    assert_eq!(steps(&plan), [StepName::Preflight, StepName::Preflight]);
    let ended = world.now;
    world.carry_out(&plan);
    world.run_pods();
    let plan = loop {
        let plan = world.plan();
        let upgrade = plan.status.upgrade.clone().unwrap();
        if upgrade.phase != UpgradePhase::Preflight {
            break plan;
        }
        assert_eq!(steps(&plan), []);
        assert!(upgrade.message.unwrap().contains("put away"));
        // Exactly when it is over.
        let pause = SignedDuration::try_from(plan.look_again.unwrap()).unwrap();
        world.carry_out(&plan);
        world.advance(pause);
    };
    // Times of ends are in whole seconds.
    let waited = world.now.duration_since(ended).as_secs_f64();
    assert!((2.0..=3.0).contains(&waited), "{waited} s");
    assert_eq!(steps(&plan), [StepName::ReplaceState]);
    // A node whose clock is ahead holds nothing up.
    let mut world = World::settled(MINIMAL);
    world.change(|spec| spec.image = "new".to_owned());
    let plan = world.plan();
    world.advance(SignedDuration::from_hours(1));
    world.carry_out(&plan);
    world.advance(SignedDuration::from_hours(-1));
    assert_eq!(steps(&world.plan()), [StepName::ReplaceState]);
}

#[test]
fn the_preflight_asks_for_no_more_than_gateways_do() {
    let resources = |world: &World| {
        let plan = world.plan();
        let pod = plan.steps.iter().find_map(|step| match step {
            crate::plan::Step::Preflight { pod } => Some(pod.clone()),
            _ => None,
        });
        pod.unwrap()["spec"]["containers"][0]["resources"].clone()
    };
    let mut world = World::settled(MINIMAL);
    world.change(|spec| spec.image = "new".to_owned());
    assert_eq!(resources(&world), json!(null));

    let ask = |world: &mut World, name: &str| {
        let name = name.to_owned();
        world.change(|spec| {
            spec.state
                .sidecar
                .resources
                .requests
                .insert(name, Quantity("1".to_owned()));
        });
        go(world);
        world.change(|spec| spec.image = "new".to_owned());
    };
    let mut world = World::settled(MINIMAL);
    ask(&mut world, "memory");
    assert_eq!(
        resources(&world),
        json!({"requests": {"memory": "16Mi"}, "limits": {"memory": "128Mi"}})
    );
    let mut world = World::settled(MINIMAL);
    ask(&mut world, "cpu");
    assert_eq!(
        resources(&world)["requests"],
        json!({"cpu": "10m", "memory": "16Mi"})
    );
}
