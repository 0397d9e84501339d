//! Who has no certificate of the cluster can do nothing to its parts: neither push, nor hear or announce routes, nor ask a gateway to
//! hand over. A service account's token pushes for its business and no other.
//!
//! Every door is tried by the right caller as well: a door that nobody passes would prove nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use imaccess_operator_api::business::Pusher as Account;
use imaccess_operator_api::names::{Identity, port};
use imaccess_proto::v1::route_feed_client::RouteFeedClient;
use imaccess_proto::v1::{FromRouting, RoutingHello};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::Code;

use super::super::verdict::count;
use super::drain::{ECHO, LISTED, echo};
use super::trap;
use crate::kubernetes::echo::business;
use crate::kubernetes::gateways::{Gateway, number};
use crate::kubernetes::pushing::Pusher;
use crate::kubernetes::{Installation, Kubernetes, small_spec, with_kubernetes};
use crate::mesh::{Caller, Certified, Door};
use crate::report::{Report, Size};

/// The other business.
const SECOND: u32 = 2;
/// As the specification has it by default.
const AUDIENCE: &str = "imaccess.io/push";
/// For the first message of a stream; a refusal comes at once.
const HEARD: Duration = Duration::from_secs(10);

/// What came of a try.
enum Outcome {
    /// It did what it wanted.
    Admitted,
    /// It was refused, with what code if a call came so far.
    Refused(Option<Code>, String),
}

/// What should come of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Admitted,
    /// Whatever the refusal is.
    Refused,
    /// By this code.
    Code(Code),
}

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-mesh", async |kubernetes| {
        let mut report = Report::new("k8s-mesh", size, seed);
        mesh(kubernetes, &mut report).await?;
        Ok(report)
    })
    .await
}

async fn mesh(kubernetes: &Kubernetes, report: &mut Report) -> Result<()> {
    let namespace = kubernetes.namespace("").await?;
    kubernetes.operator(&namespace).await?;
    let endpoint = namespace.echo(kubernetes, "echo").await?;
    for account in ["orders", "stranger"] {
        namespace.service_account(account).await?;
    }
    let mut spec = small_spec(kubernetes.environment.image()?);
    let mut first = echo(&endpoint);
    first.pushers = vec![Account {
        namespace: namespace.name.clone(),
        service_account: "orders".to_owned(),
    }];
    spec.businesses = vec![first, business(2, "second", &endpoint)];
    let cluster = namespace.cluster("demo", spec).await?;
    cluster.ready(kubernetes).await?;
    let gateways = cluster.gateways_listed(kubernetes, 2, LISTED).await?;
    let gateway = &gateways[0];

    let mut tries = Tries::new(&cluster);
    pushes(&mut tries, &cluster).await?;
    routes(&mut tries, &cluster, gateway).await?;
    handovers(&mut tries, &cluster, gateway).await?;
    tries.note(report);

    let trapped = trap::sidecar(kubernetes, &cluster).await?;
    report.figure("dials_to_a_false_sidecar", trapped.dialled);
    report.exactly(
        "dials_to_a_false_sidecar_in_plain_text",
        count(trapped.plain),
        0.0,
    );
    report.exactly("false_sidecars_trusted", count(trapped.trusted), 0.0);
    Ok(())
}

/// Tries so far.
struct Tries<'a> {
    cluster: &'a Installation,
    lines: Vec<String>,
    wrong: Vec<String>,
    controls: u64,
    refusals: u64,
}

impl<'a> Tries<'a> {
    fn new(cluster: &'a Installation) -> Self {
        Self {
            cluster,
            lines: Vec::new(),
            wrong: Vec::new(),
            controls: 0,
            refusals: 0,
        }
    }

    fn take(&mut self, what: &str, expected: Expected, outcome: &Outcome) {
        let (good, said) = match (outcome, expected) {
            (Outcome::Admitted, _) => (expected == Expected::Admitted, "admitted".to_owned()),
            (Outcome::Refused(code, why), Expected::Code(wanted)) => (*code == Some(wanted), why.clone()),
            (Outcome::Refused(_, why), _) => (expected == Expected::Refused, why.clone()),
        };
        if expected == Expected::Admitted {
            self.controls += 1;
        } else {
            self.refusals += 1;
        }
        let line = format!("{what}: {said}");
        if !good {
            self.wrong.push(line.clone());
        }
        self.lines.push(line);
    }

    fn note(&self, report: &mut Report) {
        report.figure("tries", self.lines.clone());
        report.figure("tries_that_must_fail", self.refusals);
        report.figure("tries_that_must_succeed", self.controls);
        report.figure("wrong", self.wrong.clone());
        report.exactly("tries_that_went_wrong", count(self.wrong.len() as u64), 0.0);
    }

    /// Everyone without a right, by name: without TLS, without a certificate, with one of an unknown authority under the right
    /// name, with one of the cluster's under a wrong name.
    async fn outsiders(&self, rightful: Identity, wrong: Identity) -> Result<Vec<(&'static str, Caller)>> {
        let names = &self.cluster.names;
        let name = rightful.dns_name(&names.cluster, &names.namespace);
        Ok(vec![
            ("in plain text", Caller::Plain),
            ("without a certificate", Caller::Nobody),
            (
                "with a foreign certificate",
                Caller::Certified(Certified::foreign(&[name])?),
            ),
            (
                "with another part's certificate",
                Caller::Certified(self.cluster.certificate(wrong).await?),
            ),
        ])
    }

    async fn rightful(&self, identity: Identity) -> Result<Caller> {
        Ok(Caller::Certified(self.cluster.certificate(identity).await?))
    }
}

async fn pushes(tries: &mut Tries<'_>, cluster: &Installation) -> Result<()> {
    let door = cluster.push_door().await?;
    let business = Identity::Push;
    let rightful = tries.rightful(business).await?;
    for number in [ECHO, SECOND] {
        let outcome = push(&door, &rightful, None, number).await;
        tries.take(
            &format!("push for {number} with the push certificate"),
            Expected::Admitted,
            &outcome,
        );
    }
    for (how, caller) in tries.outsiders(business, Identity::Sidecar).await? {
        let expected = match how {
            "without a certificate" => Expected::Code(Code::Unauthenticated),
            "with another part's certificate" => Expected::Code(Code::PermissionDenied),
            _ => Expected::Refused,
        };
        let outcome = push(&door, &caller, None, ECHO).await;
        tries.take(&format!("push {how}"), expected, &outcome);
    }
    let namespace = &cluster.namespace;
    let (denied, unknown) = (Code::PermissionDenied, Code::Unauthenticated);
    let cases = [
        ("orders", AUDIENCE, ECHO, Expected::Admitted),
        ("orders", AUDIENCE, SECOND, Expected::Code(denied)),
        ("stranger", AUDIENCE, ECHO, Expected::Code(denied)),
        ("orders", "another-audience", ECHO, Expected::Code(unknown)),
    ];
    for (account, audience, number, expected) in cases {
        let token = namespace.token(account, audience).await?;
        let outcome = push(&door, &Caller::Nobody, Some(token), number).await;
        tries.take(
            &format!("push for {number} with {account}'s token for {audience}"),
            expected,
            &outcome,
        );
    }
    let outcome = push(&door, &Caller::Nobody, Some("no.token.atall".to_owned()), ECHO).await;
    tries.take(
        "push with a token that is none",
        Expected::Code(unknown),
        &outcome,
    );
    let token = namespace.token("orders", AUDIENCE).await?;
    let outcome = push(&door, &Caller::Plain, Some(token), ECHO).await;
    tries.take("push with a token in plain text", Expected::Refused, &outcome);
    Ok(())
}

async fn push(door: &Door, caller: &Caller, token: Option<String>, business: u32) -> Outcome {
    let mut pusher = match Pusher::dial(door, caller, token).await {
        Ok(pusher) => pusher,
        Err(error) => return Outcome::Refused(None, format!("{error:#}")),
    };
    match pusher.group(business, "nobody", b"x").await {
        Ok(_) => Outcome::Admitted,
        Err(status) => Outcome::Refused(
            Some(status.code()),
            format!("{}: {}", status.code(), status.message()),
        ),
    }
}

async fn routes(tries: &mut Tries<'_>, cluster: &Installation, gateway: &Gateway) -> Result<()> {
    let door = cluster
        .door(Identity::Sidecar, gateway.at(number(port::ROUTES)))
        .await?;
    let id = cluster.names.id();
    for (how, caller) in tries.outsiders(Identity::State, Identity::Push).await? {
        let outcome = follow(&door, &caller, &id).await;
        tries.take(&format!("routes {how}"), Expected::Refused, &outcome);
    }
    let rightful = tries.rightful(Identity::State).await?;
    let outcome = follow(&door, &rightful, &id).await;
    tries.take("routes with routing's certificate", Expected::Admitted, &outcome);
    Ok(())
}

/// Whether a sidecar tells this caller its routes.
async fn follow(door: &Door, caller: &Caller, cluster: &str) -> Outcome {
    let hear = async {
        let mut client = RouteFeedClient::new(door.grpc(caller).await?);
        let hello = FromRouting {
            hello: Some(RoutingHello {
                cluster: cluster.to_owned(),
                replica: fastrand::u64(..),
            }),
            ..FromRouting::default()
        };
        let said = tokio_stream::once(hello).chain(tokio_stream::pending());
        let mut heard = client.follow(said).await?.into_inner();
        let first = heard.message().await?.context("the stream ended")?;
        ensure!(first.hello.is_some(), "the first message is no hello: {first:?}");
        anyhow::Ok(())
    };
    match timeout(HEARD, hear).await {
        Ok(Ok(())) => Outcome::Admitted,
        Ok(Err(error)) => Outcome::Refused(None, format!("{error:#}")),
        // Neither told nor refused: the door is open for whoever waits.
        Err(_) => Outcome::Refused(None, format!("nothing within {HEARD:?}")),
    }
}

async fn handovers(tries: &mut Tries<'_>, cluster: &Installation, gateway: &Gateway) -> Result<()> {
    let door = cluster
        .door(Identity::Gateway, gateway.at(number(port::GATEWAY_CONTROL)))
        .await?;
    for (how, caller) in tries.outsiders(Identity::Operator, Identity::Push).await? {
        for method in ["GET", "POST", "DELETE"] {
            let outcome = ask(&door, &caller, method).await;
            tries.take(
                &format!("{method} of the handover {how}"),
                Expected::Refused,
                &outcome,
            );
        }
    }
    // The pages that everybody may read haven't it.
    let pages = Door {
        address: gateway.at(number(port::GATEWAY_PAGES)),
        ..door.clone()
    };
    for method in ["GET", "POST"] {
        let outcome = ask(&pages, &Caller::Plain, method).await;
        tries.take(
            &format!("{method} of the handover among the pages"),
            Expected::Refused,
            &outcome,
        );
    }
    let rightful = tries.rightful(Identity::Operator).await?;
    let outcome = ask(&door, &rightful, "GET").await;
    tries.take(
        "GET of the handover with the operator's certificate",
        Expected::Admitted,
        &outcome,
    );
    Ok(())
}

async fn ask(door: &Door, caller: &Caller, method: &str) -> Outcome {
    match door.http(caller, method, "/handover").await {
        Ok(status) if (200..300).contains(&status) => Outcome::Admitted,
        Ok(status) => Outcome::Refused(None, format!("status {status}")),
        Err(error) => Outcome::Refused(None, format!("{error:#}")),
    }
}
