//! Whatever is specified, and whatever it is changed to: plans come to rest, no two pods have one slot, and only our kinds are
//! written.

use std::collections::BTreeSet;

use imaccess_operator_api::ImAccessClusterSpec;
use imaccess_operator_api::cluster::SecretName;
use imaccess_operator_api::gateway::{Autoscaling, ExposureType, Listener, Protocol};
use imaccess_operator_api::options::{PodMonitorSpec, Spread};
use imaccess_operator_api::quantity::Quantity;
use proptest::prelude::*;
use serde_json::json;

use super::world::{MINIMAL, World, is_idle, slots};

/// Rounds until nothing is left to do: the authority; what it signs, and pods; what pods are told.
const ROUNDS_OF_CREATION: usize = 3;
/// Of a change: new keys; pods of the new template, marks of those that go; what the new ones are told, the reduction; what is
/// left over.
const ROUNDS_OF_CHANGE: usize = 5;

fn specs() -> impl Strategy<Value = ImAccessClusterSpec> {
    let exposures = prop_oneof![
        Just(ExposureType::PodIP),
        Just(ExposureType::HostPort),
        Just(ExposureType::NodePort),
        Just(ExposureType::LoadBalancer),
    ];
    let spreads = prop_oneof![
        Just(Spread::Preferred),
        Just(Spread::Required),
        Just(Spread::None)
    ];
    let ports = prop::collection::btree_set(2_000_i32..9_000, 1..4);
    let memory = prop::option::of(32_u32..4_096);
    let counts = (0..6_i32, 0..4_i32, 0..4_i32, 0..4_i32);
    let flags = prop::array::uniform6(any::<bool>());
    (exposures, spreads, ports, memory, counts, flags, "[a-c]").prop_map(
        |(exposure, spread, ports, memory, (gateways, state, ipconfig, businesses), flags, image)| {
            let [autoscaling, monitoring, network, tokens, tickets, host] = flags;
            let mut spec = ImAccessClusterSpec::new(&image);
            spec.gateway.replicas = gateways;
            spec.state.replicas = state;
            spec.ipconfig.replicas = ipconfig;
            spec.gateway.exposure.kind = exposure;
            spec.gateway.exposure.host = host.then(|| "gateway-{slot}.example".to_owned());
            spec.gateway.scheduling.spread = spread;
            spec.gateway.listeners = ports
                .into_iter()
                .map(|port| Listener {
                    name: format!("p{port}"),
                    protocol: Protocol::Tcp,
                    port,
                })
                .collect();
            if let Some(memory) = memory {
                let limits = &mut spec.gateway.resources.limits;
                limits.insert("memory".to_owned(), Quantity(format!("{memory}Mi")));
            }
            spec.gateway.autoscaling = autoscaling.then_some(Autoscaling {
                min_replicas: 1,
                max_replicas: 9,
                connections_per_pod: Some(1_000),
                bandwidth_per_pod: None,
                cpu_percent: None,
            });
            let monitor = PodMonitorSpec {
                labels: Default::default(),
                interval_seconds: 5,
            };
            spec.monitoring.pod_monitor = monitoring.then_some(monitor);
            spec.network_policy.enabled = network;
            spec.auth.token_keys_secret = tokens.then(|| SecretName {
                name: "issuers".to_owned(),
            });
            spec.auth.ticket_keys_secret = tickets.then(|| SecretName {
                name: "keys".to_owned(),
            });
            spec.businesses = (1..=businesses)
                .map(|id| {
                    let endpoint = format!("http://b{id}:1000");
                    serde_json::from_value(json!({"id": id, "name": format!("b{id}"), "endpoint": endpoint}))
                        .unwrap()
                })
                .collect();
            spec
        },
    )
}

/// Carries plans out until one has nothing to write; how many had.
fn rounds(world: &mut World) -> usize {
    for round in 0.. {
        let plan = world.plan();
        assert!(round < 20, "no end: {plan:#?}");
        let idle = is_idle(&plan);
        world.carry_out(&plan);
        let mut seen = BTreeSet::new();
        for slot in slots(world).into_iter().flatten() {
            assert!(seen.insert(slot.clone()), "two pods have the slot {slot}");
        }
        world.run_pods();
        if idle && is_idle(&world.plan()) {
            assert_eq!(
                world.plan().status,
                world.observed.cluster.status.clone().unwrap()
            );
            return round;
        }
    }
    unreachable!("it counts for ever");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn plans_come_to_rest(first in specs(), second in specs()) {
        let mut world = World::new(MINIMAL);
        world.users_secret("issuers", &["2026.pem"]);
        world.users_secret("keys", &["tickets"]);
        world.change(|spec| *spec = first);
        prop_assert!(rounds(&mut world) <= ROUNDS_OF_CREATION);
        prop_assert_eq!(&world.plan().status.conditions[0].status, "True");
        world.change(|spec| *spec = second);
        prop_assert!(rounds(&mut world) <= ROUNDS_OF_CHANGE);
        prop_assert_eq!(&world.plan().status.conditions[0].status, "True");
        let wanted = usize::try_from(world.observed.cluster.spec.gateway.replicas).unwrap();
        prop_assert_eq!(slots(&mut world).into_iter().flatten().count(), wanted);
    }
}
