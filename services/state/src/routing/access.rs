//! Who may push for which business. What decides is here and pure; [`gate`] acts, [`token`] and [`keys`] find out who asks.

mod gate;
mod keys;
#[cfg(test)]
pub(crate) mod testing;
mod token;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use imaccess_common::business::{BusinessConfig, ServiceAccount};

pub(crate) use self::gate::{Gate, GateMetrics};
use self::token::TokenRefusal;

/// What is known of whoever calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The names of its certificate; empty without one.
    pub(crate) names: Arc<[String]>,
    /// Whose token it presented, verified.
    pub(crate) account: Option<ServiceAccount>,
}

/// Who may push.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// Names of certificates that may push for any business.
    clients: HashSet<String>,
    /// By business, the accounts whose tokens may push for it.
    pushers: HashMap<u32, HashSet<ServiceAccount>>,
}

/// Why a call is refused; the sentence is for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "say who pushes: by a client certificate of the cluster, or by a service account's token in the `authorization` \
         metadata (Bearer …)"
    )]
    Unknown,
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    #[error("the keys that verify tokens can't be read now; try again")]
    NoKeys,
    #[error("a certificate with the names {names:?} may not push; push_clients lists who may")]
    Certificate { names: Vec<String> },
    #[error(
        "the service account {namespace}/{service_account} may not push for the business {business}; list it among that \
         business's pushers"
    )]
    Account {
        namespace: String,
        service_account: String,
        business: u32,
    },
}

impl Refusal {
    /// The label of its counter.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Refusal::Unknown => "unknown",
            Refusal::Token(refusal) => refusal.label(),
            Refusal::NoKeys => "no_keys",
            Refusal::Certificate { .. } => "certificate",
            Refusal::Account { .. } => "account",
        }
    }
}

impl Table {
    pub(crate) fn new(clients: &[String], businesses: &[BusinessConfig]) -> Table {
        let pushers = businesses
            .iter()
            .map(|business| (business.id, business.pushers.iter().cloned().collect()));
        Table {
            clients: clients.iter().map(|name| name.to_ascii_lowercase()).collect(),
            pushers: pushers.collect(),
        }
    }

    /// Whether one of the names may push for any business.
    pub(crate) fn knows(&self, names: &[String]) -> bool {
        names
            .iter()
            .any(|name| self.clients.contains(&name.to_ascii_lowercase()))
    }
}

/// Whether `caller` may push for `business`.
pub(crate) fn authorize(caller: &Caller, business: u32, table: &Table) -> Result<(), Refusal> {
    if table.knows(&caller.names) {
        return Ok(());
    }
    match &caller.account {
        Some(account) => {
            let pushers = table.pushers.get(&business);
            if pushers.is_some_and(|pushers| pushers.contains(account)) {
                return Ok(());
            }
            Err(Refusal::Account {
                namespace: account.namespace.clone(),
                service_account: account.service_account.clone(),
                business,
            })
        }
        None if caller.names.is_empty() => Err(Refusal::Unknown),
        None => Err(Refusal::Certificate {
            names: caller.names.to_vec(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(namespace: &str, name: &str) -> ServiceAccount {
        ServiceAccount {
            namespace: namespace.to_owned(),
            service_account: name.to_owned(),
        }
    }

    #[test]
    fn who_may_push_for_what() {
        let business = |id: u32, pushers: Vec<ServiceAccount>| BusinessConfig {
            pushers,
            ..BusinessConfig::new(id, &format!("b{id}"), "http://b:1")
        };
        let table = Table::new(
            &["push.demo.default.imaccess.internal".to_owned()],
            &[
                business(1, vec![account("shop", "orders"), account("shop", "carts")]),
                business(2, vec![account("chat", "rooms")]),
                business(3, Vec::new()),
            ],
        );
        let push = &["other.name", "PUSH.demo.default.imaccess.internal"][..];
        let sidecar = &["sidecar.demo.default.imaccess.internal"][..];
        let orders = Some(account("shop", "orders"));
        let cases = [
            // A certificate that is listed pushes for any business, listed or not.
            (push, None, 1, "ok"),
            (push, None, 99, "ok"),
            (push, orders.clone(), 2, "ok"),
            // One of the same authority that isn't listed for nothing at all; its token counts.
            (sidecar, None, 1, "certificate"),
            (sidecar, orders.clone(), 1, "ok"),
            (sidecar, orders.clone(), 2, "account"),
            // A token pushes for the businesses that list its account.
            (&[], orders.clone(), 1, "ok"),
            (&[], Some(account("shop", "carts")), 1, "ok"),
            (&[], orders.clone(), 2, "account"),
            (&[], orders.clone(), 3, "account"),
            (&[], orders, 99, "account"),
            // Namespace and name both count.
            (&[], Some(account("evil", "orders")), 1, "account"),
            (&[], Some(account("shop", "order")), 1, "account"),
            (&[], None, 1, "unknown"),
        ];
        for (names, account, business, expected) in cases {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let caller = Caller {
                names: names.into(),
                account,
            };
            let verdict = authorize(&caller, business, &table);
            let said = verdict.as_ref().err().map_or("ok", Refusal::label);
            assert_eq!(said, expected, "{caller:?} for {business}");
        }
    }
}
