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
    /// The pod template.
    pub(crate) template: Value,
    /// By file, what is read at the start only.
    pub(crate) configuration: Value,
}

/// What was rendered of each part.
#[derive(Clone, Debug)]
pub(crate) struct Renderings(BTreeMap<Part, Rendering>);

impl Renderings {
    /// Kept where the inputs are the same, rendered anew where not: `inputs` and `render` are asked for each part.
    pub(crate) fn new(
        cluster: &Cluster<'_>,
        inputs: impl Fn(Part) -> Value,
        render: impl Fn(Part) -> (Value, Value),
    ) -> Renderings {
        let store = cluster.live(Kind::ConfigMap, &cluster.names.rendered());
        let of = |part: Part| {
            let inputs = hash(&inputs(part));
            let kept = store.and_then(|store| kept(store, part));
            let rendering = kept.filter(|kept| kept.inputs == inputs).unwrap_or_else(|| {
                let (template, configuration) = render(part);
                Rendering {
                    inputs,
                    template,
                    configuration,
                }
            });
            (part, rendering)
        };
        Renderings(Part::ALL.into_iter().map(of).collect())
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
    /// So that what was edited by hand isn't taken for what was rendered.
    fn checksum(&self) -> String {
        hash(&json!([self.inputs, self.template, self.configuration]))
    }
}

/// What the ConfigMap has of a part, if it is whole.
fn kept(store: &Value, part: Part) -> Option<Rendering> {
    let part = part.as_str();
    let entry = |key: &str| store["data"][format!("{part}.{key}")].as_str();
    let rendering = Rendering {
        inputs: entry("inputs")?.to_owned(),
        template: serde_json::from_str(entry("json")?).ok()?,
        configuration: serde_json::from_str(entry("configuration")?).ok()?,
    };
    (entry("checksum") == Some(rendering.checksum().as_str())).then_some(rendering)
}
