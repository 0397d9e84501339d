//! The conditions of the status.

use imaccess_operator_api::condition;
use imaccess_operator_api::gateway::ExposureType;
use imaccess_operator_api::names::Part;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::cluster::Cluster;
use crate::health::Health;
use crate::monitor;

/// All conditions; those that are there only while they are true are left out when they aren't. `changing` says whether a Deployment
/// isn't as the specification wants it, which matters while nothing may be changed.
pub(crate) fn all(cluster: &Cluster<'_>, health: &Health, now: Timestamp) -> Vec<Condition> {
    let mut conditions = Conditions::new(cluster, now);
    conditions.ready(health);
    for part in Part::ALL.into_iter().rev() {
        conditions.available(part);
    }
    let while_true = |kind: &'static str, reason: &'static str, message: &str, holds: bool| {
        holds.then(|| (kind, reason, message.to_owned()))
    };
    let spec = cluster.spec;
    let others = [
        while_true(
            condition::DEVELOPMENT_TOKENS,
            "NoTokenKeysSecret",
            "Anyone who can reach ipconfig gets a token for any device: in production, set spec.auth.tokenKeysSecret.",
            spec.auth.token_keys_secret.is_none(),
        ),
        while_true(
            condition::PAUSED,
            "SpecPaused",
            "Nothing is changed until spec.paused is false again.",
            spec.paused,
        ),
        while_true(
            condition::PRIVILEGED_PORTS,
            "HostPort",
            "Gateways use ports of their nodes, so their namespace must not enforce the restricted or baseline Pod Security, and \
             each needs a node of its own.",
            spec.gateway.exposure.kind == ExposureType::HostPort,
        ),
        while_true(
            condition::DEGRADED,
            "PodMonitorKindMissing",
            "spec.monitoring.podMonitor is set, but the kind PodMonitor isn't installed: install the Prometheus operator, or take \
             the field out.",
            monitor::is_missing(cluster),
        ),
    ];
    for (kind, reason, message) in others.into_iter().flatten() {
        conditions.put(kind, "True", reason, message);
    }
    conditions.all
}

struct Conditions<'a> {
    cluster: &'a Cluster<'a>,
    now: Time,
    all: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    fn new(cluster: &'a Cluster<'a>, now: Timestamp) -> Self {
        // Kubernetes has whole seconds; a finer one would look like a change of what was written.
        let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
        Self {
            cluster,
            now: Time(seconds),
            all: Vec::new(),
        }
    }

    fn put(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let before = self.cluster.observed.cluster.status.as_ref();
        let same = before
            .and_then(|before| before.conditions.iter().find(|condition| condition.type_ == kind))
            .filter(|condition| condition.status == status);
        self.all.push(Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: same
                .map_or_else(|| self.now.clone(), |same| same.last_transition_time.clone()),
            observed_generation: self.cluster.observed.cluster.metadata.generation,
        });
    }

    /// Ready, and while it isn't, why: Stalled or Reconciling.
    fn ready(&mut self, health: &Health) {
        let paused = self.cluster.spec.paused;
        if let Some(problem) = health.stalled.first() {
            self.put(condition::READY, "False", problem.reason, problem.message.clone());
            self.put(
                condition::STALLED,
                "True",
                problem.reason,
                problem.message.clone(),
            );
        } else if let Some(problem) = health.progressing.first() {
            let (reason, message) = if paused {
                let message =
                    "The specification isn't carried out while spec.paused is true: set it to false.";
                ("Paused", message.to_owned())
            } else {
                (problem.reason, problem.message.clone())
            };
            self.put(condition::READY, "False", reason, message);
            if !paused {
                self.put(
                    condition::RECONCILING,
                    "True",
                    problem.reason,
                    problem.message.clone(),
                );
            }
        } else if self.cluster.spec.gateway.replicas == 0 {
            let message = "There are no gateways, as spec.gateway.replicas is 0.";
            self.put(condition::READY, "True", "ScaledToZero", message.to_owned());
        } else {
            let message = "Clients are served by what the specification asks for.";
            self.put(condition::READY, "True", "Serving", message.to_owned());
        }
    }

    fn available(&mut self, part: Part) {
        let kind = match part {
            Part::Gateway => condition::GATEWAY_AVAILABLE,
            Part::State => condition::STATE_AVAILABLE,
            Part::Ipconfig => condition::IPCONFIG_AVAILABLE,
        };
        let status = self
            .cluster
            .deployment(part)
            .and_then(|deployment| deployment.status);
        let available = status.and_then(|status| status.available_replicas).unwrap_or(0);
        let name = part.as_str();
        if available > 0 {
            self.put(
                kind,
                "True",
                "PodsAvailable",
                format!("At least one {name} pod serves."),
            );
        } else if self.cluster.replicas(part) == 0 {
            self.put(
                kind,
                "False",
                "ScaledToZero",
                format!("No {name} pod is asked for."),
            );
        } else {
            self.put(
                kind,
                "False",
                "NoPodAvailable",
                format!("No {name} pod serves yet."),
            );
        }
    }
}
