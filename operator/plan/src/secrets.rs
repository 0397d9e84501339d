//! The Secrets that the operator makes, which of them are due, and those that the user names.

use std::collections::BTreeSet;

use imaccess_operator_api::cluster::SecretName;
use imaccess_operator_api::names::{ISSUED_FOR_ANNOTATION, Identity, Names, Part, key};
use jiff::Timestamp;
use serde_json::json;

use crate::authority::{self, Decision};
use crate::canonical::hash;
use crate::cluster::Cluster;
use crate::health::{Problem, reason};
use crate::observed::SecretFacts;
use crate::plan::SecretStep;
use crate::pods::TokenKeys;
use crate::validity::Validity;

/// What is to be done about Secrets, and what the rest may count on.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    /// What is due.
    pub(crate) steps: Vec<SecretStep>,
    /// Where ticket keys are.
    pub(crate) tickets: String,
    /// Where token keys are; nobody knows before the operator's own are made.
    pub(crate) tokens: Option<TokenKeys>,
    /// Secrets that won't be there when the steps are done. What mounts them must wait.
    pub(crate) absent: BTreeSet<String>,
    /// What only the user can mend.
    pub(crate) problems: Vec<Problem>,
    /// When the next step will be due.
    pub(crate) next: Option<Timestamp>,
    /// Whether a step follows as soon as these are done.
    pub(crate) goes_on: bool,
}

/// Looks at all of them.
pub(crate) fn due(cluster: &Cluster<'_>, now: Timestamp) -> Secrets {
    let mut secrets = Secrets::default();
    secrets.certificates(cluster, now);
    secrets.tickets(cluster);
    secrets.tokens(cluster);
    secrets
}

/// Names of the Secrets that the operator makes for a cluster as it is specified.
pub(crate) fn made(cluster: &Cluster<'_>) -> BTreeSet<String> {
    let names = &cluster.names;
    let auth = &cluster.spec.auth;
    let certificates = Identity::ALL.map(|identity| names.certificate(identity));
    let tickets = auth.ticket_keys_secret.is_none().then(|| names.tickets());
    let tokens = auth
        .token_keys_secret
        .is_none()
        .then(|| names.development_tokens());
    let all = certificates.into_iter().chain(tickets).chain(tokens);
    all.chain([names.authority()]).collect()
}

impl Secrets {
    fn certificates(&mut self, cluster: &Cluster<'_>, now: Timestamp) {
        let Some(authority) = self.own(cluster, &cluster.names.authority()) else {
            let names = Identity::ALL.map(|identity| cluster.names.certificate(identity));
            let missing = names.into_iter().filter(|name| cluster.secret(name).is_none());
            self.absent.extend(missing);
            return;
        };
        let authority = authority.facts();
        let trusted = authority.map(authority::fingerprints);
        let mut due = Vec::new();
        let mut next = Vec::new();
        for identity in Identity::ALL {
            let dns_names = dns_names(identity, &cluster.names);
            let issued_for = hash(&json!([identity.as_str(), dns_names, trusted]));
            let name = cluster.names.certificate(identity);
            let Some(secret) = self.own(cluster, &name) else {
                continue;
            };
            let facts = secret.facts();
            match facts.and_then(|facts| good_until(facts, &issued_for)) {
                Some(renewal) if renewal > now => next.push(renewal),
                _ => due.push((
                    name,
                    facts.is_some(),
                    SecretStep::Certificate {
                        identity,
                        dns_names,
                        issued_for,
                    },
                )),
            }
        }
        match authority::decide(authority, due.is_empty(), now) {
            Decision::Step(step) => {
                // Certificates follow at the next look, made for what the authority is then.
                self.steps.push(SecretStep::Authority(step));
                self.goes_on = true;
                let absent = due.into_iter().filter(|(_, exists, _)| !exists);
                self.absent.extend(absent.map(|(name, ..)| name));
                return;
            }
            Decision::Until(when) => next.push(when),
            // They are in this plan; then it is time for the authority again.
            Decision::AfterCertificates => self.goes_on = true,
        }
        self.steps.extend(due.into_iter().map(|(_, _, step)| step));
        self.next = next.into_iter().min();
    }

    fn tickets(&mut self, cluster: &Cluster<'_>) {
        if let Some(named) = &cluster.spec.auth.ticket_keys_secret {
            let what = "a key `tickets` with a line `id key` for each ticket key";
            let is_good = |facts: &SecretFacts| facts.keys.iter().any(|key| key == key::TICKETS);
            self.users(cluster, named, "spec.auth.ticketKeysSecret", what, is_good);
            self.tickets = named.name.clone();
            return;
        }
        self.tickets = cluster.names.tickets();
        let Some(secret) = self.own(cluster, &cluster.names.tickets()) else {
            return;
        };
        if !secret.facts().is_some_and(|facts| facts.as_made) {
            self.steps.push(SecretStep::TicketKeys);
        }
    }

    fn tokens(&mut self, cluster: &Cluster<'_>) {
        if let Some(named) = &cluster.spec.auth.token_keys_secret {
            let what = "a key `KEY-ID.pem` with the public key of each token issuer";
            let is_good = |facts: &SecretFacts| facts.keys.iter().any(|key| key.ends_with(".pem"));
            self.users(cluster, named, "spec.auth.tokenKeysSecret", what, is_good);
            self.tokens = Some(TokenKeys {
                secret: named.name.clone(),
                development_key: None,
            });
            return;
        }
        let name = cluster.names.development_tokens();
        let Some(secret) = self.own(cluster, &name) else {
            return;
        };
        let key = secret.facts().and_then(development_key);
        if key.is_none() {
            self.steps.push(SecretStep::DevelopmentTokens);
            self.goes_on = true;
        }
        self.tokens = key.map(|key| TokenKeys {
            secret: name,
            development_key: Some(key),
        });
    }

    /// A Secret of the operator's own. `None` when somebody else has the name: then nothing is done about it.
    fn own<'a>(&mut self, cluster: &Cluster<'a>, name: &str) -> Option<Own<'a>> {
        match cluster.secret(name) {
            Some(facts) if !facts.ours => {
                self.absent.insert(name.to_owned());
                self.problems.push(Problem::new(
                    reason::NAME_TAKEN,
                    format!(
                        "The Secret {name} isn't the operator's, which needs the name: delete or rename it, or give the cluster \
                         another name."
                    ),
                ));
                None
            }
            facts => Some(Own(facts)),
        }
    }

    fn users(
        &mut self,
        cluster: &Cluster<'_>,
        named: &SecretName,
        field: &str,
        what: &str,
        is_good: impl Fn(&SecretFacts) -> bool,
    ) {
        let name = &named.name;
        let fault = match cluster.secret(name) {
            None => format!("The Secret {name}, which {field} names, doesn't exist: make it, with {what}."),
            Some(facts) if !is_good(facts) => {
                format!("The Secret {name}, which {field} names, can't be used: it needs {what}.")
            }
            Some(_) => return,
        };
        self.absent.insert(name.clone());
        self.problems.push(Problem::new(reason::SECRET_MISSING, fault));
    }
}

/// What is known of a Secret that is the operator's, or nobody's yet.
struct Own<'a>(Option<&'a SecretFacts>);

impl<'a> Own<'a> {
    fn facts(&self) -> Option<&'a SecretFacts> {
        self.0
    }
}

/// When a certificate is to be renewed; `None` when it can't be used as it is.
fn good_until(facts: &SecretFacts, issued_for: &str) -> Option<Timestamp> {
    let has = |name: &str| facts.keys.iter().any(|key| key == name);
    let whole = has(key::CERTIFICATE) && has(key::PRIVATE_KEY) && has(key::AUTHORITY);
    let same = facts.annotations.get(ISSUED_FOR_ANNOTATION).map(String::as_str) == Some(issued_for);
    (whole && same && facts.as_made)
        .then(|| Validity::of(facts))?
        .map(|validity| validity.due())
}

/// The id of the operator's own token key: beside the private key there is `<id>.pem`.
fn development_key(facts: &SecretFacts) -> Option<String> {
    let has_private = facts.keys.iter().any(|key| key == key::SIGNING);
    let public = facts
        .keys
        .iter()
        .find(|key| *key != key::SIGNING && key.ends_with(".pem"))?;
    (has_private && facts.as_made).then(|| public.trim_end_matches(".pem").to_owned())
}

/// The names in a certificate: whom it is for, and for the push API, also the ways in which its Service is called.
fn dns_names(identity: Identity, names: &Names) -> Vec<String> {
    let own = identity.dns_name(&names.cluster, &names.namespace);
    if identity != Identity::State {
        return vec![own];
    }
    let (service, namespace) = (names.part(Part::State), &names.namespace);
    vec![
        own,
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.cluster.local"),
        format!("{service}.{namespace}"),
        service,
    ]
}

/// The Secrets that pods of a part mount, whose changes they should see at once.
pub(crate) fn mounted(cluster: &Cluster<'_>, part: Part, secrets: &Secrets) -> Vec<String> {
    let names = &cluster.names;
    let tokens = secrets.tokens.as_ref().map(|tokens| tokens.secret.clone());
    match part {
        Part::Gateway => [Identity::Gateway, Identity::Sidecar]
            .map(|identity| names.certificate(identity))
            .into_iter()
            .chain([secrets.tickets.clone()])
            .chain(tokens)
            .collect(),
        Part::State => vec![names.certificate(Identity::State)],
        Part::Ipconfig => {
            let development = cluster.spec.auth.token_keys_secret.is_none();
            tokens.into_iter().filter(|_| development).collect()
        }
    }
}
