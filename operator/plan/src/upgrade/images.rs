//! The two images of a gateway pod, and where they stand in templates, inputs and pods.

use imaccess_operator_api::in_place::Side;
use imaccess_operator_api::names::Part;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// The gateway's image and its sidecar's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Images {
    pub(crate) gateway: String,
    pub(crate) state: String,
}

impl Images {
    /// Those that the specification asks for.
    pub(crate) fn wanted(cluster: &Cluster<'_>) -> Images {
        Images {
            gateway: cluster.image(Part::Gateway).to_owned(),
            state: cluster.image(Part::State).to_owned(),
        }
    }

    /// Those of a pod template.
    pub(crate) fn of_template(template: &Value) -> Images {
        let spec = &template["spec"];
        let image = |list: &Value, name: &str| {
            let mut containers = list.as_array().into_iter().flatten();
            let container = containers.find(|container| container["name"] == json!(name));
            let image = container.and_then(|container| container["image"].as_str());
            image.unwrap_or_default().to_owned()
        };
        Images {
            gateway: image(&spec["containers"], Side::Gateway.container()),
            state: image(&spec["initContainers"], Side::State.container()),
        }
    }

    /// Those of a pod.
    pub(crate) fn of_pod(pod: &Pod) -> Images {
        let spec = pod.spec.as_ref();
        let image = |containers: Option<&Vec<Container>>, name: &str| {
            let container = containers
                .into_iter()
                .flatten()
                .find(|container| container.name == name);
            container
                .and_then(|container| container.image.clone())
                .unwrap_or_default()
        };
        Images {
            gateway: image(spec.map(|spec| &spec.containers), Side::Gateway.container()),
            state: image(
                spec.and_then(|spec| spec.init_containers.as_ref()),
                Side::State.container(),
            ),
        }
    }

    pub(crate) fn of(&self, side: Side) -> &str {
        match side {
            Side::Gateway => &self.gateway,
            Side::State => &self.state,
        }
    }

    /// Puts them into a pod template.
    pub(crate) fn put_into_template(&self, template: &mut Value) {
        for (list, side) in [("containers", Side::Gateway), ("initContainers", Side::State)] {
            let containers = template["spec"][list].as_array_mut();
            for container in containers.into_iter().flatten() {
                if container["name"] == json!(side.container()) {
                    container["image"] = json!(self.of(side));
                }
            }
        }
    }

    /// Puts them into the inputs of a rendering.
    pub(crate) fn put_into_inputs(&self, inputs: &mut Value) {
        inputs["images"]["image"] = json!(self.gateway);
        inputs["stateImage"] = json!(self.state);
    }

    /// A strategic merge patch of a pod's, or a pod template's, `spec`.
    pub(crate) fn patch(&self) -> Value {
        json!({
            "containers": [{"name": Side::Gateway.container(), "image": self.gateway}],
            "initContainers": [{"name": Side::State.container(), "image": self.state}],
        })
    }
}
