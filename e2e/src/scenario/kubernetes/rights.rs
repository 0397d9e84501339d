//! With rights in one namespace the operator works there, can do nothing elsewhere, and nothing there that it has no need of;
//! everything runs where `restricted` Pod Security is enforced.

use anyhow::{Context, Result, ensure};
use imaccess_operator_api::names::Part;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ListParams, PostParams};

use super::stage::{self, DEMO, ECHO};
use crate::kubernetes::{Kubernetes, Namespace, small_spec, with_kubernetes};
use crate::report::{Report, Size};
use crate::scenario::verdict::count;

/// What it needs where it works: a review that says no to all would prove nothing.
const NEEDED: &[(&str, &str)] = &[
    ("watch", "imaccess.io/imaccessclusters"),
    ("patch", "imaccess.io/imaccessclusters/status"),
    ("create", "apps/deployments"),
    ("patch", "apps/deployments"),
    ("delete", "/services"),
    ("create", "/secrets"),
    ("create", "rbac.authorization.k8s.io/roles"),
    ("patch", "/pods"),
    // Images are tried in pods of its own, and brought to running ones.
    ("create", "/pods"),
    ("delete", "/pods"),
    ("patch", "apps/replicasets"),
];

/// What nobody has given it, even where it works.
const NEVER: &[(&str, &str)] = &[
    ("create", "imaccess.io/imaccessclusters"),
    ("patch", "imaccess.io/imaccessclusters"),
    ("update", "imaccess.io/imaccessclusters"),
    ("delete", "imaccess.io/imaccessclusters"),
    ("deletecollection", "/pods"),
    ("create", "/pods/eviction"),
    ("create", "/pods/exec"),
    ("create", "/pods/attach"),
    ("create", "/pods/portforward"),
    ("create", "/pods/ephemeralcontainers"),
    ("get", "/pods/log"),
    ("create", "/serviceaccounts/token"),
    ("impersonate", "/serviceaccounts"),
    ("impersonate", "/users"),
    ("escalate", "rbac.authorization.k8s.io/roles"),
    ("bind", "rbac.authorization.k8s.io/roles"),
    ("bind", "rbac.authorization.k8s.io/clusterroles"),
    ("deletecollection", "/secrets"),
    ("create", "apps/replicasets"),
    ("delete", "apps/replicasets"),
    ("create", "apps/daemonsets"),
    ("create", "apps/statefulsets"),
    ("create", "batch/jobs"),
    ("*", "*/*"),
];

/// What it can do in no namespace but its own and the watched ones, and not for the whole cluster.
const ELSEWHERE: &[(&str, &str)] = &[
    ("get", "imaccess.io/imaccessclusters"),
    ("list", "imaccess.io/imaccessclusters"),
    ("watch", "imaccess.io/imaccessclusters"),
    ("patch", "imaccess.io/imaccessclusters/status"),
    ("get", "/secrets"),
    ("list", "/secrets"),
    ("watch", "/secrets"),
    ("create", "/secrets"),
    ("patch", "/secrets"),
    ("delete", "/secrets"),
    ("list", "/configmaps"),
    ("create", "/configmaps"),
    ("patch", "/configmaps"),
    ("delete", "/configmaps"),
    ("list", "/pods"),
    ("watch", "/pods"),
    ("patch", "/pods"),
    ("list", "/services"),
    ("create", "/services"),
    ("delete", "/services"),
    ("create", "/serviceaccounts"),
    ("delete", "/serviceaccounts"),
    ("list", "apps/deployments"),
    ("create", "apps/deployments"),
    ("patch", "apps/deployments"),
    ("delete", "apps/deployments"),
    ("create", "rbac.authorization.k8s.io/roles"),
    ("create", "rbac.authorization.k8s.io/rolebindings"),
    ("create", "rbac.authorization.k8s.io/clusterroles"),
    ("create", "rbac.authorization.k8s.io/clusterrolebindings"),
    ("create", "policy/poddisruptionbudgets"),
    ("create", "autoscaling/horizontalpodautoscalers"),
    ("create", "networking.k8s.io/networkpolicies"),
    ("get", "coordination.k8s.io/leases"),
    ("update", "coordination.k8s.io/leases"),
    ("create", "events.k8s.io/events"),
    ("list", "/namespaces"),
    ("list", "/nodes"),
    ("get", "/nodes/proxy"),
    ("list", "apiextensions.k8s.io/customresourcedefinitions"),
    ("patch", "apiextensions.k8s.io/customresourcedefinitions"),
];

/// What ipconfig and routing may do, and what not.
const PARTS_MAY: &[(&str, &str)] = &[("get", "/pods"), ("list", "/pods"), ("watch", "/pods")];
const PARTS_NEVER: &[(&str, &str)] = &[
    ("patch", "/pods"),
    ("delete", "/pods"),
    ("create", "/pods"),
    ("get", "/secrets"),
    ("list", "/secrets"),
    ("get", "/configmaps"),
    ("get", "imaccess.io/imaccessclusters"),
    ("patch", "imaccess.io/imaccessclusters"),
    ("create", "/serviceaccounts/token"),
];

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-rights", async |kubernetes| {
        let mut report = Report::new("k8s-rights", size, seed);
        let own = kubernetes.restricted_namespace("operator").await?;
        let watched = kubernetes.restricted_namespace("watched").await?;
        let other = kubernetes.namespace("other").await?;
        let values = kubernetes.values(&[&watched])?;
        let release = kubernetes.install(&kubernetes.chart(), &own, &values).await?;
        let operator = release.operator(kubernetes);
        let user = operator.user().await?;

        let unwatched = other
            .cluster(DEMO, small_spec(kubernetes.environment.image()?))
            .await?;
        let spec = stage::spec(kubernetes, &watched).await?;
        let cluster = watched.cluster(DEMO, spec).await?;
        cluster.ready(kubernetes).await?;
        let client = cluster.client("restricted").await?;
        cluster.call(&client, ECHO).await?;
        client.close().await;

        let mut pods = operator.running(kubernetes, 1).await?.len();
        for part in Part::ALL {
            let found = cluster.pods(part).await?;
            ensure!(!found.is_empty(), "there is no pod of {part:?}");
            pods += found.len();
            if part == Part::Gateway {
                let tokens = found.iter().filter(|pod| has_token(pod)).count();
                report.exactly("gateway_pods_with_an_api_token", count(tokens as u64), 0.0);
            }
        }
        report.figure("pods_where_restricted_is_enforced", pods);
        let refused = refused_pods(&own).await? + refused_pods(&watched).await?;
        report.exactly("pods_refused_by_pod_security", count(refused as u64), 0.0);

        let looked_at = unwatched
            .get()
            .await?
            .status
            .and_then(|status| status.observed_generation);
        let children = unwatched.left().await?.len() + usize::from(looked_at.is_some());
        report.exactly(
            "traces_in_a_namespace_that_is_not_watched",
            count(children as u64),
            0.0,
        );

        let reviews = Reviews {
            kubernetes,
            user: &user,
        };
        for namespace in [&watched, &own] {
            let denied = reviews.denied(NEEDED, Some(&namespace.name)).await?;
            ensure!(denied.is_empty(), "in {} it can't {denied:?}", namespace.name);
        }
        let mut excess = Vec::new();
        excess.extend(reviews.allowed(NEVER, Some(&watched.name)).await?);
        excess.extend(reviews.allowed(NEVER, Some(&own.name)).await?);
        excess.extend(reviews.allowed(NEVER, None).await?);
        report.figure("reviews_of_what_it_never_needs", NEVER.len() * 3);
        report_excess(&mut report, "rights_that_it_never_needs", &excess);
        let mut excess = reviews.allowed(ELSEWHERE, Some(&other.name)).await?;
        excess.extend(reviews.allowed(ELSEWHERE, Some("kube-system")).await?);
        excess.extend(reviews.allowed(ELSEWHERE, None).await?);
        report.figure("reviews_elsewhere", ELSEWHERE.len() * 3);
        report_excess(&mut report, "rights_elsewhere", &excess);

        let mut excess = Vec::new();
        for part in Part::ALL {
            let user = format!(
                "system:serviceaccount:{}:{}",
                watched.name,
                cluster.names.part(part)
            );
            let reviews = Reviews {
                kubernetes,
                user: &user,
            };
            if part != Part::Gateway {
                let denied = reviews.denied(PARTS_MAY, Some(&watched.name)).await?;
                ensure!(denied.is_empty(), "{part:?} can't {denied:?}");
            } else {
                excess.extend(reviews.allowed(PARTS_MAY, Some(&watched.name)).await?);
            }
            excess.extend(reviews.allowed(PARTS_NEVER, Some(&watched.name)).await?);
            for other in [Some(other.name.as_str()), None] {
                excess.extend(reviews.allowed(PARTS_MAY, other).await?);
                excess.extend(reviews.allowed(PARTS_NEVER, other).await?);
            }
        }
        report_excess(&mut report, "rights_of_parts_beyond_looking_at_pods", &excess);
        Ok(report)
    })
    .await
}

fn report_excess(report: &mut Report, name: &str, excess: &[String]) {
    if !excess.is_empty() {
        report.figure(&format!("{name}_are"), excess.join(", "));
    }
    report.exactly(name, count(excess.len() as u64), 0.0);
}

/// Questions to the API server about what a service account may do.
struct Reviews<'a> {
    kubernetes: &'a Kubernetes,
    user: &'a str,
}

impl Reviews<'_> {
    async fn allowed(&self, rights: &[(&str, &str)], namespace: Option<&str>) -> Result<Vec<String>> {
        self.answered(rights, namespace, true).await
    }

    async fn denied(&self, rights: &[(&str, &str)], namespace: Option<&str>) -> Result<Vec<String>> {
        self.answered(rights, namespace, false).await
    }

    async fn answered(
        &self,
        rights: &[(&str, &str)],
        namespace: Option<&str>,
        wanted: bool,
    ) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (verb, resource) in rights {
            if self.may(verb, resource, namespace).await? == wanted {
                let place = namespace.unwrap_or("the whole cluster");
                found.push(format!("{verb} {resource} in {place}"));
            }
        }
        Ok(found)
    }

    async fn may(&self, verb: &str, resource: &str, namespace: Option<&str>) -> Result<bool> {
        let mut words = resource.split('/');
        let group = words.next().map(str::to_owned);
        let name = words.next().map(str::to_owned);
        let account: Vec<_> = self.user.split(':').collect();
        let home = account.get(2).context("not the name of a service account")?;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(self.user.to_owned()),
                groups: Some(vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{home}"),
                    "system:authenticated".to_owned(),
                ]),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    group,
                    resource: name,
                    subresource: words.next().map(str::to_owned),
                    namespace: namespace.map(str::to_owned),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.kubernetes.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.context("a review without an answer")?.allowed)
    }
}

/// Whether a pod has a token of the API server, by the default mount or a projected one.
fn has_token(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| volume.projected.as_ref())
        .flat_map(|projected| projected.sources.iter().flatten())
        .any(|source| source.service_account_token.is_some())
}

/// Pods that a controller couldn't create because of Pod Security.
async fn refused_pods(namespace: &Namespace) -> Result<usize> {
    let api: Api<Event> = namespace.api();
    let events = api.list(&ListParams::default()).await?;
    let refused = events.iter().filter(|event| {
        let said = event.message.as_deref().unwrap_or_default();
        said.contains("violates PodSecurity")
    });
    Ok(refused.count())
}
