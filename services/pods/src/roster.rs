//! Events in, snapshots out. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1;
use kube::runtime::watcher::Event;

use crate::pod::{Pod, Pods, Seen};

/// What the events so far say.
///
/// A list is taken as a whole, when it is complete: until then what was known before stands. A pod that once had an
/// address keeps it until it ends or goes, also if the API server says for a moment that it has none: its sessions
/// don't depend on what is written about it.
#[derive(Debug, Default)]
pub struct Roster {
    /// By name; none before the first complete list.
    known: Option<ByName>,
    /// The list that is coming in.
    incoming: ByName,
}

type ByName = BTreeMap<String, Arc<Pod>>;

impl Roster {
    /// Takes an event; says the new snapshot if it differs from the last one.
    pub fn take(&mut self, event: Event<v1::Pod>) -> Option<Pods> {
        let changed = match event {
            Event::Init => {
                self.incoming.clear();
                false
            }
            Event::InitApply(object) => {
                let empty = ByName::new();
                insert(
                    &mut self.incoming,
                    self.known.as_ref().unwrap_or(&empty),
                    Seen::of(object),
                );
                false
            }
            Event::InitDone => {
                let list = Some(std::mem::take(&mut self.incoming));
                let changed = self.known != list;
                self.known = list;
                changed
            }
            // Neither comes before a complete list.
            Event::Apply(object) => self
                .known
                .as_mut()
                .is_some_and(|known| apply(known, Seen::of(object))),
            Event::Delete(object) => {
                let metadata = object.metadata;
                let name = metadata.name.unwrap_or_default();
                self.known
                    .as_mut()
                    .is_some_and(|known| remove(known, &name, metadata.uid.as_deref()))
            }
        };
        let known = self.known.as_ref().filter(|_| changed)?;
        Some(Pods::new(known.values().cloned().collect()))
    }
}

/// One object of a list; `before` is what was known of the pods until now.
fn insert(list: &mut ByName, before: &ByName, seen: Seen) {
    match seen {
        Seen::Pod(pod) => {
            list.insert(pod.name.clone(), Arc::from(pod));
        }
        Seen::NoAddress {
            name,
            uid,
            terminating,
        } => {
            if let Some(pod) = before.get(&name).filter(|pod| pod.uid == uid) {
                list.insert(name, without_address(pod, terminating));
            }
        }
        Seen::Ended { .. } | Seen::Nameless => (),
    }
}

/// One change; whether it changed anything.
fn apply(known: &mut ByName, seen: Seen) -> bool {
    match seen {
        Seen::Pod(pod) => {
            let same = known.get(&pod.name).is_some_and(|before| **before == *pod);
            if !same {
                known.insert(pod.name.clone(), Arc::from(pod));
            }
            !same
        }
        Seen::NoAddress {
            name,
            uid,
            terminating,
        } => match known.get(&name) {
            Some(before) if before.uid == uid => {
                let now = without_address(before, terminating);
                let changed = *before != now;
                known.insert(name, now);
                changed
            }
            // Another pod took the name, and has no address yet.
            Some(_) => known.remove(&name).is_some(),
            None => false,
        },
        Seen::Ended { name, uid } => remove(known, &name, Some(&uid)),
        Seen::Nameless => false,
    }
}

/// What was known of a pod, but for what its addressless present says: not ready, and perhaps going.
fn without_address(before: &Pod, terminating: bool) -> Arc<Pod> {
    Arc::new(Pod {
        ready: false,
        terminating: before.terminating || terminating,
        ..before.clone()
    })
}

/// Removes the pod with this name, unless it is another one than `uid`.
fn remove(known: &mut ByName, name: &str, uid: Option<&str>) -> bool {
    let it_is = known
        .get(name)
        .is_some_and(|pod| uid.is_none_or(|uid| pod.uid == uid));
    it_is && known.remove(name).is_some()
}

#[cfg(test)]
mod tests;
