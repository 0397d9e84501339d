//! Who is in which room. Pure.
//!
//! A device keeps its place while it is offline, so that it is brought back when it comes again.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::presence::Device;

/// Devices that are offline and keep their places; then the one that has been away for longest loses its own. Those that are online
/// are bounded by the cluster.
const AWAY: usize = 10_000;

/// All rooms that somebody has a place in.
#[derive(Debug, Default)]
pub struct Rooms {
    places: HashMap<Device, String>,
    rooms: BTreeMap<String, BTreeSet<Device>>,
    /// Devices that went offline, the longest away first. Some may be back, or have no place any more.
    away: VecDeque<Device>,
}

impl Rooms {
    /// Where a device is.
    #[must_use]
    pub fn room_of(&self, device: &Device) -> Option<&str> {
        self.places.get(device).map(String::as_str)
    }

    /// Puts a device into a room; gives the one in which it was before.
    pub fn enter(&mut self, device: &Device, room: &str) -> Option<String> {
        let before = self.leave(device);
        self.places.insert(device.clone(), room.to_owned());
        let devices = self.rooms.entry(room.to_owned()).or_default();
        devices.insert(device.clone());
        before
    }

    /// Takes a device out of its room; gives that room.
    pub fn leave(&mut self, device: &Device) -> Option<String> {
        let room = self.places.remove(device)?;
        if let Some(devices) = self.rooms.get_mut(&room) {
            devices.remove(device);
            if devices.is_empty() {
                self.rooms.remove(&room);
            }
        }
        Some(room)
    }

    /// Who has a place in a room, online or not.
    pub fn devices(&self, room: &str) -> impl Iterator<Item = &Device> {
        self.rooms.get(room).into_iter().flatten()
    }

    /// A device went offline. Whoever has been away for too long loses the place; `is_online` says who is back.
    pub fn went_away(&mut self, device: &Device, is_online: impl Fn(&Device) -> bool) {
        if !self.places.contains_key(device) {
            return;
        }
        self.away.push_back(device.clone());
        if self.away.len() > AWAY
            && let Some(longest) = self.away.pop_front()
            && !is_online(&longest)
        {
            self.leave(&longest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> Device {
        Device {
            app: "demo".to_owned(),
            name: name.to_owned(),
        }
    }

    fn names(rooms: &Rooms, room: &str) -> Vec<String> {
        rooms.devices(room).map(|device| device.name.clone()).collect()
    }

    #[test]
    fn a_device_is_in_one_room_at_a_time() {
        let mut rooms = Rooms::default();
        let (ann, ben) = (device("ann"), device("ben"));
        assert_eq!(rooms.enter(&ben, "lobby"), None);
        assert_eq!(rooms.enter(&ann, "lobby"), None);
        assert_eq!(names(&rooms, "lobby"), ["ann", "ben"]);
        assert_eq!(rooms.enter(&ann, "attic").as_deref(), Some("lobby"));
        assert_eq!(rooms.room_of(&ann), Some("attic"));
        assert_eq!(rooms.leave(&ann).as_deref(), Some("attic"));
        assert_eq!((rooms.leave(&ann), names(&rooms, "attic").len()), (None, 0));
        assert_eq!(rooms.rooms.len(), 1, "nothing is kept of an empty room");
    }

    #[test]
    fn whoever_has_been_away_for_longest_loses_the_place() {
        let mut rooms = Rooms::default();
        let back = device("d-0");
        for number in 0..AWAY + 2 {
            let device = device(&format!("d-{number}"));
            rooms.enter(&device, "lobby");
            rooms.went_away(&device, |device| *device == back);
        }
        rooms.went_away(&device("nobody"), |_| false);
        assert_eq!(rooms.away.len(), AWAY);
        assert_eq!(rooms.room_of(&back), Some("lobby"), "it is online again");
        assert_eq!(rooms.room_of(&device("d-1")), None);
        assert_eq!(rooms.room_of(&device("d-2")), Some("lobby"));
    }
}
