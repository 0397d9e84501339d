//! The table against a naive model, and its size.

use std::collections::HashMap;
use std::time::Instant;

use imaccess_common::process::ProcessSample;
use proptest::prelude::*;

use super::super::key::Keyer;
use super::*;

const INSTANCES: u32 = 4;

/// Instance `i` has the rank `rank(i)` among equals, so that ranks differ from indices.
fn rank(instance: u32) -> u64 {
    u64::from((instance + 2) % INSTANCES)
}

fn route(instance: u32, epoch: u64) -> Route {
    Route {
        session: SessionId([u8::try_from(epoch).unwrap(); 16]),
        serial: epoch * 3,
        epoch: Epoch(epoch),
        locator: epoch * 7,
        instance: InstanceIndex(instance),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Announce { device: u8, instance: u32, epoch: u64 },
    Retract { device: u8, instance: u32, epoch: u64 },
    Restart { instance: u32, repeated: Vec<(u8, u64)> },
    Forget { instance: u32 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (device, instance, epoch) = (0..12u8, 0..INSTANCES, 1..9u64);
    let step = prop_oneof![
        8 => (device.clone(), instance.clone(), epoch.clone())
            .prop_map(|(device, instance, epoch)| Step::Announce { device, instance, epoch }),
        3 => (device.clone(), instance.clone(), epoch.clone())
            .prop_map(|(device, instance, epoch)| Step::Retract { device, instance, epoch }),
        1 => (instance.clone(), prop::collection::vec((device, epoch), 0..6))
            .prop_map(|(instance, repeated)| Step::Restart { instance, repeated }),
        1 => instance.prop_map(|instance| Step::Forget { instance }),
    ];
    prop::collection::vec(step, 1..200)
}

/// The same in the plainest way: a map, scanned at need.
#[derive(Default)]
struct Model {
    held: HashMap<u8, (Route, u32)>,
    generations: HashMap<u32, u32>,
}

impl Model {
    fn announce(&mut self, device: u8, new: Route) -> Verdict {
        let generation = *self.generations.entry(new.instance.0).or_insert(1);
        let verdict = match self.held.get(&device) {
            None => Verdict::Applied,
            Some((held, said)) if held.instance == new.instance => {
                match *said == generation && held.epoch > new.epoch {
                    true => Verdict::Outranked { winner: *held },
                    false => Verdict::Applied,
                }
            }
            Some((held, _)) if (held.epoch, rank(held.instance.0)) > (new.epoch, rank(new.instance.0)) => {
                Verdict::Outranked { winner: *held }
            }
            Some((held, _)) => Verdict::Replaced { loser: *held },
        };
        if !matches!(verdict, Verdict::Outranked { .. }) {
            self.held.insert(device, (new, generation));
        }
        verdict
    }
}

proptest! {
    #[test]
    fn behaves_as_a_naive_map(steps in steps()) {
        let keyer = Keyer::random();
        let key = |device: u8| keyer.device("app", &device.to_string());
        let mut table = RouteTable::new();
        let mut model = Model::default();
        for instance in 0..INSTANCES {
            table.begin(InstanceIndex(instance), rank(instance));
        }
        for step in steps {
            match step {
                Step::Announce { device, instance, epoch } => {
                    let new = route(instance, epoch);
                    prop_assert_eq!(table.apply(key(device), ("app", &device.to_string()), new), Some(model.announce(device, new)));
                }
                Step::Retract { device, instance, epoch } => {
                    let goes = model.held.get(&device)
                        .is_some_and(|(held, _)| held.instance.0 == instance && held.epoch.0 <= epoch);
                    if goes {
                        model.held.remove(&device);
                    }
                    prop_assert_eq!(table.retract(key(device), InstanceIndex(instance), Epoch(epoch)), goes);
                }
                Step::Restart { instance, repeated } => {
                    table.begin(InstanceIndex(instance), rank(instance));
                    let generation = model.generations.entry(instance).or_insert(1);
                    *generation += 1;
                    let generation = *generation;
                    for (device, epoch) in repeated {
                        let new = route(instance, epoch);
                        prop_assert_eq!(table.apply(key(device), ("app", &device.to_string()), new), Some(model.announce(device, new)));
                    }
                    while table.drop_stale(InstanceIndex(instance), 2, None) {}
                    model.held.retain(|_, (held, said)| held.instance.0 != instance || *said == generation);
                }
                Step::Forget { instance } => {
                    table.begin(InstanceIndex(instance), 0);
                    let mut lost = Vec::new();
                    while table.drop_stale(InstanceIndex(instance), 3, Some(&mut lost)) {}
                    let mut lost: Vec<_> = lost.into_iter().map(|route| (route.device, route.epoch)).collect();
                    lost.sort();
                    let held = model.held.iter().filter(|(_, (held, _))| held.instance.0 == instance);
                    let mut expected: Vec<_> = held.map(|(device, (held, _))| (device.to_string(), held.epoch)).collect();
                    expected.sort();
                    prop_assert_eq!(lost, expected, "what is lost is named");
                    table.release(InstanceIndex(instance));
                    model.held.retain(|_, (held, _)| held.instance.0 != instance);
                    model.generations.remove(&instance);
                    table.begin(InstanceIndex(instance), rank(instance));
                }
            }
            prop_assert_eq!(table.len(), model.held.len());
            for device in 0..12 {
                prop_assert_eq!(table.get(key(device)), model.held.get(&device).map(|(held, _)| *held));
            }
        }
    }
}

#[test]
fn an_instance_that_never_began_is_not_heard() {
    let keyer = Keyer::random();
    let mut table = RouteTable::new();
    assert_eq!(table.apply(keyer.device("a", "d"), ("a", "d"), route(3, 1)), None);
    assert_eq!(table.len(), 0);
}

/// Ten million devices are promised a gigabyte: at most 128 bytes each, all included.
#[test]
fn a_million_routes_fit_their_budget() {
    const ROUTES: u64 = 1_000_000;
    assert_eq!(size_of::<Entry>(), 72);
    let keyer = Keyer::random();
    let user_bytes = || ProcessSample::of(std::process::id()).unwrap().user_bytes;
    let before = user_bytes();
    let mut table = RouteTable::new();
    for instance in 0..10 {
        table.begin(InstanceIndex(instance), rank(instance));
    }
    let name = |number: u64| format!("{number:032x}");
    let per_second = |what: &str, work: &mut dyn FnMut(u64)| {
        let start = Instant::now();
        (0..ROUTES).for_each(&mut *work);
        println!(
            "{what}: {:.2} M/s",
            ROUTES as f64 / start.elapsed().as_secs_f64() / 1e6
        );
    };
    per_second("names alone", &mut |number| {
        drop(std::hint::black_box(name(number)));
    });
    per_second("announce", &mut |number| {
        let new = route(u32::try_from(number % 10).unwrap(), 1);
        assert_eq!(
            table.apply(keyer.device("app", &name(number)), ("app", &name(number)), new),
            Some(Verdict::Applied)
        );
    });
    let each = table.bytes() as f64 / ROUTES as f64;
    // Other tests of this process are in the second figure: the first is what is held to the budget.
    let seen = user_bytes().saturating_sub(before) as f64 / ROUTES as f64;
    println!("user memory: {each:.1} B per route; by the process's map {seen:.1} B");
    per_second("look up", &mut |number| {
        assert!(table.get(keyer.device("app", &name(number))).is_some());
    });
    per_second("replace", &mut |number| {
        let new = route(u32::try_from((number + 1) % 10).unwrap(), 2);
        let verdict = table.apply(keyer.device("app", &name(number)), ("app", &name(number)), new);
        assert!(matches!(verdict, Some(Verdict::Replaced { .. })));
    });
    table.begin(InstanceIndex(0), rank(0));
    let start = Instant::now();
    while table.drop_stale(InstanceIndex(0), 512, None) {}
    println!("dropped 100,000 of an instance in {:?}", start.elapsed());
    assert_eq!(table.len() as u64, ROUTES / 10 * 9);
    assert!(each <= 128.0, "{each} B per route");
}
