//! Which parts there are and what each is told. Pure: no file, port or clock is touched.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use imaccess_common::business::{BusinessConfig, validate_all};
use imaccess_gateway::GatewayConfig;
use imaccess_ipconfig::{BusinessName, EndpointTarget, GatewayTarget, IpconfigConfig, TargetFile};
use imaccess_state::routing::{Member, MembersConfig, RoutingConfig};
use imaccess_state::sidecar::{SidecarConfig, TokenKeyConfig};
use serde::Serialize;

use super::keys::Keys;
use crate::chat::ChatConfig;
use crate::echo::EchoConfig;
use crate::part::Config;

/// The cluster's id: in tokens, tickets and endpoints.
const CLUSTER: &str = "local";
/// The echo business.
pub(super) const ECHO_ID: u32 = 1;
/// Its name.
pub(super) const ECHO: &str = "echo";
/// The chat business.
pub(super) const CHAT_ID: u32 = 2;
/// Its name.
pub(super) const CHAT: &str = "chat";
/// Clients are told and flushed within this when the cluster ends.
const DRAIN: Duration = Duration::from_secs(10);

/// Where everything listens.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    pub(super) ipconfig: SocketAddr,
    pub(super) ipconfig_admin: SocketAddr,
    pub(super) echo: SocketAddr,
    pub(super) chat: SocketAddr,
    /// One per routing replica.
    pub(super) push: Vec<SocketAddr>,
    pub(super) push_admin: Vec<SocketAddr>,
    /// One per gateway, and so on.
    pub(super) gateways: Vec<SocketAddr>,
    pub(super) gateway_admin: Vec<SocketAddr>,
    pub(super) state_admin: Vec<SocketAddr>,
    pub(super) state_routes: Vec<SocketAddr>,
}

/// What else decides.
#[derive(Debug, Clone)]
pub(super) struct Wishes {
    /// Per gateway.
    pub(super) shards: usize,
    /// Those of the file, as it is now.
    pub(super) businesses: Vec<BusinessConfig>,
    /// The file, which the parts read again when it changes.
    pub(super) businesses_file: PathBuf,
    /// Whether the chat business runs.
    pub(super) chat: bool,
    /// Whether each sidecar holds its gateway's sockets too.
    pub(super) custody: bool,
    pub(super) directory: PathBuf,
    pub(super) keys: Keys,
}

/// One part.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) config: Config,
}

impl Planned {
    /// The name of its configuration's file in the directory.
    pub(super) fn file(&self) -> String {
        format!("{}.yaml", self.name)
    }
}

/// The file with which routing learns of the instances.
#[derive(Debug, Clone, Serialize)]
pub(super) struct MemberFile {
    pub(super) gateways: Vec<Member>,
}

/// The whole cluster.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// In the order in which they are started.
    pub(super) parts: Vec<Planned>,
    pub(super) members: MemberFile,
    pub(super) targets: TargetFile,
    pub(super) addresses: Addresses,
    pub(super) businesses: Vec<BusinessName>,
}

/// Makes the plan; the error says what in the wishes can't be.
pub(super) fn plan(addresses: &Addresses, wishes: Wishes) -> Result<Plan, String> {
    let Wishes {
        shards,
        businesses: listed,
        businesses_file,
        chat,
        custody,
        directory,
        keys,
    } = wishes;
    let (fixed, all) = businesses(addresses, chat, listed)?;
    let mut parts = Vec::new();
    let mut part = |name: &str, config| {
        parts.push(Planned {
            name: name.to_owned(),
            config,
        });
    };
    part(
        ECHO,
        Config::Echo(Box::new(EchoConfig {
            listen: addresses.echo,
            ..EchoConfig::default()
        })),
    );
    if fixed.iter().any(|business| business.name == CHAT) {
        let chat = ChatConfig {
            listen: addresses.chat,
            business: CHAT_ID,
            // Any replica of the push API would do: each is complete.
            push: addresses
                .push
                .first()
                .map(|push| format!("http://{push}"))
                .unwrap_or_default(),
            ..ChatConfig::default()
        };
        part(CHAT, Config::Chat(Box::new(chat)));
    }
    let (mut members, mut targets) = (Vec::new(), Vec::new());
    for (index, tcp) in addresses.gateways.iter().enumerate() {
        let name = format!("gateway-{index}");
        let mut gateway = GatewayConfig {
            cluster: CLUSTER.to_owned(),
            name: name.clone(),
            instance: format!("{CLUSTER}-{name}"),
            tcp: vec![*tcp],
            socket_dir: directory.join(&name),
            shards,
            custody,
            admin_listen: addresses.gateway_admin[index],
            ..GatewayConfig::default()
        };
        gateway.deadlines.drain = DRAIN;
        members.push(Member {
            name: name.clone(),
            instance: gateway.instance.clone(),
            routes: addresses.state_routes[index].to_string(),
        });
        targets.push(GatewayTarget {
            name: name.clone(),
            metrics: gateway.admin_listen.to_string(),
            endpoints: vec![EndpointTarget {
                protocol: "tcp".to_owned(),
                host: tcp.ip().to_string(),
                port: tcp.port(),
                server_name: None,
            }],
            draining: false,
        });
        let sidecar = SidecarConfig {
            cluster: CLUSTER.to_owned(),
            socket_dir: gateway.socket_dir.clone(),
            custody,
            route_listen: addresses.state_routes[index],
            admin_listen: addresses.state_admin[index],
            ticket_keys_file: Some(keys.tickets.clone()),
            token_keys: vec![TokenKeyConfig {
                id: String::new(),
                pem: String::new(),
                file: Some(keys.token_public.clone()),
            }],
            businesses: fixed.clone(),
            businesses_file: Some(businesses_file.clone()),
            // A cluster that ends as a whole has no elsewhere.
            end_grace: Some(Duration::ZERO),
            ..SidecarConfig::default()
        };
        part(&name, Config::Gateway(Box::new(gateway)));
        part(&format!("state-{index}"), Config::Sidecar(Box::new(sidecar)));
    }
    for (index, push) in addresses.push.iter().enumerate() {
        let routing = RoutingConfig {
            cluster: CLUSTER.to_owned(),
            push_listen: *push,
            admin_listen: addresses.push_admin[index],
            businesses: fixed.clone(),
            businesses_file: Some(businesses_file.clone()),
            members: MembersConfig {
                file: Some(directory.join("members.json")),
                ..MembersConfig::default()
            },
            ..RoutingConfig::default()
        };
        part(&format!("routing-{index}"), Config::Routing(Box::new(routing)));
    }
    let ipconfig = IpconfigConfig {
        cluster: CLUSTER.to_owned(),
        listen: addresses.ipconfig,
        admin: addresses.ipconfig_admin,
        targets_file: Some(directory.join("targets.json")),
        businesses: names(&fixed),
        businesses_file: Some(businesses_file),
        development_signing_key: Some(keys.token_signing),
        ..IpconfigConfig::default()
    };
    part("ipconfig", Config::Ipconfig(Box::new(ipconfig)));
    Ok(Plan {
        parts,
        members: MemberFile { gateways: members },
        targets: TargetFile { gateways: targets },
        addresses: addresses.clone(),
        businesses: names(&all),
    })
}

/// The example businesses, and with them those of the file. Chat stands aside for one that has its id or name, so that a file
/// from elsewhere can be used as it is.
fn businesses(
    addresses: &Addresses,
    chat: bool,
    listed: Vec<BusinessConfig>,
) -> Result<(Vec<BusinessConfig>, Vec<BusinessConfig>), String> {
    let mut echo = BusinessConfig::new(ECHO_ID, ECHO, &format!("http://{}", addresses.echo));
    echo.events = true;
    echo.client_groups = true;
    let mut fixed = vec![echo];
    let taken = |business: &BusinessConfig| business.id == CHAT_ID || business.name == CHAT;
    if chat && !listed.iter().any(taken) {
        let mut chat = BusinessConfig::new(CHAT_ID, CHAT, &format!("http://{}", addresses.chat));
        chat.events = true;
        fixed.push(chat);
    }
    let mut all = fixed.clone();
    all.extend(listed);
    validate_all(&all)?;
    Ok((fixed, all))
}

fn names(businesses: &[BusinessConfig]) -> Vec<BusinessName> {
    let name = |business: &BusinessConfig| BusinessName {
        id: business.id,
        name: business.name.clone(),
    };
    businesses.iter().map(name).collect()
}

#[cfg(test)]
pub(super) mod tests;
