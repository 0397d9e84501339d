//! Secrets: what is made first, what is renewed when, and how the authority is replaced.

use imaccess_operator_api::cluster::SecretName;
use imaccess_operator_api::names::{
    AUTHORITY_NEXT_ANNOTATION, AUTHORITY_PREVIOUS_ANNOTATION, Identity, NOT_AFTER_ANNOTATION,
};
use jiff::SignedDuration;

use super::world::{MINIMAL, World, is_idle};
use crate::plan::{Kind, Plan, SecretStep};

fn steps(plan: &Plan) -> Vec<String> {
    let name = |step: &SecretStep| match step {
        SecretStep::Authority(step) => format!("{step:?}"),
        SecretStep::Certificate { identity, .. } => format!("certificate {}", identity.as_str()),
        SecretStep::TicketKeys => "tickets".to_owned(),
        SecretStep::DevelopmentTokens => "tokens".to_owned(),
    };
    plan.secrets.iter().map(name).collect()
}

fn all_certificates() -> Vec<String> {
    Identity::ALL
        .map(|identity| format!("certificate {}", identity.as_str()))
        .to_vec()
}

#[test]
fn the_authority_is_made_before_certificates_and_those_before_pods() {
    let mut world = World::new(MINIMAL);
    let first = world.plan();
    assert_eq!(steps(&first), ["Make", "tickets", "tokens"]);
    assert!(first.apply.iter().all(|child| child.id.kind != Kind::Deployment));
    assert_eq!(first.look_again, Some(crate::SOON));
    world.carry_out(&first);
    let second = world.plan();
    assert_eq!(steps(&second), all_certificates());
    let deployments = second
        .apply
        .iter()
        .filter(|child| child.id.kind == Kind::Deployment);
    let names: Vec<&str> = deployments.map(|child| child.id.name.as_str()).collect();
    assert_eq!(names, ["demo-state", "demo-ipconfig", "demo-gateway"]);
    let authority = second
        .apply
        .iter()
        .find(|child| child.id.name == "demo-ca")
        .unwrap();
    assert_eq!(authority.object["data"]["ca.crt"], "certificates 1\n");
}

#[test]
fn the_push_api_is_called_by_its_services_names() {
    let mut world = World::new(MINIMAL);
    world.carry_out(&world.plan());
    let names = world.plan().secrets.into_iter().find_map(|step| match step {
        SecretStep::Certificate {
            identity: Identity::State,
            dns_names,
            ..
        } => Some(dns_names),
        _ => None,
    });
    let expected = [
        "routing.demo.chat.imaccess.internal",
        "demo-state.chat.svc",
        "demo-state.chat.svc.cluster.local",
        "demo-state.chat",
        "demo-state",
    ];
    assert_eq!(names.unwrap(), expected);
}

#[test]
fn certificates_are_renewed_after_two_thirds_of_their_life() {
    let mut world = World::settled(MINIMAL);
    assert_eq!(world.plan().look_again, Some(crate::SELDOM));
    world.advance(SignedDuration::from_hours(60 * 24 - 1));
    assert_eq!(steps(&world.plan()), [""; 0]);
    assert_eq!(world.plan().look_again.unwrap().as_secs(), 3_600);
    world.advance(SignedDuration::from_hours(1));
    assert_eq!(steps(&world.plan()), all_certificates());
    let before = world.plan();
    assert!(before.apply.is_empty(), "no pod is replaced for it");
    world.settle();
    assert!(is_idle(&world.plan()));
}

#[test]
fn what_is_wrong_with_a_certificate_renews_it() {
    type Case = (&'static str, fn(&mut crate::observed::SecretFacts));
    let table: [Case; 5] = [
        ("a key is missing", |facts| {
            facts.keys.retain(|key| key != "tls.key");
        }),
        ("nobody knows until when", |facts| {
            facts.annotations.remove(NOT_AFTER_ANNOTATION);
        }),
        ("no time", |facts| {
            facts
                .annotations
                .insert(NOT_AFTER_ANNOTATION.to_owned(), "soon".to_owned());
        }),
        ("for others", |facts| {
            let key = imaccess_operator_api::names::ISSUED_FOR_ANNOTATION;
            facts.annotations.insert(key.to_owned(), "others".to_owned());
        }),
        ("edited", |facts| facts.as_made = false),
    ];
    for (what, change) in table {
        let mut world = World::settled(MINIMAL);
        change(world.observed.secrets.get_mut("demo-gateway-tls").unwrap());
        assert_eq!(steps(&world.plan()), ["certificate gateway"], "{what}");
    }
    let mut world = World::settled(MINIMAL);
    world.observed.secrets.remove("demo-push-tls");
    assert_eq!(steps(&world.plan()), ["certificate push"]);
    world.observed.secrets.remove("demo-tickets");
    assert_eq!(steps(&world.plan()), ["certificate push", "tickets"]);
}

#[test]
fn keys_that_somebody_edited_are_made_anew() {
    for (secret, step) in [
        ("demo-ca", "Make"),
        ("demo-tickets", "tickets"),
        ("demo-development-tokens", "tokens"),
    ] {
        let mut world = World::settled(MINIMAL);
        world.observed.secrets.get_mut(secret).unwrap().as_made = false;
        assert_eq!(steps(&world.plan()), [step]);
        world.settle();
    }
    // What the user made is the user's.
    let mut world = World::settled(MINIMAL);
    world.change(|spec| {
        spec.auth.ticket_keys_secret = Some(SecretName {
            name: "keys".to_owned(),
        });
    });
    world.users_secret("keys", &["tickets"]);
    world.settle();
    assert!(!world.observed.secrets["keys"].as_made);
    assert!(steps(&world.plan()).is_empty());
}

/// Each step waits for the one before to have reached everybody.
#[test]
fn the_authority_is_replaced_step_by_step() {
    let mut world = World::settled(MINIMAL);
    let annotation =
        |world: &World, key: &str| world.observed.secrets["demo-ca"].annotations.get(key).cloned();
    world.advance(SignedDuration::from_hours(600 * 24));
    assert_eq!(
        steps(&world.plan()),
        ["AddNext"],
        "certificates are due as well, but follow"
    );
    world.carry_out(&world.plan());
    let next = annotation(&world, AUTHORITY_NEXT_ANNOTATION).unwrap();

    assert_eq!(
        steps(&world.plan()),
        all_certificates(),
        "with the next one among those to trust"
    );
    world.settle();
    world.advance(SignedDuration::from_mins(9));
    assert!(is_idle(&world.plan()));
    assert_eq!(world.plan().look_again.unwrap().as_secs(), 60);
    world.advance(SignedDuration::from_mins(1));
    assert_eq!(steps(&world.plan()), ["Switch"]);
    world.carry_out(&world.plan());
    assert_eq!(annotation(&world, AUTHORITY_NEXT_ANNOTATION), None);
    assert!(annotation(&world, AUTHORITY_PREVIOUS_ANNOTATION).is_some_and(|previous| previous != next));

    // Long after, but certificates are still of the former one.
    world.advance(SignedDuration::from_hours(1));
    let plan = world.plan();
    assert_eq!(steps(&plan), all_certificates());
    assert_eq!(plan.look_again, Some(crate::SOON));
    world.carry_out(&plan);
    assert_eq!(steps(&world.plan()), ["Forget"]);
    world.carry_out(&world.plan());
    assert_eq!(annotation(&world, AUTHORITY_PREVIOUS_ANNOTATION), None);
    assert_eq!(steps(&world.plan()), all_certificates(), "without the former one");
    world.settle();
    assert!(is_idle(&world.plan()));
}

#[test]
fn an_authority_that_is_over_or_lost_is_made_anew() {
    let mut world = World::settled(MINIMAL);
    world.advance(SignedDuration::from_hours(900 * 24));
    assert_eq!(steps(&world.plan()), ["Make"]);
    let mut world = World::settled(MINIMAL);
    world.observed.secrets.remove("demo-ca");
    let plan = world.plan();
    assert_eq!(steps(&plan), ["Make"]);
    assert!(
        plan.delete.is_empty() && plan.apply.is_empty(),
        "what serves goes on serving"
    );
}

#[test]
fn the_users_secrets_replace_the_operators() {
    let mut world = World::settled(MINIMAL);
    world.users_secret("issuers", &["2026.pem"]);
    world.users_secret("keys", &["tickets"]);
    world.change(|spec| {
        spec.auth.token_keys_secret = Some(SecretName {
            name: "issuers".to_owned(),
        });
        spec.auth.ticket_keys_secret = Some(SecretName {
            name: "keys".to_owned(),
        });
    });
    let plan = world.plan();
    assert_eq!(steps(&plan), [""; 0]);
    assert!(plan.delete.is_empty(), "pods still have the operator's");
    world.settle();
    assert!(!world.has(Kind::Secret, "demo-tickets"));
    assert!(!world.has(Kind::Secret, "demo-development-tokens"));
    let volumes =
        world.child(Kind::Deployment, "demo-gateway")["spec"]["template"]["spec"]["volumes"].to_string();
    assert!(
        volumes.contains("issuers") && volumes.contains("keys"),
        "{volumes}"
    );
    // And back again.
    world.change(|spec| spec.auth = imaccess_operator_api::options::AuthSpec::default());
    world.settle();
    assert!(world.has(Kind::Secret, "demo-tickets"));
    assert!(world.observed.secrets.contains_key("issuers"), "it is the user's");
}
