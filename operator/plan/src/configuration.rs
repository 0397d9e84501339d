//! What the parts are told: the ConfigMaps, made of what is read at the start only, which is kept as it was rendered
//! ([`rendered`](crate::rendered)), and of what running parts read again, which is always of now.

mod businesses;
pub(crate) mod gateway;
pub(crate) mod ipconfig;
pub(crate) mod routing;
pub(crate) mod sidecar;

use imaccess_operator_api::names::{AUTHORITY_BUNDLE_ANNOTATION, Part, key, port};
use imaccess_operator_api::quantity::Quantity;
use serde_json::{Map, Value, json};

use crate::canonical::{merge, yaml};
use crate::cluster::{Cluster, Desired};
use crate::plan::Kind;
use crate::rendered::Renderings;

/// Where a part's files are in its container.
pub(crate) mod path {
    /// Its ConfigMap.
    pub(crate) const CONFIGURATION: &str = "/etc/imaccess";
    /// Its certificate.
    pub(crate) const TLS: &str = "/etc/imaccess-tls";
    /// Ticket keys.
    pub(crate) const TICKETS: &str = "/etc/imaccess-tickets";
    /// Token keys.
    pub(crate) const TOKENS: &str = "/etc/imaccess-tokens";
    /// Sockets of gateway and sidecar.
    pub(crate) const SOCKETS: &str = "/run/imaccess";
    /// The sidecar's journal.
    pub(crate) const JOURNAL: &str = "/var/lib/imaccess";
}

/// Files of the ConfigMaps.
pub(crate) mod file {
    /// The gateway's.
    pub(crate) const GATEWAY: &str = "gateway.yaml";
    /// The sidecar's.
    pub(crate) const SIDECAR: &str = "sidecar.yaml";
    /// The routing layer's.
    pub(crate) const ROUTING: &str = "routing.yaml";
    /// ipconfig's.
    pub(crate) const IPCONFIG: &str = "ipconfig.yaml";
    /// The businesses, in all but the gateway's.
    pub(crate) const BUSINESSES: &str = "businesses.yaml";
}

/// The ConfigMaps of the parts, and the one with the authority's certificate as soon as there is one.
pub(crate) fn desired(cluster: &Cluster<'_>, renderings: &Renderings) -> Vec<Desired> {
    let names = &cluster.names;
    let businesses = yaml(&businesses::list(&cluster.spec.businesses));
    let config_map = |name: String, part: Part, data: Value| {
        cluster.part_object(Kind::ConfigMap, name, part, json!({"data": data}))
    };
    let start = |part: Part, file: &str| renderings.of(part).configuration[file].clone();

    let mut gateway = start(Part::Gateway, file::GATEWAY);
    merge(&mut gateway, &gateway::reloadable(cluster.spec));
    let sidecar = start(Part::Gateway, file::SIDECAR);
    let routing = start(Part::State, file::ROUTING);
    let ipconfig = start(Part::Ipconfig, file::IPCONFIG);
    let mut all = vec![
        config_map(
            names.part(Part::Gateway),
            Part::Gateway,
            json!({file::GATEWAY: yaml(&gateway)}),
        ),
        config_map(
            names.sidecar(),
            Part::Gateway,
            json!({file::SIDECAR: yaml(&sidecar), file::BUSINESSES: businesses}),
        ),
        config_map(
            names.part(Part::State),
            Part::State,
            json!({file::ROUTING: yaml(&routing), file::BUSINESSES: businesses}),
        ),
        config_map(
            names.part(Part::Ipconfig),
            Part::Ipconfig,
            json!({file::IPCONFIG: yaml(&ipconfig), file::BUSINESSES: businesses}),
        ),
    ];
    let authority = cluster.secret(&names.authority());
    if let Some(bundle) = authority.and_then(|facts| facts.annotations.get(AUTHORITY_BUNDLE_ANNOTATION)) {
        let fields = json!({"data": {key::AUTHORITY: bundle}});
        all.push(cluster.object(
            Kind::ConfigMap,
            names.authority(),
            &names.labels(),
            &Default::default(),
            fields,
        ));
    }
    all
}

/// The ConfigMaps that a part's pods mount.
pub(crate) fn mounted(cluster: &Cluster<'_>, part: Part) -> Vec<String> {
    match part {
        Part::Gateway => vec![cluster.names.part(part), cluster.names.sidecar()],
        Part::State | Part::Ipconfig => vec![cluster.names.part(part)],
    }
}

/// On every address: the pod's network decides who gets there.
fn listen(port: i32) -> String {
    format!("0.0.0.0:{port}")
}

/// The certificate that the pod mounts.
fn tls() -> Value {
    json!({
        "certificate": format!("{}/{}", path::TLS, key::CERTIFICATE),
        "key": format!("{}/{}", path::TLS, key::PRIVATE_KEY),
        "authority": format!("{}/{}", path::TLS, key::AUTHORITY),
    })
}

fn seconds(number: i32) -> String {
    format!("{number}s")
}

/// As the parts write and read sizes: in the greatest unit that divides it.
fn byte_size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 8] = [
        ("TiB", 1 << 40),
        ("TB", 1_000_000_000_000),
        ("GiB", 1 << 30),
        ("GB", 1_000_000_000),
        ("MiB", 1 << 20),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("KB", 1_000),
    ];
    let fits = |(_, scale): &&(&str, u64)| bytes >= *scale && bytes.is_multiple_of(*scale);
    match UNITS.iter().find(fits) {
        Some((name, scale)) => format!("{}{name}", bytes / scale),
        None => format!("{bytes}B"),
    }
}

/// The schema lets only quantities through; what isn't one after all is taken for nothing.
fn bytes(quantity: &Quantity) -> u64 {
    quantity.value().unwrap_or(0)
}

/// A map of files from pairs.
pub(crate) fn files<const N: usize>(files: [(&str, Value); N]) -> Value {
    Value::Object(
        files
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect::<Map<_, _>>(),
    )
}

/// The pages' port of a part's main container.
pub(crate) fn pages(part: Part) -> i32 {
    match part {
        Part::Gateway => port::GATEWAY_PAGES,
        Part::State => port::ROUTING_PAGES,
        Part::Ipconfig => port::IPCONFIG_PAGES,
    }
}

#[cfg(test)]
mod tests {
    use super::byte_size;

    #[test]
    fn sizes_are_written_in_the_greatest_unit_that_divides_them() {
        for (bytes, text) in [
            (65_536, "64KiB"),
            (1_000_000_000, "1GB"),
            (125_000_000, "125MB"),
            (1_500, "1500B"),
            (1 << 40, "1TiB"),
            (0, "0B"),
        ] {
            assert_eq!(byte_size(bytes), text);
        }
    }
}
