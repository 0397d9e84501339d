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

/// App and device in one allocation: the app's length, the number of its attributes (two bytes), the app, the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(Box<[u8]>);

/// Bytes before the app.
const BEFORE: usize = 3;

impl Identity {
    /// Packs an app (at most 255 bytes, and the protocol allows 12) and a device.
    #[must_use]
    pub fn new(app: &str, device: &str) -> Self {
        let mut packed = Vec::with_capacity(BEFORE + app.len() + device.len());
        packed.push(u8::try_from(app.len()).expect("the protocol's app ids are at most 12 bytes"));
        packed.extend_from_slice(&[0, 0]);
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
        str::from_utf8(self.0.get(BEFORE..BEFORE + len).unwrap_or_default()).unwrap_or_default()
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &str {
        let len = self.0.first().map_or(0, |len| usize::from(*len));
        str::from_utf8(self.0.get(BEFORE + len..).unwrap_or_default()).unwrap_or_default()
    }

    /// The number of what is known of the device (see [`Attributes`](super::attributes::Attributes)); 0: nothing.
    #[must_use]
    pub fn attributes(&self) -> u16 {
        match *self.0 {
            [_, low, high, ..] => u16::from_le_bytes([low, high]),
            _ => 0,
        }
    }

    /// Notes that number.
    pub fn set_attributes(&mut self, number: u16) {
        if let Some(place) = self.0.get_mut(1..BEFORE) {
            place.copy_from_slice(&number.to_le_bytes());
        }
    }

    /// Whether it is this app's device.
    #[must_use]
    pub fn is(&self, app: &str, device: &str) -> bool {
        self.app() == app && self.device() == device
    }
}

/// One membership: the group's interned number, and whether a business gave it. Such a one stays with the session when the connection
/// is lost and comes back; one that the client asked for it asks for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member(u32);

/// Set for a membership that a business gave.
const GIVEN: u32 = 1 << 31;

impl Member {
    /// A membership. Group numbers are below 2^31, as there are fewer sessions.
    #[must_use]
    pub fn new(group: u32, given: bool) -> Self {
        Self(if given { group | GIVEN } else { group })
    }

    /// The group.
    #[must_use]
    pub fn group(self) -> u32 {
        self.0 & !GIVEN
    }

    /// Whether a business gave it.
    #[must_use]
    pub fn is_given(self) -> bool {
        self.0 & GIVEN != 0
    }
}

/// The memberships of one session. Most sessions are in no group or one.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum GroupSet {
    /// In none.
    #[default]
    None,
    /// In one.
    One(Member),
    /// In several; rewritten on every change, which is rare and short (at most 256).
    Many(Box<[Member]>),
}

impl GroupSet {
    /// The memberships.
    #[must_use]
    pub fn as_slice(&self) -> &[Member] {
        match self {
            Self::None => &[],
            Self::One(member) => std::slice::from_ref(member),
            Self::Many(members) => members,
        }
    }

    /// Whether it is in a group.
    #[must_use]
    pub fn contains(&self, group: u32) -> bool {
        self.as_slice().iter().any(|member| member.group() == group)
    }

    /// Adds a membership; whether it wasn't in that group. One that is given as well counts as given from then on.
    pub fn insert(&mut self, member: Member) -> bool {
        let members = self.as_slice();
        let known = members.iter().position(|other| other.group() == member.group());
        if known.is_some_and(|place| members[place].is_given() || !member.is_given()) {
            return false;
        }
        let others = members
            .iter()
            .copied()
            .filter(|other| other.group() != member.group());
        *self = Self::of(others.chain([member]).collect());
        known.is_none()
    }

    /// Takes it out of a group; whether it was in there.
    pub fn remove(&mut self, group: u32) -> bool {
        if !self.contains(group) {
            return false;
        }
        let rest = self.as_slice().iter().copied();
        *self = Self::of(rest.filter(|other| other.group() != group).collect());
        true
    }

    fn of(members: Vec<Member>) -> Self {
        match members[..] {
            [] => Self::None,
            [one] => Self::One(one),
            _ => Self::Many(members.into_boxed_slice()),
        }
    }
}

impl FromIterator<Member> for GroupSet {
    fn from_iter<T: IntoIterator<Item = Member>>(members: T) -> Self {
        Self::of(members.into_iter().collect())
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
        let mut with = who.clone();
        with.set_attributes(4_095);
        assert_eq!(
            (who.attributes(), with.attributes(), with.app(), with.device()),
            (0, 4_095, "app", "device-7")
        );
        assert_eq!((Identity::vacant().app(), Identity::vacant().device()), ("", ""));
    }

    #[test]
    fn groups_grow_and_shrink() {
        let asked = |group| Member::new(group, false);
        let given = |group| Member::new(group, true);
        let mut groups = GroupSet::None;
        assert!(groups.insert(asked(7)) && !groups.insert(asked(7)));
        assert!(groups.insert(given(9)) && groups.insert(asked(11)));
        assert_eq!(groups.as_slice(), [asked(7), given(9), asked(11)]);
        assert!(!groups.insert(asked(9)), "given, it stays so");
        assert!(!groups.insert(given(7)));
        assert_eq!(groups.as_slice(), [given(9), asked(11), given(7)]);
        assert!(groups.contains(11) && !groups.contains(8));
        assert!(groups.remove(9) && !groups.remove(9) && groups.remove(7));
        assert_eq!(groups, GroupSet::One(asked(11)));
        assert!(groups.remove(11));
        assert_eq!(groups, GroupSet::None);
        assert_eq!(size_of::<GroupSet>(), 24);
    }
}
