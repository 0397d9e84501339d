//! The two containers of gateway pods: which image, how often restarted, which stamp their binaries have.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use imaccess_operator_api::names::{Part, port};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use super::Installation;
use super::gateways::number;
use super::installation::is_serving;
use crate::Page;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Which {
    /// The gateway.
    Gateway,
    /// Its state sidecar.
    State,
}

/// One container at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The image that it is to run.
    pub image: String,
    /// How often it was started again.
    pub restarts: i32,
    /// The runtime's id of it, once it has one.
    pub id: String,
    /// Whether its probe says that it serves.
    pub ready: bool,
}

/// A gateway pod with both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayPod {
    /// Its name.
    pub name: String,
    /// Its UID: another one is another pod.
    pub uid: String,
    /// Its address.
    pub ip: IpAddr,
    /// Its node.
    pub node: String,
    /// Whether it serves, and isn't going away.
    pub serving: bool,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    gateway: Running,
    state: Running,
}

impl Which {
    /// Both.
    pub const ALL: [Which; 2] = [Which::Gateway, Which::State];

    /// The container's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::State => "state",
        }
    }

    fn pages(self) -> u16 {
        number(match self {
            Self::Gateway => port::GATEWAY_PAGES,
            Self::State => port::SIDECAR_PAGES,
        })
    }
}

impl GatewayPod {
    fn of(pod: &Pod) -> Option<Self> {
        let (metadata, spec, status) = (&pod.metadata, pod.spec.as_ref()?, pod.status.as_ref()?);
        // The sidecar is a native one, which stands among the init containers.
        let gateway = running(
            Which::Gateway,
            &spec.containers,
            status.container_statuses.as_deref().unwrap_or_default(),
        );
        let state = running(
            Which::State,
            spec.init_containers.as_deref().unwrap_or_default(),
            status.init_container_statuses.as_deref().unwrap_or_default(),
        );
        Some(Self {
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
            ip: status.pod_ip.as_ref()?.parse().ok()?,
            node: spec.node_name.clone()?,
            serving: is_serving(pod),
            annotations: metadata.annotations.clone().unwrap_or_default(),
            gateway: gateway?,
            state: state?,
        })
    }

    /// One of its containers.
    #[must_use]
    pub fn container(&self, which: Which) -> &Running {
        match which {
            Which::Gateway => &self.gateway,
            Which::State => &self.state,
        }
    }

    /// The metrics page of one of its containers.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub async fn page(&self, which: Which) -> Result<Page> {
        let address = SocketAddr::new(self.ip, which.pages());
        let page = Page::scrape(&address.to_string()).await;
        page.with_context(|| format!("{}/{}", self.name, which.as_str()))
    }

    /// The stamp of the binary that runs in one of its containers; empty if it has none.
    ///
    /// # Errors
    /// When its page doesn't answer, or doesn't say.
    pub async fn stamp(&self, which: Which) -> Result<String> {
        let page = self.page(which).await?;
        let stamp = page.label("imaccess_build_info", "stamp");
        let stamp = stamp.with_context(|| format!("{}/{} has no stamp", self.name, which.as_str()))?;
        Ok(stamp.to_owned())
    }
}

fn running(which: Which, containers: &[Container], statuses: &[ContainerStatus]) -> Option<Running> {
    let container = containers.iter().find(|one| one.name == which.as_str())?;
    let status = statuses.iter().find(|one| one.name == which.as_str());
    Some(Running {
        image: container.image.clone()?,
        restarts: status.map_or(0, |status| status.restart_count),
        id: status
            .and_then(|status| status.container_id.clone())
            .unwrap_or_default(),
        ready: status.is_some_and(|status| status.ready),
    })
}

impl Installation {
    /// The gateway pods that aren't going away and have an address, by name.
    ///
    /// # Errors
    /// When the API server doesn't list them.
    pub async fn gateway_pods(&self) -> Result<Vec<GatewayPod>> {
        let pods = self.pods(Part::Gateway).await?;
        let living = pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let mut pods: Vec<_> = living.filter_map(GatewayPod::of).collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pods)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_sidecar_is_found_among_the_init_containers() {
        let status = |name: &str, restarts: i32| {
            json!({"name": name, "restartCount": restarts, "ready": true, "image": "", "imageID": "",
                   "containerID": format!("containerd://{name}-{restarts}")})
        };
        let pod = json!({
            "metadata": {"name": "demo-gateway-x", "uid": "1-2"},
            "spec": {
                "nodeName": "node1",
                "containers": [{"name": "gateway", "image": "a:1"}],
                "initContainers": [{"name": "state", "image": "a:2"}],
            },
            "status": {
                "podIP": "10.0.0.7",
                "containerStatuses": [status("gateway", 1)],
                "initContainerStatuses": [status("state", 2)],
            },
        });
        let pod = GatewayPod::of(&serde_json::from_value(pod).unwrap()).unwrap();
        let seen = Which::ALL.map(|which| {
            let container = pod.container(which);
            (
                container.image.as_str(),
                container.restarts,
                container.id.as_str(),
            )
        });
        let expected = [
            ("a:1", 1, "containerd://gateway-1"),
            ("a:2", 2, "containerd://state-2"),
        ];
        assert_eq!((seen, pod.serving), (expected, false));
    }
}
