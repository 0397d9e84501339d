//! Plans of whole clusters.

use std::path::Path;

use super::*;
use crate::part::Kind;

pub(in crate::up) fn example(gateways: u16, businesses: Vec<BusinessConfig>) -> Result<Plan, String> {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let row = |first| (first..first + gateways).map(at).collect::<Vec<_>>();
    let addresses = Addresses {
        ipconfig: at(8_000),
        ipconfig_admin: at(8_001),
        echo: at(9_000),
        chat: at(9_100),
        push: vec![at(8_100)],
        push_admin: vec![at(8_200)],
        gateways: row(7_000),
        gateway_admin: row(7_200),
        state_admin: row(7_400),
        state_routes: row(7_600),
    };
    let file = |name: &str| PathBuf::from("d").join(name);
    let keys = Keys {
        token_signing: file("s"),
        token_public: file("p"),
        tickets: file("t"),
    };
    plan(
        &addresses,
        Wishes {
            shards: 1,
            businesses,
            businesses_file: file("businesses.yaml"),
            chat: true,
            custody: true,
            directory: "d".into(),
            keys,
        },
    )
}

#[test]
fn parts_agree_on_who_is_where() {
    let plan = example(2, Vec::new()).unwrap();
    let names: Vec<&str> = plan.parts.iter().map(|part| part.name.as_str()).collect();
    let expected = [
        "echo",
        "chat",
        "gateway-0",
        "state-0",
        "gateway-1",
        "state-1",
        "routing-0",
        "ipconfig",
    ];
    assert_eq!(names, expected);
    for (index, member) in plan.members.gateways.iter().enumerate() {
        let part = |name: String| &plan.parts.iter().find(|part| part.name == name).unwrap().config;
        let Config::Gateway(gateway) = part(format!("gateway-{index}")) else {
            panic!()
        };
        let Config::Sidecar(sidecar) = part(format!("state-{index}")) else {
            panic!()
        };
        assert_eq!(gateway.socket_dir, sidecar.socket_dir);
        assert!(gateway.custody && sidecar.custody);
        assert_eq!(
            (&member.name, &member.instance),
            (&gateway.name, &gateway.instance)
        );
        assert_eq!(member.routes, sidecar.route_listen.to_string());
        let target = &plan.targets.gateways[index];
        assert_eq!(
            (&target.name, &target.metrics),
            (&gateway.name, &gateway.admin_listen.to_string())
        );
        assert_eq!(target.endpoints[0].port, gateway.tcp[0].port());
        assert!(gateway.validate().is_ok() && sidecar.validate().is_ok());
    }
    let kinds = |kind| {
        plan.parts
            .iter()
            .filter(|part| part.config.kind() == kind)
            .count()
    };
    assert_eq!(
        (kinds(Kind::Gateway), kinds(Kind::Sidecar), kinds(Kind::Routing)),
        (2, 2, 1)
    );
}

#[test]
fn businesses_of_the_file_are_beside_the_examples() {
    let plan = example(1, vec![BusinessConfig::new(3, "greeter", "http://127.0.0.1:1")]).unwrap();
    let named = |plan: &Plan| {
        plan.businesses
            .iter()
            .map(|it| it.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(named(&plan), ["echo", "chat", "greeter"]);
    for part in &plan.parts {
        let file = match &part.config {
            Config::Sidecar(sidecar) => {
                assert_eq!(
                    sidecar.businesses.len(),
                    2,
                    "those of the file are read from there"
                );
                &sidecar.businesses_file
            }
            Config::Routing(routing) => &routing.businesses_file,
            Config::Ipconfig(ipconfig) => &ipconfig.businesses_file,
            _ => continue,
        };
        assert_eq!(
            file.as_deref(),
            Some(Path::new("d/businesses.yaml")),
            "{}",
            part.name
        );
    }
    let twice = example(1, vec![BusinessConfig::new(3, ECHO, "http://127.0.0.1:1")]).unwrap_err();
    assert!(twice.contains("echo"), "{twice}");
}

#[test]
fn chat_stands_aside_for_a_business_with_its_id_or_name() {
    for (id, name) in [(CHAT_ID, "other"), (3, CHAT)] {
        let plan = example(1, vec![BusinessConfig::new(id, name, "http://127.0.0.1:1")]).unwrap();
        assert!(plan.parts.iter().all(|part| part.config.kind() != Kind::Chat));
        let named: Vec<&str> = plan.businesses.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(named, [ECHO, name]);
    }
    let plan = example(1, Vec::new()).unwrap();
    let (fixed, _) = businesses(&plan.addresses, false, Vec::new()).unwrap();
    assert_eq!(names(&fixed).len(), 1, "unless it isn't wanted at all");
    let chat = plan.parts.iter().find_map(|part| match &part.config {
        Config::Chat(chat) => Some(chat),
        _ => None,
    });
    let chat = chat.unwrap();
    assert_eq!(
        (chat.business, chat.push.as_str()),
        (CHAT_ID, "http://127.0.0.1:8100")
    );
}
