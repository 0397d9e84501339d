//! Names that follow from a cluster's name, labels, annotations and ports: what the operator writes, and what tests and
//! commands look for.

use std::collections::BTreeMap;

/// The operator's name as field manager of everything that it applies.
pub const FIELD_MANAGER: &str = "imaccess-operator";

/// A running gateway pod's slot, `0`, `1`, …: its Service selects by it.
pub const SLOT_LABEL: &str = "imaccess.io/slot";
/// Where clients reach a gateway pod, as JSON: `[{"protocol":"tcp","host":"203.0.113.5","port":30001}]`.
pub const ENDPOINTS_ANNOTATION: &str = "imaccess.io/endpoints";
/// On running pods: a hash of what they read while they run. Its change makes the kubelet bring the new files at once instead
/// of within a minute.
pub const CONFIGURATION_ANNOTATION: &str = "imaccess.io/configuration";
/// In pod templates: a hash of what is read at the start only.
pub const RESTART_ANNOTATION: &str = "imaccess.io/restart-configuration";
/// On Secrets that the operator makes: until when the certificate in them is good, in RFC 3339.
pub const NOT_AFTER_ANNOTATION: &str = "imaccess.io/not-after";
/// As [`NOT_AFTER_ANNOTATION`]: since when it is good. Two thirds of the time between the two are used.
pub const NOT_BEFORE_ANNOTATION: &str = "imaccess.io/not-before";
/// On Secrets that the operator makes: a hash of their data as it wrote it. One whose data is another is made anew.
pub const CONTENTS_ANNOTATION: &str = "imaccess.io/contents";
/// On certificate Secrets: a hash of what the certificate was made from (names, authority).
pub const ISSUED_FOR_ANNOTATION: &str = "imaccess.io/issued-for";
/// On the authority's Secret: the fingerprint (hexadecimal SHA-256 of the DER) of the certificate that signs. The Secret's own
/// [`NOT_BEFORE_ANNOTATION`] and [`NOT_AFTER_ANNOTATION`] are this one's.
pub const AUTHORITY_CURRENT_ANNOTATION: &str = "imaccess.io/authority-current";
/// On the authority's Secret: the fingerprint of the next one, from when it is trusted until it signs.
pub const AUTHORITY_NEXT_ANNOTATION: &str = "imaccess.io/authority-next";
/// On the authority's Secret: the fingerprint of the former one, from when it signs no more until it is forgotten.
pub const AUTHORITY_PREVIOUS_ANNOTATION: &str = "imaccess.io/authority-previous";
/// On the authority's Secret: when its last step was taken (made, next added, switched, forgotten), in RFC 3339.
pub const AUTHORITY_SINCE_ANNOTATION: &str = "imaccess.io/authority-since";
/// On the authority's Secret: the certificates that parts trust, in PEM, which are no secret; what the ConfigMap of the authority
/// shows to everybody, and what each certificate Secret has as `ca.crt`.
pub const AUTHORITY_BUNDLE_ANNOTATION: &str = "imaccess.io/authority-bundle";
/// On everything that is applied: a hash of all that was desired of it. What was desired once and isn't any more shows in it.
pub const APPLIED_ANNOTATION: &str = "imaccess.io/applied";
/// In the gateways' pod template: which change of images was the last that pods got in place. No two changes have the same, so
/// that no retired ReplicaSet's template equals a later one.
pub const IN_PLACE_ANNOTATION: &str = "imaccess.io/in-place";
/// On gateway pods of which a container is being replaced in place: which, from what, since when, as JSON.
pub const REPLACING_ANNOTATION: &str = "imaccess.io/replacing";
/// On gateway pods: the last container that was replaced in place, and what became of its connections, as JSON.
pub const REPLACED_ANNOTATION: &str = "imaccess.io/replaced";
/// On the gateways' Deployment while the operator has paused it: the [`IN_PLACE_ANNOTATION`] that it is being told.
pub const SETTLING_ANNOTATION: &str = "imaccess.io/settling";
/// On the custom resource, for users: with another value than before, what has stopped is tried again.
pub const TRY_AGAIN_ANNOTATION: &str = "imaccess.io/try-again";
/// The component label of pods that try an image.
pub const PREFLIGHT_COMPONENT: &str = "preflight";
/// On pods, Kubernetes' own: of the pods to choose from, a ReplicaSet ends the one with the lowest first.
pub const DELETION_COST_ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Ports of the parts; those of clients are in the specification.
pub mod port {
    /// A gateway's metrics, health and readiness.
    pub const GATEWAY_PAGES: i32 = 9_300;
    /// A sidecar's metrics, health and readiness.
    pub const SIDECAR_PAGES: i32 = 9_301;
    /// A gateway's control, by mutual TLS: the handover.
    pub const GATEWAY_CONTROL: i32 = 9_310;
    /// A sidecar's routes, by mutual TLS.
    pub const ROUTES: i32 = 7_300;
    /// The push API.
    pub const PUSH: i32 = 8_100;
    /// Routing's metrics, health and readiness.
    pub const ROUTING_PAGES: i32 = 8_101;
    /// ipconfig, for clients.
    pub const IPCONFIG: i32 = 8_000;
    /// ipconfig's metrics, health, readiness and scores.
    pub const IPCONFIG_PAGES: i32 = 8_001;
}

/// Keys of Secrets and ConfigMaps.
pub mod key {
    /// A certificate.
    pub const CERTIFICATE: &str = "tls.crt";
    /// A certificate's private key.
    pub const PRIVATE_KEY: &str = "tls.key";
    /// Certificates that are trusted.
    pub const AUTHORITY: &str = "ca.crt";
    /// The authority's private key.
    pub const AUTHORITY_KEY: &str = "ca.key";
    /// Ticket keys, a line `id key` each.
    pub const TICKETS: &str = "tickets";
    /// The private key of development tokens; the Secret's other key, `<key id>.pem`, is the public one.
    pub const SIGNING: &str = "signing.pem";
}

/// A part that has a Deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Gateways with their sidecars.
    Gateway,
    /// The routing layer.
    State,
    /// ipconfig.
    Ipconfig,
}

/// Who a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// A gateway's control.
    Gateway,
    /// A sidecar's routes.
    Sidecar,
    /// The routing layer: the push API, and who dials sidecars.
    State,
    /// The operator.
    Operator,
    /// A business that pushes.
    Push,
}

impl Part {
    /// All of them, in the order in which they are applied.
    pub const ALL: [Part; 3] = [Part::State, Part::Ipconfig, Part::Gateway];

    /// Its component label, and what its objects' names end with.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Part::Gateway => "gateway",
            Part::State => "state",
            Part::Ipconfig => "ipconfig",
        }
    }
}

impl Identity {
    /// All of them.
    pub const ALL: [Identity; 5] = [
        Identity::Gateway,
        Identity::Sidecar,
        Identity::State,
        Identity::Operator,
        Identity::Push,
    ];

    /// What its Secret's name has.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Identity::Gateway => "gateway",
            Identity::Sidecar => "sidecar",
            Identity::State => "state",
            Identity::Operator => "operator",
            Identity::Push => "push",
        }
    }

    /// The name in its certificate, by which the other side knows it.
    #[must_use]
    pub fn dns_name(self, cluster: &str, namespace: &str) -> String {
        let part = match self {
            Identity::State => "routing",
            other => other.as_str(),
        };
        format!("{part}.{cluster}.{namespace}.imaccess.internal")
    }
}

/// Names of one cluster's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The cluster's own name.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
}

impl Names {
    /// Of a cluster.
    #[must_use]
    pub fn new(cluster: &str, namespace: &str) -> Names {
        Names {
            cluster: cluster.to_owned(),
            namespace: namespace.to_owned(),
        }
    }

    /// A part's Deployment, ServiceAccount, ConfigMap, PodDisruptionBudget…
    #[must_use]
    pub fn part(&self, part: Part) -> String {
        format!("{}-{}", self.cluster, part.as_str())
    }

    /// The ConfigMap of the sidecars.
    #[must_use]
    pub fn sidecar(&self) -> String {
        format!("{}-sidecar", self.cluster)
    }

    /// A slot's Service.
    #[must_use]
    pub fn slot(&self, slot: u32) -> String {
        format!("{}-gateway-{slot}", self.cluster)
    }

    /// The Role and RoleBinding by which ipconfig and routing may look at pods.
    #[must_use]
    pub fn pods_role(&self) -> String {
        format!("{}-pods", self.cluster)
    }

    /// The Secret of the authority, and the ConfigMap with its certificate.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}-ca", self.cluster)
    }

    /// The Secret with a certificate.
    #[must_use]
    pub fn certificate(&self, identity: Identity) -> String {
        format!("{}-{}-tls", self.cluster, identity.as_str())
    }

    /// The Secret with the ticket keys that the operator made.
    #[must_use]
    pub fn tickets(&self) -> String {
        format!("{}-tickets", self.cluster)
    }

    /// The Secret with the development token keys that the operator made.
    #[must_use]
    pub fn development_tokens(&self) -> String {
        format!("{}-development-tokens", self.cluster)
    }

    /// The ConfigMap that keeps pod templates as they were rendered.
    #[must_use]
    pub fn rendered(&self) -> String {
        format!("{}-rendered", self.cluster)
    }

    /// The cluster's id in the parts' configuration: in tickets and tokens.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}.{}", self.cluster, self.namespace)
    }

    /// Labels of everything that belongs to the cluster.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.selector_of([("app.kubernetes.io/managed-by", FIELD_MANAGER)])
    }

    /// Labels of a part's objects.
    #[must_use]
    pub fn part_labels(&self, part: Part) -> BTreeMap<String, String> {
        self.selector_of([
            ("app.kubernetes.io/managed-by", FIELD_MANAGER),
            ("app.kubernetes.io/component", part.as_str()),
        ])
    }

    /// Labels that select a part's pods, and nothing else.
    #[must_use]
    pub fn selector(&self, part: Part) -> BTreeMap<String, String> {
        self.selector_of([("app.kubernetes.io/component", part.as_str())])
    }

    /// As [`Names::selector`], written as kubectl and the API take it.
    #[must_use]
    pub fn selector_text(&self, part: Part) -> String {
        selector_text(&self.selector(part))
    }

    /// Selects everything that the operator made for the cluster.
    #[must_use]
    pub fn everything(&self) -> String {
        selector_text(&self.labels())
    }

    fn selector_of<const N: usize>(&self, more: [(&str, &str); N]) -> BTreeMap<String, String> {
        let own = [
            ("app.kubernetes.io/name", "imaccess"),
            ("app.kubernetes.io/instance", self.cluster.as_str()),
        ];
        own.into_iter()
            .chain(more)
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }
}

fn selector_text(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}
