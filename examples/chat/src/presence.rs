//! Which devices are online, from the events and snapshots of the access layer. Pure.
//!
//! Events come at least once; those of one device in order where they come over one stream, and in any order where they come
//! over several. The epoch puts them right: each login of a device has a higher one, so that what has a lower epoch than is known is about
//! an older login. A snapshot says who is online at one *dialler*, that is, one worker of one gateway; it is asked for at the
//! beginning of a stream, since events that a former server acknowledged don't come again, and when the access layer had to drop events.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use imaccess_proto::v1::{ConnectionEvent, EventKind};

/// Devices that went offline and are remembered, so that what comes late about them is known to be late. The oldest are forgotten.
const GONE: usize = 10_000;

/// A device of an app.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    /// Its app.
    pub app: String,
    /// Its id in the app.
    pub name: String,
}

/// What an event changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The device has a session that it didn't have before: nothing is left of an earlier one, memberships included.
    Online(Device),
    /// Its session is over.
    Offline(Device),
}

/// Who is online.
#[derive(Debug, Default)]
pub struct Presence {
    known: HashMap<Device, Known>,
    /// Those that went offline, the oldest first. Some may be online again.
    gone: VecDeque<Device>,
}

#[derive(Debug)]
struct Known {
    online: bool,
    epoch: u64,
    session: Bytes,
    /// Who told of it last.
    dialler: Arc<str>,
}

/// A snapshot that is being received. Whoever is heard of while it is, isn't offline for not being in it.
#[derive(Debug, Default)]
pub struct Snapshot {
    heard: HashSet<Device>,
}

impl Snapshot {
    /// Takes a row, or an event that comes between the rows.
    pub fn hear(&mut self, event: &ConnectionEvent) {
        if event.kind() == EventKind::Online {
            self.heard.insert(device(event));
        }
    }
}

impl Presence {
    /// Whether a device is online.
    #[must_use]
    pub fn is_online(&self, device: &Device) -> bool {
        self.known.get(device).is_some_and(|known| known.online)
    }

    /// Takes an event, or a snapshot's row, that `dialler` told of; gives what it changes, if anything.
    pub fn hear(&mut self, dialler: &Arc<str>, event: &ConnectionEvent) -> Option<Change> {
        let device = device(event);
        let known = self.known.get(&device);
        let news = |known: &Known| (event.epoch, &event.session) != (known.epoch, &known.session);
        match event.kind() {
            EventKind::Online => {
                // A login that was heard of before changes nothing: if that is over, it stays over.
                if known.is_some_and(|known| event.epoch < known.epoch || !news(known)) {
                    return None;
                }
                // The same session may be announced again under a higher epoch, after it went on elsewhere.
                let goes_on = known.is_some_and(|known| known.online && known.session == event.session);
                self.know(&device, dialler, event, true);
                (!goes_on).then_some(Change::Online(device))
            }
            // A session whose state was lost is over as well: the device logs in anew.
            EventKind::Offline | EventKind::SessionLost => {
                let older =
                    |known: &Known| event.epoch < known.epoch || (event.epoch == known.epoch && news(known));
                if known.is_some_and(older) {
                    return None;
                }
                let was_online = known.is_some_and(|known| known.online);
                self.know(&device, dialler, event, false);
                self.remember_gone(device.clone());
                was_online.then_some(Change::Offline(device))
            }
            EventKind::ResyncNeeded | EventKind::Unspecified => None,
        }
    }

    /// The snapshot is whole: whoever was online at `dialler` and isn't in it isn't any more.
    pub fn finish(&mut self, dialler: &str, snapshot: &Snapshot) -> Vec<Change> {
        let missing = |(device, known): (&Device, &mut Known)| {
            let missing = known.online && *known.dialler == *dialler && !snapshot.heard.contains(device);
            known.online &= !missing;
            missing.then(|| device.clone())
        };
        let offline: Vec<Device> = self.known.iter_mut().filter_map(missing).collect();
        for device in &offline {
            self.remember_gone(device.clone());
        }
        offline.into_iter().map(Change::Offline).collect()
    }

    fn know(&mut self, device: &Device, dialler: &Arc<str>, event: &ConnectionEvent, online: bool) {
        let known = Known {
            online,
            epoch: event.epoch,
            session: event.session.clone(),
            dialler: Arc::clone(dialler),
        };
        self.known.insert(device.clone(), known);
    }

    fn remember_gone(&mut self, device: Device) {
        self.gone.push_back(device);
        if self.gone.len() > GONE
            && let Some(oldest) = self.gone.pop_front()
            && !self.is_online(&oldest)
        {
            self.known.remove(&oldest);
        }
    }
}

fn device(event: &ConnectionEvent) -> Device {
    Device {
        app: event.app.clone(),
        name: event.device.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, name: &str, epoch: u64) -> ConnectionEvent {
        ConnectionEvent {
            kind: kind.into(),
            app: "demo".to_owned(),
            device: name.to_owned(),
            session: format!("session {epoch}").into(),
            epoch,
            ..ConnectionEvent::default()
        }
    }

    fn named(name: &str) -> Device {
        Device {
            app: "demo".to_owned(),
            name: name.to_owned(),
        }
    }

    struct World {
        presence: Presence,
        diallers: [Arc<str>; 2],
    }

    impl World {
        fn new() -> Self {
            Self {
                presence: Presence::default(),
                diallers: ["gateway-0.0".into(), "gateway-1.0".into()],
            }
        }

        /// What an event about alice of this dialler and epoch changes.
        fn hear(&mut self, dialler: usize, kind: EventKind, epoch: u64) -> Option<bool> {
            let change = self
                .presence
                .hear(&self.diallers[dialler], &event(kind, "alice", epoch));
            let online = change.map(|change| change == Change::Online(named("alice")));
            if let Some(online) = online {
                assert_eq!(self.presence.is_online(&named("alice")), online);
            }
            online
        }
    }

    use EventKind::{Offline, Online, SessionLost};

    #[test]
    fn what_comes_twice_changes_once() {
        let mut world = World::new();
        assert_eq!(world.hear(0, Online, 1), Some(true));
        assert_eq!(world.hear(0, Online, 1), None);
        assert_eq!(world.hear(0, Offline, 1), Some(false));
        assert_eq!(
            (world.hear(0, Online, 1), world.hear(0, Offline, 1)),
            (None, None)
        );
        assert!(!world.presence.is_online(&named("alice")));
        assert_eq!(world.hear(0, Online, 2), Some(true));
        assert_eq!(world.hear(0, SessionLost, 2), Some(false));
    }

    #[test]
    fn an_older_login_is_no_news_wherever_it_comes_from() {
        let mut world = World::new();
        assert_eq!(world.hear(1, Online, 5), Some(true));
        assert_eq!(world.hear(0, Online, 3), None);
        assert_eq!(world.hear(0, Offline, 3), None);
        assert!(world.presence.is_online(&named("alice")));
        assert_eq!(
            world.hear(0, Online, 7),
            Some(true),
            "a new session: memberships of the other are gone"
        );
        assert_eq!(world.hear(1, Offline, 5), None);
    }

    #[test]
    fn a_session_that_goes_on_elsewhere_is_no_new_one() {
        let mut world = World::new();
        world.hear(0, Online, 1);
        let mut moved = event(Online, "alice", 4);
        moved.session = "session 1".into();
        assert_eq!(world.presence.hear(&world.diallers[1], &moved), None);
        assert_eq!(world.hear(0, Offline, 1), None);
        assert!(world.presence.is_online(&named("alice")));
    }

    #[test]
    fn a_snapshot_ends_those_that_it_does_not_name_and_nobody_else() {
        let mut world = World::new();
        let [here, there] = world.diallers.clone();
        for (dialler, name) in [
            (&here, "stays"),
            (&here, "left"),
            (&there, "elsewhere"),
            (&here, "moved"),
        ] {
            world.presence.hear(dialler, &event(Online, name, 1));
        }
        let mut snapshot = Snapshot::default();
        let rows = [event(Online, "stays", 1), event(Online, "new", 2)];
        let mut changes = Vec::new();
        for row in &rows {
            snapshot.hear(row);
            changes.extend(world.presence.hear(&here, row));
        }
        // While it comes: one logs in here, one logs in elsewhere.
        let late = event(Online, "late", 3);
        snapshot.hear(&late);
        changes.extend(world.presence.hear(&here, &late));
        changes.extend(world.presence.hear(&there, &event(Online, "moved", 3)));
        changes.extend(world.presence.finish(&here, &snapshot));
        let online = |name| Change::Online(named(name));
        let expected = [
            online("new"),
            online("late"),
            online("moved"),
            Change::Offline(named("left")),
        ];
        assert_eq!(changes, expected);
        for (name, expected) in [
            ("stays", true),
            ("left", false),
            ("elsewhere", true),
            ("moved", true),
            ("new", true),
            ("late", true),
        ] {
            assert_eq!(world.presence.is_online(&named(name)), expected, "{name}");
        }
        // A row that comes after the event that it contradicts is about the past.
        world.presence.hear(&here, &event(Offline, "late", 3));
        assert_eq!(world.presence.hear(&here, &late), None);
    }

    #[test]
    fn what_is_remembered_of_those_who_left_is_bounded() {
        let mut world = World::new();
        let here = world.diallers[0].clone();
        for number in 0..GONE + 5 {
            let name = format!("d-{number}");
            world.presence.hear(&here, &event(Online, &name, 1));
            world.presence.hear(&here, &event(Offline, &name, 1));
        }
        assert_eq!(
            (world.presence.known.len(), world.presence.gone.len()),
            (GONE, GONE)
        );
    }
}
