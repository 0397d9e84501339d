//! What the operator remembers of a cluster between passes, so as not to repeat itself. All of it may be lost.

use std::collections::{BTreeSet, HashMap};

use aws_lc_rs::digest;
use imaccess_operator_plan::observed::ChildId;
use imaccess_operator_plan::plan::{Child, Notice};

use crate::kinds::Key;

/// Of all clusters.
#[derive(Debug, Default)]
pub struct Memory {
    clusters: HashMap<Key, Cluster>,
}

#[derive(Debug, Default)]
struct Cluster {
    /// Applied, and answered without a change: what was desired, and the resource version.
    settled: HashMap<ChildId, (Vec<u8>, String)>,
    /// What people have been told and still holds.
    told: BTreeSet<(bool, String, String)>,
}

impl Memory {
    /// Whether the API server has already said that applying this, as the object now is, changes nothing. Without this an object
    /// with a field that others share (an element more in a list) would be applied again and again.
    #[must_use]
    pub fn is_settled(&self, key: &Key, child: &Child) -> bool {
        let Some(version) = &child.resource_version else {
            return false;
        };
        self.clusters
            .get(key)
            .and_then(|cluster| cluster.settled.get(&child.id))
            .is_some_and(|(desired, known)| known == version && *desired == hash(child))
    }

    /// Takes note of the version that the API server answered an apply with.
    pub fn applied(&mut self, key: &Key, child: &Child, answered: Option<&str>) {
        let cluster = self.clusters.entry(key.clone()).or_default();
        match answered {
            Some(version) if child.resource_version.as_deref() == Some(version) => {
                cluster
                    .settled
                    .insert(child.id.clone(), (hash(child), version.to_owned()));
            }
            _ => {
                cluster.settled.remove(&child.id);
            }
        }
    }

    /// Those of `notices` that people haven't been told; what isn't among them any more is forgotten, so that it is told again
    /// when it comes back.
    pub fn news(&mut self, key: &Key, notices: Vec<Notice>) -> Vec<Notice> {
        let cluster = self.clusters.entry(key.clone()).or_default();
        let said = |notice: &Notice| (notice.warning, notice.reason.clone(), notice.note.clone());
        let now: BTreeSet<_> = notices.iter().map(said).collect();
        let news = notices
            .into_iter()
            .filter(|notice| !cluster.told.contains(&said(notice)))
            .collect();
        cluster.told = now;
        news
    }

    /// The cluster is gone.
    pub fn forget(&mut self, key: &Key) {
        self.clusters.remove(key);
    }
}

fn hash(child: &Child) -> Vec<u8> {
    digest::digest(&digest::SHA256, child.object.to_string().as_bytes())
        .as_ref()
        .to_vec()
}

#[cfg(test)]
mod tests {
    use imaccess_operator_plan::plan::Kind;
    use serde_json::json;

    use super::*;

    fn child(port: u16, version: Option<&str>) -> Child {
        Child {
            id: ChildId {
                kind: Kind::Service,
                name: "demo".to_owned(),
            },
            object: json!({"spec": {"port": port}}),
            resource_version: version.map(str::to_owned),
            why: "changed: spec".to_owned(),
            step: None,
        }
    }

    #[test]
    fn what_changes_nothing_is_not_sent_again_until_something_changes() {
        let key = Key::new("default", "demo");
        let mut memory = Memory::default();
        let first = child(1, Some("7"));
        assert!(!memory.is_settled(&key, &first));
        memory.applied(&key, &first, Some("8"));
        assert!(
            !memory.is_settled(&key, &child(1, Some("8"))),
            "it did change something"
        );
        memory.applied(&key, &child(1, Some("8")), Some("8"));
        assert!(memory.is_settled(&key, &child(1, Some("8"))));
        assert!(
            !memory.is_settled(&key, &child(2, Some("8"))),
            "something else is desired"
        );
        assert!(
            !memory.is_settled(&key, &child(1, Some("9"))),
            "the object has changed"
        );
        assert!(!memory.is_settled(&key, &child(1, None)), "it is gone");
        assert!(!memory.is_settled(&Key::new("other", "demo"), &child(1, Some("8"))));
        memory.forget(&key);
        assert!(!memory.is_settled(&key, &child(1, Some("8"))));
    }

    #[test]
    fn people_are_told_once_and_again_when_it_comes_back() {
        let key = Key::new("default", "demo");
        let mut memory = Memory::default();
        let notice = |note: &str| Notice {
            warning: true,
            reason: "ImagePull".to_owned(),
            note: note.to_owned(),
            container: None,
        };
        assert_eq!(memory.news(&key, vec![notice("a")]).len(), 1);
        assert_eq!(memory.news(&key, vec![notice("a"), notice("b")]), [notice("b")]);
        assert!(memory.news(&key, vec![]).is_empty());
        assert_eq!(memory.news(&key, vec![notice("a")]), [notice("a")]);
    }
}
