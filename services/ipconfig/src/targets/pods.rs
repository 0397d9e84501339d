//! The list as the pods of a Kubernetes cluster: [`PodRules`] (pure) says which pod is which gateway.
//!
//! A pod is listed when it is known where clients reach it: by its annotation, which the operator writes, or at its own
//! address. Whether it is ready isn't asked: what can be scraped and isn't draining is listed. A terminating pod counts
//! as draining from that moment on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use imaccess_pods::{Pod, PodWatch, Pods};
use serde::Deserialize;

use super::{EndpointTarget, GatewayTarget, validate, validate_endpoints};
use crate::config::{PodListener, PodsConfig};

/// The pod's annotation that says where clients reach it: `[{"protocol": "tcp", "host": "203.0.113.5", "port": 30001}]`.
const ENDPOINTS: &str = "imaccess.io/endpoints";

/// Which pod is which gateway.
#[derive(Debug, Clone)]
pub(crate) struct PodRules {
    metrics_port: u16,
    listeners: Vec<PodListener>,
    annotated_only: bool,
}

/// What the rules make of the pods.
#[derive(Debug, Default, PartialEq)]
struct Listing {
    gateways: Vec<GatewayTarget>,
    /// Pods whose endpoints aren't known yet.
    waiting: usize,
    /// What is wrong with whose annotation.
    malformed: BTreeMap<String, String>,
}

/// How many pods are what, and how their watch is doing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct PodCounts {
    /// Pods among the gateways.
    pub(crate) listed: usize,
    /// Pods whose endpoints aren't known yet.
    pub(crate) waiting: usize,
    /// Pods whose annotation can't be understood.
    pub(crate) malformed: usize,
    /// Annotations that couldn't be understood, since the start.
    pub(crate) annotation_faults: u64,
    /// Failed lists and watches, since the start.
    pub(crate) watch_faults: u64,
    /// For how long the API server hasn't answered well.
    pub(crate) down_for: Duration,
}

/// The pods of a watch as a list of gateways.
#[derive(Debug)]
pub(crate) struct PodTargets {
    watch: PodWatch,
    rules: PodRules,
    seen: Option<Arc<Pods>>,
    counts: PodCounts,
    malformed: BTreeMap<String, String>,
}

/// An endpoint as the annotation has it; what else a newer writer says of it is skipped.
#[derive(Deserialize)]
struct AnnotatedEndpoint {
    protocol: String,
    host: String,
    port: u16,
    server_name: Option<String>,
}

impl PodTargets {
    /// The pods that `watch` sees.
    pub(crate) fn new(watch: PodWatch, rules: PodRules) -> PodTargets {
        PodTargets {
            watch,
            rules,
            seen: None,
            counts: PodCounts::default(),
            malformed: BTreeMap::new(),
        }
    }

    /// Waits for another snapshot.
    pub(super) async fn changed(&mut self) {
        self.watch.changed().await;
    }

    /// The list that the latest snapshot says, if there is a new one.
    pub(super) fn refresh(&mut self) -> Option<Result<Vec<GatewayTarget>, String>> {
        let pods = self.watch.latest()?;
        if self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &pods)) {
            return None;
        }
        let listing = self.rules.listing(&pods);
        self.seen = Some(pods);
        for (pod, fault) in &listing.malformed {
            if self.malformed.get(pod) != Some(fault) {
                self.counts.annotation_faults += 1;
                tracing::warn!(
                    pod,
                    fault,
                    "the pod's annotation {ENDPOINTS} can't be used; it isn't listed"
                );
            }
        }
        self.malformed = listing.malformed;
        self.counts.listed = listing.gateways.len();
        self.counts.waiting = listing.waiting;
        self.counts.malformed = self.malformed.len();
        Some(validate(&listing.gateways).map(|()| listing.gateways))
    }

    /// How many are what.
    pub(super) fn counts(&self) -> PodCounts {
        let health = self.watch.health();
        PodCounts {
            watch_faults: health.faults(),
            down_for: health.down_for().unwrap_or_default(),
            ..self.counts
        }
    }
}

impl PodRules {
    /// The rules that the configuration says.
    pub(crate) fn new(config: &PodsConfig) -> PodRules {
        PodRules {
            metrics_port: config.metrics_port,
            listeners: config.listeners.clone(),
            annotated_only: config.annotated_only,
        }
    }

    fn listing(&self, pods: &Pods) -> Listing {
        let mut listing = Listing::default();
        for pod in pods.iter() {
            match self.endpoints(pod) {
                Ok(Some(endpoints)) => listing.gateways.push(GatewayTarget {
                    name: pod.name.clone(),
                    metrics: SocketAddr::new(pod.ip, self.metrics_port).to_string(),
                    endpoints,
                    draining: pod.terminating,
                }),
                Ok(None) => listing.waiting += 1,
                Err(fault) => {
                    listing.malformed.insert(pod.name.clone(), fault);
                }
            }
        }
        listing
    }

    /// Where clients reach the pod; none while that isn't known. An error says what is wrong with its annotation.
    fn endpoints(&self, pod: &Pod) -> Result<Option<Vec<EndpointTarget>>, String> {
        let Some(annotation) = pod.annotations.get(ENDPOINTS) else {
            let at_its_address = |listener: &PodListener| EndpointTarget {
                protocol: listener.protocol.clone(),
                host: pod.ip.to_string(),
                port: listener.port,
                server_name: None,
            };
            let known = !self.annotated_only;
            return Ok(known.then(|| self.listeners.iter().map(at_its_address).collect()));
        };
        let annotated: Vec<AnnotatedEndpoint> =
            serde_json::from_str(annotation).map_err(|fault| fault.to_string())?;
        if annotated.is_empty() {
            return Ok(None);
        }
        let endpoints = annotated.into_iter().map(|endpoint| EndpointTarget {
            protocol: endpoint.protocol,
            host: endpoint.host,
            port: endpoint.port,
            server_name: endpoint.server_name,
        });
        let endpoints: Vec<_> = endpoints.collect();
        validate_endpoints(&endpoints)?;
        Ok(Some(endpoints))
    }
}

#[cfg(test)]
mod tests {
    use imaccess_pods::Phase;
    use tokio::sync::watch;

    use super::*;
    use crate::targets::{Change, Targets};

    fn rules(annotated_only: bool) -> PodRules {
        let listener = |protocol: &str, port| PodListener {
            protocol: protocol.to_owned(),
            port,
        };
        PodRules {
            metrics_port: 9_300,
            listeners: vec![listener("tcp", 7_000), listener("ws", 7_001)],
            annotated_only,
        }
    }

    fn pod(name: &str, annotation: Option<&str>) -> Pod {
        Pod {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            ip: "10.0.0.1".parse().unwrap(),
            node: String::new(),
            host_ip: None,
            labels: BTreeMap::new(),
            annotations: annotation
                .map(|text| (ENDPOINTS.to_owned(), text.to_owned()))
                .into_iter()
                .collect(),
            ready: false,
            terminating: false,
            phase: Phase::Running,
        }
    }

    fn listing(rules: &PodRules, pods: Vec<Pod>) -> Listing {
        rules.listing(&Pods::from_iter(pods))
    }

    #[test]
    fn a_pod_is_reached_at_its_own_address_unless_its_annotation_says_otherwise() {
        let annotation = r#"[{"protocol": "tcp", "host": "203.0.113.5", "port": 30001, "weight": 7}]"#;
        let six = Pod {
            ip: "fd00::1".parse().unwrap(),
            ..pod("b", None)
        };
        let found = listing(&rules(false), vec![pod("a", Some(annotation)), six]);
        let shown: Vec<_> = found
            .gateways
            .iter()
            .map(|gateway| {
                let ends = gateway
                    .endpoints
                    .iter()
                    .map(|end| format!("{}|{}|{}", end.protocol, end.host, end.port));
                format!(
                    "{} {} {}",
                    gateway.name,
                    gateway.metrics,
                    ends.collect::<Vec<_>>().join(" ")
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "a 10.0.0.1:9300 tcp|203.0.113.5|30001",
                "b [fd00::1]:9300 tcp|fd00::1|7000 ws|fd00::1|7001",
            ]
        );
        assert_eq!(validate(&found.gateways), Ok(()));
    }

    #[test]
    fn without_its_annotation_a_pod_waits_where_its_own_address_is_of_no_use() {
        let found = listing(&rules(true), vec![pod("a", None), pod("b", Some("[]"))]);
        assert_eq!((found.gateways.len(), found.waiting), (0, 2));
        assert!(found.malformed.is_empty());
    }

    #[test]
    fn a_malformed_annotation_leaves_its_pod_out() {
        let many = format!(
            "[{}]",
            [r#"{"protocol": "tcp", "host": "h", "port": 1}"#; 9].join(",")
        );
        let bad = [
            "",
            "{",
            "{}",
            "[1]",
            r#"[{"protocol": "tcp", "host": "h"}]"#,
            r#"[{"protocol": "tcp", "host": "h", "port": 65536}]"#,
            r#"[{"protocol": "tcp", "host": "h", "port": 0}]"#,
            r#"[{"protocol": "", "host": "h", "port": 1}]"#,
            r#"[{"protocol": "tcp", "host": "", "port": 1}]"#,
            &many,
        ];
        for annotation in bad {
            let found = listing(&rules(false), vec![pod("a", Some(annotation)), pod("b", None)]);
            let names: Vec<_> = found.gateways.iter().map(|gateway| &gateway.name).collect();
            assert_eq!(names, ["b"], "{annotation}");
            assert!(!found.malformed["a"].is_empty(), "{annotation}");
        }
    }

    #[tokio::test]
    async fn the_list_follows_the_watch() {
        let (publish, snapshot) = watch::channel(None);
        let mut targets = Targets::pods(PodTargets::new(PodWatch::of(snapshot), rules(false)));
        assert!(matches!(targets.refresh(), Change::None), "nothing is known yet");
        let publish = |pods: Vec<Pod>| publish.send_replace(Some(Arc::new(Pods::from_iter(pods))));

        publish(vec![pod("a", None), pod("b", Some("{"))]);
        targets.changed().await;
        assert!(matches!(targets.refresh(), Change::List));
        assert!(matches!(targets.refresh(), Change::None));
        let expected = PodCounts {
            listed: 1,
            malformed: 1,
            annotation_faults: 1,
            ..PodCounts::default()
        };
        assert_eq!(targets.pod_counts(), Some(expected));

        // What doesn't change the list is none.
        let ready = Pod {
            ready: true,
            ..pod("a", None)
        };
        publish(vec![ready, pod("b", Some("{"))]);
        targets.changed().await;
        assert!(matches!(targets.refresh(), Change::None));
        assert_eq!(
            targets.pod_counts(),
            Some(expected),
            "the same fault is told once"
        );

        let terminating = Pod {
            terminating: true,
            ..pod("a", None)
        };
        publish(vec![terminating]);
        targets.changed().await;
        assert!(matches!(targets.refresh(), Change::List));
        assert!(targets.current()[0].draining);
        publish(Vec::new());
        targets.changed().await;
        assert!(matches!(targets.refresh(), Change::List));
        assert!(targets.current().is_empty());

        publish(
            (0..5_000)
                .map(|number| pod(&format!("p{number}"), None))
                .collect(),
        );
        targets.changed().await;
        assert!(matches!(targets.refresh(), Change::Fault(fault) if fault.contains("5000")));
        assert!(targets.current().is_empty(), "the last list stays");
    }
}
