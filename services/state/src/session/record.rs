//! One session, as compact as it can be: this is the memory that an idle connection costs in the sidecar.

use imaccess_wire::Code;

use super::inflight::NONE;
use super::window::Window;

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// It has a connection (or had one when the link broke; the next snapshot tells).
    Online,
    /// It has lost its connection and may be resumed.
    Suspended,
    /// It is over; its offline event waits until routing knows of nothing newer.
    Leaving,
}

/// One session.
#[derive(Debug)]
pub struct Record {
    /// The session's id.
    pub id: [u8; 16],
    /// The epoch of its latest login.
    pub epoch: u64,
    /// Its connection's address on the link; 0: none.
    pub handle: u64,
    /// Low half of its connection's id; kept when the connection has ended, until that is settled with the gateway.
    pub serial: u64,
    /// Number of the delta that announced this epoch, or retracted it.
    pub announced: u64,
    /// All numbered pushes up to here are handled by the application.
    pub push_watermark: u64,
    /// Message ids seen.
    pub window: Window,
    /// App and device.
    pub who: Identity,
    /// Its groups on this shard.
    pub groups: GroupSet,
    /// First of its requests in flight, in the in-flight table.
    pub first_in_flight: u32,
    /// Distinguishes the sessions that had this record; part of the locator.
    pub generation: u32,
    /// Number of the link stream in whose snapshot (or login) its connection was last seen.
    pub seen_link: u32,
    /// Data frames received on its connection since that was opened, modulo 2^32: what the gateway forwarded beyond it is
    /// lost.
    pub forwarded: u32,
    /// Counts changes of phase, so that an old timer is told from the current one.
    pub phase_no: u16,
    /// Requests in flight.
    pub in_flight: u16,
    /// Why its connection went ([`Code`]).
    pub reason: u16,
    /// Where it is in its life.
    pub phase: Phase,
    /// It logged in here and no replica has confirmed it: if outranked, it stamps itself higher.
    pub fresh: bool,
}

impl Record {
    /// A session that has just logged in, or was restored.
    #[must_use]
    pub fn new(id: [u8; 16], epoch: u64, who: Identity) -> Self {
        Self {
            id,
            epoch,
            handle: 0,
            serial: 0,
            announced: 0,
            push_watermark: 0,
            window: Window::default(),
            who,
            groups: GroupSet::None,
            first_in_flight: NONE,
            generation: 0,
            seen_link: 0,
            forwarded: 0,
            phase_no: 0,
            in_flight: 0,
            reason: Code::Ok as u16,
            phase: Phase::Online,
            fresh: false,
        }
    }

    /// Moves to another phase.
    pub fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.phase_no = self.phase_no.wrapping_add(1);
    }
}

/// App and device in one allocation: a length byte, the app, the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(Box<[u8]>);

impl Identity {
    /// Packs an app (at most 255 bytes, and the protocol allows 12) and a device.
    #[must_use]
    pub fn new(app: &str, device: &str) -> Self {
        let mut packed = Vec::with_capacity(1 + app.len() + device.len());
        packed.push(u8::try_from(app.len()).expect("the protocol's app ids are at most 12 bytes"));
        packed.extend_from_slice(app.as_bytes());
        packed.extend_from_slice(device.as_bytes());
        Self(packed.into_boxed_slice())
    }

    /// No one: what a vacant record holds. Allocates nothing.
    #[must_use]
    pub fn vacant() -> Self {
        Self(Box::default())
    }

    /// The app.
    #[must_use]
    pub fn app(&self) -> &str {
        let len = self.0.first().map_or(0, |len| usize::from(*len));
        str::from_utf8(self.0.get(1..=len).unwrap_or_default()).unwrap_or_default()
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &str {
        let len = self.0.first().map_or(0, |len| usize::from(*len));
        str::from_utf8(self.0.get(1 + len..).unwrap_or_default()).unwrap_or_default()
    }

    /// Whether it is this app's device.
    #[must_use]
    pub fn is(&self, app: &str, device: &str) -> bool {
        self.app() == app && self.device() == device
    }
}

/// The groups of one session, as interned numbers. Most sessions are in none or one.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum GroupSet {
    /// In none.
    #[default]
    None,
    /// In one.
    One(u32),
    /// In several; rewritten on every change, which is rare and short (at most 256).
    Many(Box<[u32]>),
}

impl GroupSet {
    /// The groups.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        match self {
            Self::None => &[],
            Self::One(group) => std::slice::from_ref(group),
            Self::Many(groups) => groups,
        }
    }

    /// Adds a group; whether it wasn't in there.
    pub fn insert(&mut self, group: u32) -> bool {
        let groups = self.as_slice();
        if groups.contains(&group) {
            return false;
        }
        *self = if groups.is_empty() {
            Self::One(group)
        } else {
            Self::Many(groups.iter().copied().chain([group]).collect())
        };
        true
    }

    /// Takes a group out; whether it was in there.
    pub fn remove(&mut self, group: u32) -> bool {
        let groups = self.as_slice();
        if !groups.contains(&group) {
            return false;
        }
        let rest: Vec<u32> = groups.iter().copied().filter(|other| *other != group).collect();
        *self = match rest[..] {
            [] => Self::None,
            [one] => Self::One(one),
            _ => Self::Many(rest.into_boxed_slice()),
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_session_fits_its_budget() {
        // 384 bytes are allowed in all; the goal is 200. The record, its identity (app 8, device 36, and the
        // allocator's header and rounding), the two hash indices (5 bytes at worst half full) and the slot index.
        let record = size_of::<Record>();
        let identity = 64;
        let indices = 2 * 10 + 8;
        println!(
            "record {record} bytes, idle session {} bytes",
            record + identity + indices
        );
        assert!(record <= 136, "{record}");
        assert!(record + identity + indices <= 240);
    }

    #[test]
    fn identities_unpack() {
        let who = Identity::new("app", "device-7");
        assert_eq!((who.app(), who.device()), ("app", "device-7"));
        assert!(who.is("app", "device-7") && !who.is("ap", "pdevice-7"));
        assert_eq!((Identity::vacant().app(), Identity::vacant().device()), ("", ""));
    }

    #[test]
    fn groups_grow_and_shrink() {
        let mut groups = GroupSet::None;
        assert!(groups.insert(7) && !groups.insert(7) && groups.insert(9) && groups.insert(11));
        assert_eq!(groups.as_slice(), [7, 9, 11]);
        assert!(groups.remove(9) && !groups.remove(9) && groups.remove(7));
        assert_eq!(groups, GroupSet::One(11));
        assert!(groups.remove(11));
        assert_eq!(groups, GroupSet::None);
    }
}
