//! The promised behaviours, one module each.

mod away;
mod bad_binary;
mod bad_businesses;
mod bench_capacity;
mod bench_cpu;
mod bench_idle;
mod beside;
mod clean_checkout;
mod dead_parts;
mod five_steps;
mod fuzz;
mod hanging_business;
mod hostile_clients;
mod killed;
mod kubernetes;
mod metrics_pages;
mod multicast;
mod openapi;
mod planned;
mod push_kinds;
mod quickstart;
mod verdict;
mod witness;

use std::pin::Pin;

use anyhow::{Result, bail};

use crate::report::{Report, Size};

/// A scenario by its name, and what it shows.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// As given to `cargo xtask accept`.
    pub name: &'static str,
    /// What holds if it passes.
    pub shows: &'static str,
}

/// All scenarios, quick ones first.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "quickstart",
        shows: "up prints addresses, ready, and commands that work as printed",
    },
    Scenario {
        name: "metrics-pages",
        shows: "every part's metrics page passes promtool",
    },
    Scenario {
        name: "hanging-business",
        shows: "200 requests that hang in one business leave another's p99 within 1.5 x",
    },
    Scenario {
        name: "push-kinds",
        shows: "pushes to one, to 10,000 from a file, to a group, to all by a filter: each device's answer, and each device, is right",
    },
    Scenario {
        name: "openapi",
        shows: "the push API's document passes a validator, and the API a property-based fuzzer that reads it",
    },
    Scenario {
        name: "bad-businesses",
        shows: "one business hangs, one errs, one is slow, one restarts: the others' p99 within 1.5 x; calls to them end fast; events all come",
    },
    Scenario {
        name: "dead-routing-and-state",
        shows: "kill -9 of routing and of state closes no connection; pushes meanwhile answer retry; sessions back in 10 s",
    },
    Scenario {
        name: "hostile-clients",
        shows: "garbage, floods and stalls get their close code and counter; a good client's p99 stays within 1.5 x",
    },
    Scenario {
        name: "witness",
        shows: "15,000 connections, 1,000 requests a second, pushes and connects: nothing is lost while nothing changes",
    },
    Scenario {
        name: "upgrade-gateway-and-state",
        shows: "ten upgrades of each under 15,000 connections: 0 closed, refused, lost or doubled; p99 of the stall in 0.2 s",
    },
    Scenario {
        name: "kill-gateway-and-state",
        shows: "kill -9 of each 20 times: at most 0.5 % closed, each with a code and resumed; nobody wrongly offline",
    },
    Scenario {
        name: "state-away",
        shows: "a minute without state: no connection closed, pings answered, every request told to be repeated",
    },
    Scenario {
        name: "gateway-away",
        shows: "without a gateway, listeners are closed after 10 s and sockets after 90 s, and nothing is left",
    },
    Scenario {
        name: "hundred-upgrades",
        shows: "memory, descriptors and what is held stay the same over a hundred upgrades",
    },
    Scenario {
        name: "bad-binary",
        shows: "an upgrade to a binary that can't do says why, and the old one is back with all connections",
    },
    Scenario {
        name: "shards-change",
        shows: "from 2 to 1 to 3 shards under load: nothing closed, reset, lost or doubled",
    },
    Scenario {
        name: "ipconfig",
        shows: "50,000 answers a second and core with 1,000 endpoints",
    },
    Scenario {
        name: "login",
        shows: "10,000 resumed and 5,000 first logins a second and core",
    },
    Scenario {
        name: "echo",
        shows: "gateway + state CPU per message within 3 x a bare epoll echo",
    },
    Scenario {
        name: "fanout",
        shows: "nothing lost; CPU per delivery within 1.3 x bare, gathered within 2 x",
    },
    Scenario {
        name: "group-beside-unicasts",
        shows: "pushes to 15,000 members at 40 % of bare add at most 5 ms to unicasts' p99; at twice bare, drops are counted",
    },
    Scenario {
        name: "broadcast-beside-unicasts",
        shows: "the same for broadcasts to everybody",
    },
    Scenario {
        name: "group-memory",
        shows: "16 B of gateway memory per member of a group",
    },
    Scenario {
        name: "multicast-messages",
        shows: "a push to many is one message to each of four sidecars, one to each shard, one to each member",
    },
    Scenario {
        name: "idle",
        shows: "320 B of gateway and 384 B of state memory per idle connection",
    },
    Scenario {
        name: "capacity",
        shows: "50,000 connections, 500 bytes a minute each, echoed; a plain client is served too",
    },
    Scenario {
        name: "fuzz",
        shows: "60 s of every fuzz target find nothing",
    },
    Scenario {
        name: "five-steps",
        shows: "docs/first-business.md, command by command: by HTTP, in Rust, in Python",
    },
    Scenario {
        name: "clean-checkout",
        shows: "cargo xtask test is green in a fresh clone",
    },
    Scenario {
        name: "k8s-bad-spec",
        shows: "the API server refuses bad specifications, each with a sentence that says what to do",
    },
    Scenario {
        name: "k8s-chart",
        shows: "helm lint and test; everything rendered, and every example, passes a strict dry run on the server",
    },
    Scenario {
        name: "k8s-idle",
        shows: "an idle minute: the operator writes its lease and nothing else, all objects stand still",
    },
    Scenario {
        name: "k8s-repair",
        shows: "every child, deleted or edited by hand, is repaired in 5 s; a deleted cluster leaves nothing",
    },
    Scenario {
        name: "k8s-scale",
        shows: "kubectl scale and an autoscaler set the custom resource; a rollout restart isn't reverted",
    },
    Scenario {
        name: "k8s-operator-killed",
        shows: "the operator killed in the middle of an install and of a rollout: the next one finishes",
    },
    Scenario {
        name: "k8s-two-operators",
        shows: "one leads; killed, the other acts within 20 s; stopped beyond its lease, it lands no write",
    },
    Scenario {
        name: "k8s-operator-version",
        shows: "another operator replaces no pod; helm upgrade brings the definition's new fields",
    },
    Scenario {
        name: "k8s-rights",
        shows: "rights in one namespace suffice, and there are none elsewhere; restricted Pod Security accepts all",
    },
    Scenario {
        name: "k8s-quickstart",
        shows: "from nothing to serving as README says, a call and a group push from outside the pods included",
    },
    Scenario {
        name: "k8s-businesses",
        shows: "a business added to the specification is served in 10 s, and no container is restarted for it",
    },
    Scenario {
        name: "k8s-mesh",
        shows: "without a certificate of the cluster nobody pushes, hears routes or asks for a handover",
    },
    Scenario {
        name: "k8s-drain",
        shows: "scale-in and node drain move 1,000 clients at the drain's pace: no reset, no offline event, within the grace",
    },
    Scenario {
        name: "k8s-lost-node",
        shows: "a lost node's clients are back elsewhere; who can't be is offline after 130 s, not before",
    },
    Scenario {
        name: "k8s-scoring",
        shows: "20 MB/s put a gateway last within 7 s, and back in as many; a second of it moves nobody",
    },
    Scenario {
        name: "k8s-scoring-prometheus",
        shows: "the same by a Prometheus server that scrapes the pods",
    },
    Scenario {
        name: "k8s-witness",
        shows: "10,000 connections on two gateway pods, requests, pushes and connects: nothing is lost while nothing changes",
    },
    Scenario {
        name: "k8s-upgrade",
        shows: "images changed in every way under 10,000 connections: 0 closed, refused or lost, every pod stays",
    },
    Scenario {
        name: "k8s-upgrade-order",
        shows: "replacement, upgrades in place, undo and scaling in turn: no upgrade in place replaces a pod",
    },
    Scenario {
        name: "k8s-upgrade-refused",
        shows: "images that go wrong stop an upgrade before the first pod or at it, and all connections stay",
    },
    Scenario {
        name: "k8s-upgrade-operator-killed",
        shows: "the operator killed after every step of an upgrade: the next one finishes, nobody notices",
    },
    Scenario {
        name: "k8s-ten-upgrades",
        shows: "ten upgrades to ten binaries: memory, descriptors and what is held stay the same",
    },
    Scenario {
        name: "k8s-containers-killed",
        shows: "kill -9 of each container of gateway pods: closed is only who was in mid-frame; nobody wrongly offline",
    },
];

/// Whether state holds the clients' sockets beside the gateway. What has to do with connections holds either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Custody {
    /// As `up --processes` starts it.
    On,
    /// With `--no-custody`, in the scenarios that run both ways; the others are as they are.
    Off,
}

/// Runs one scenario.
///
/// # Errors
/// When it can't be run to its end, or something that must hold at every size didn't. A limit that wasn't held
/// is in the report.
pub fn run(name: &str, size: Size, seed: u64) -> Pin<Box<dyn Future<Output = Result<Report>> + '_>> {
    // Boxed here, or every program that awaits it would compile all scenarios once more.
    Box::pin(run_with(name, size, seed, Custody::On))
}

async fn run_with(name: &str, size: Size, seed: u64, custody: Custody) -> Result<Report> {
    match name {
        "quickstart" => quickstart::run(size, seed).await,
        "metrics-pages" => metrics_pages::run(size, seed).await,
        "hanging-business" => hanging_business::run(size, seed, custody).await,
        "push-kinds" => push_kinds::run(size, seed).await,
        "openapi" => openapi::run(size, seed).await,
        "bad-businesses" => bad_businesses::run(size, seed).await,
        "dead-routing-and-state" => dead_parts::run(size, seed, custody).await,
        "hostile-clients" => hostile_clients::run(size, seed, custody).await,
        "witness" => witness::run(size, seed).await,
        "upgrade-gateway-and-state" => planned::upgrade_gateway_and_state(size, seed).await,
        "kill-gateway-and-state" => killed::run(size, seed).await,
        "state-away" => away::state(size, seed).await,
        "gateway-away" => away::gateway(size, seed).await,
        "hundred-upgrades" => planned::hundred_upgrades(size, seed).await,
        "bad-binary" => bad_binary::run(size, seed).await,
        "shards-change" => planned::shards_change(size, seed).await,
        "ipconfig" => bench_cpu::ipconfig(size, seed).await,
        "login" => bench_cpu::login(size, seed).await,
        "echo" => bench_cpu::echo(size, seed).await,
        "fanout" => bench_cpu::fanout(size, seed).await,
        "group-beside-unicasts" => beside::group(size, seed).await,
        "broadcast-beside-unicasts" => beside::broadcast(size, seed).await,
        "group-memory" => beside::memory(size, seed).await,
        "multicast-messages" => multicast::run(size, seed).await,
        "idle" => bench_idle::run(size, seed).await,
        "capacity" => bench_capacity::run(size, seed).await,
        "fuzz" => fuzz::run(size, seed).await,
        "five-steps" => five_steps::run(size, seed).await,
        "clean-checkout" => clean_checkout::run(size, seed).await,
        other if other.starts_with("k8s-") => kubernetes::run(other, size, seed).await,
        other => bail!("no scenario is named {other}; `cargo xtask accept --list` names them"),
    }
}

/// Runs one scenario as a test: small, with a seed that is printed, and a failure for every limit not held.
///
/// # Panics
/// When the scenario fails: this is a test's body.
pub fn run_as_test(name: &str) {
    run_as_test_with(name, Custody::On);
}

/// As [`run_as_test`], for a scenario that runs both ways.
///
/// # Panics
/// When the scenario fails: this is a test's body.
pub fn run_as_test_with(name: &str, custody: Custody) {
    let seed = fastrand::u64(..);
    println!(
        "seed {seed}, custody {custody:?}: `cargo xtask accept {name} --small --seed {seed}` repeats it"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let report =
        runtime
            .expect("a runtime for the test")
            .block_on(run_with(name, Size::Small, seed, custody));
    match report {
        Ok(report) => {
            println!("{}", report.table());
            assert!(report.passed, "a limit of {name} was not held, see above");
        }
        Err(error) => panic!("{name}: {error:#}"),
    }
}
