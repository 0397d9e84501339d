//! Pod templates, and the configuration that is read at the start only, as they were rendered: kept in a ConfigMap until their
//! inputs change. So a newer operator, which may render the same inputs differently, restarts nothing by itself: what it would do
//! otherwise comes with the next change of the specification.
//!
//! For that to hold, inputs must stay what they are: a field that a later version adds to them is left out
//! (`skip_serializing_if`) while it has its default. A golden test shows when that was forgotten.

use std::collections::BTreeMap;

use imaccess_operator_api::names::Part;
use serde_json::{Value, json};

use crate::canonical::{hash, sorted};
use crate::cluster::{Cluster, Desired};
use crate::plan::Kind;

/// What was rendered of one part.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rendering {
    /// Of what: a hash.
    pub(crate) inputs: String,
    /// The same in full, for saying what has changed; what an older operator kept hasn't got it.
    pub(crate) fields: Option<Value>,
    /// The pod template.
    pub(crate) template: Value,
    /// By file, what is read at the start only.
    pub(crate) configuration: Value,
}

/// What was rendered of each part.
#[derive(Clone, Debug)]
pub(crate) struct Renderings(BTreeMap<Part, Rendering>);

impl Renderings {
    /// One for each part.
    pub(crate) fn new(of: impl Fn(Part) -> Rendering) -> Renderings {
        Renderings(Part::ALL.into_iter().map(|part| (part, of(part))).collect())
    }

    /// One part's.
    pub(crate) fn of(&self, part: Part) -> &Rendering {
        // `new` makes one for each part.
        &self.0[&part]
    }

    /// The ConfigMap that keeps them.
    pub(crate) fn desired(&self, cluster: &Cluster<'_>) -> Desired {
        let mut data = BTreeMap::new();
        for (part, rendering) in &self.0 {
            let part = part.as_str();
            let text = |value: &Value| sorted(value).to_string();
            data.insert(format!("{part}.inputs"), rendering.inputs.clone());
            if let Some(fields) = &rendering.fields {
                data.insert(format!("{part}.fields"), text(fields));
            }
            data.insert(format!("{part}.json"), text(&rendering.template));
            data.insert(format!("{part}.configuration"), text(&rendering.configuration));
            data.insert(format!("{part}.checksum"), rendering.checksum());
        }
        let labels = cluster.names.labels();
        let fields = json!({"data": data});
        cluster.object(
            Kind::ConfigMap,
            cluster.names.rendered(),
            &labels,
            &BTreeMap::new(),
            fields,
        )
    }
}

impl Rendering {
    /// Of these inputs.
    pub(crate) fn new(inputs: Value, (template, configuration): (Value, Value)) -> Rendering {
        Rendering {
            inputs: hash(&inputs),
            fields: Some(inputs),
            template,
            configuration,
        }
    }

    /// So that what was edited by hand isn't taken for what was rendered.
    fn checksum(&self) -> String {
        hash(&json!([self.inputs, self.template, self.configuration]))
    }
}

/// What the ConfigMap has of a part, if it is whole.
pub(crate) fn kept(cluster: &Cluster<'_>, part: Part) -> Option<Rendering> {
    let store = cluster.live(Kind::ConfigMap, &cluster.names.rendered())?;
    let part = part.as_str();
    let entry = |key: &str| store["data"][format!("{part}.{key}")].as_str();
    let rendering = Rendering {
        inputs: entry("inputs")?.to_owned(),
        fields: entry("fields").and_then(|fields| serde_json::from_str(fields).ok()),
        template: serde_json::from_str(entry("json")?).ok()?,
        configuration: serde_json::from_str(entry("configuration")?).ok()?,
    };
    (entry("checksum") == Some(rendering.checksum().as_str())).then_some(rendering)
}
