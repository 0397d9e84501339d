//! What is held, for whom, and when nobody comes for it any more. Free of sockets and clocks: generic over the descriptor,
//! with time as an argument. Whoever gets descriptors back from here closes them.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use hashbrown::HashMap;
use imaccess_common::clock::CoarseInstant;
use imaccess_common::generation::Span;
use imaccess_proto::v1::{Held, HeldKind};

use super::newcomer::{MAX_SHARDS, Newcomer, Refusal, Role};

/// Longest state of a transport in bytes, as the contract has it.
const MAX_TRANSPORT_STATE: usize = 256;
/// Longest "ip:port" in bytes: an IPv6 address with a scope, and room.
const MAX_ADDRESS: usize = 80;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// A held client socket. With its id 24 bytes: there are as many as connections.
#[derive(Debug)]
struct Socket<D> {
    descriptor: D,
    /// Number of the connection that deposited it last.
    depositor: u32,
    transport: i32,
}

#[derive(Debug)]
struct Listener<D> {
    descriptor: D,
    depositor: u32,
    transport: i32,
    address: String,
}

#[derive(Debug)]
struct Connection {
    incarnation: u32,
    role: Role,
    complete: bool,
}

/// What is to be closed because no gateway has come.
#[derive(Debug)]
pub(super) struct Due<D> {
    /// Listeners whose time is over.
    pub(super) listeners: Vec<D>,
    /// Sockets whose time is over; `Some` once per absence, also when there are none: all connections are gone.
    pub(super) sockets: Option<Vec<D>>,
}

/// All that is held.
#[derive(Debug)]
pub(super) struct Store<D> {
    sockets: Map<u64, Socket<D>>,
    /// Of the sockets that have one; none for TCP.
    transport_states: Map<u64, Box<[u8]>>,
    listeners: BTreeMap<u64, Listener<D>>,
    /// Whose it all is.
    instance: Option<String>,
    /// The highest incarnation seen.
    highest: u32,
    /// Connections that are let in, all of the highest incarnation.
    connections: BTreeMap<u32, Connection>,
    last_number: u32,
    /// Since when no gateway is here; `None`: one is.
    away_since: Option<CoarseInstant>,
    /// Whether a gateway was ever here: only then can it be missed.
    missed: bool,
    /// Since when the gateway that is here has said nothing, neither here nor on its links; `None`: it has, or none is here.
    silent_since: Option<CoarseInstant>,
    /// The one that is here was silent for too long, and what it had is ended.
    given_up: bool,
    /// When the time was looked at last.
    looked: CoarseInstant,
    /// How long listeners and sockets are kept without a gateway.
    keep_listeners: Duration,
    keep_sockets: Duration,
}

impl<D> Store<D> {
    /// Holds nothing yet. Without a gateway listeners and sockets are kept for so long.
    pub(super) fn new(keep_listeners: Duration, keep_sockets: Duration, now: CoarseInstant) -> Self {
        Self {
            sockets: Map::default(),
            transport_states: Map::default(),
            listeners: BTreeMap::new(),
            instance: None,
            highest: 0,
            connections: BTreeMap::new(),
            last_number: 0,
            away_since: Some(now),
            missed: false,
            silent_since: None,
            given_up: false,
            looked: now,
            keep_listeners,
            keep_sockets,
        }
    }

    // === Gateways come and go ===

    /// Whether it may come in, and by which generation.
    ///
    /// # Errors
    /// Says why not.
    pub(super) fn check(&self, newcomer: &Newcomer<'_>, ours: Span) -> Result<u32, Refusal> {
        let theirs = newcomer.speaks;
        let Some(generation) = ours.common(theirs) else {
            return Err(Refusal::Generation { theirs, ours });
        };
        if let Role::Shard { shard, shards } = newcomer.role
            && (shard >= shards || shards > MAX_SHARDS)
        {
            return Err(Refusal::Shard { shard, shards });
        }
        let (incarnation, highest) = (newcomer.incarnation, self.highest);
        // Incarnations of different instances say nothing about each other.
        if self.is_same_instance(newcomer) && incarnation < highest {
            return Err(Refusal::Fenced { incarnation, highest });
        }
        Ok(generation)
    }

    /// The connections that end when it comes in: of earlier incarnations, of another instance, and the one that its shard
    /// had. What they sent and nobody has read yet is to be applied before [`Self::admit`]: a gateway that was killed a
    /// moment ago may have deposited something there.
    pub(super) fn ended_by(&self, newcomer: &Newcomer<'_>) -> Vec<u32> {
        let same = self.is_same_instance(newcomer);
        let ends = |connection: &Connection| {
            let of_its_shard = match (connection.role, newcomer.role) {
                (Role::Shard { shard, .. }, Role::Shard { shard: its, .. }) => shard == its,
                _ => false,
            };
            !same || connection.incarnation < newcomer.incarnation || of_its_shard
        };
        let ended = self.connections.iter().filter(|(_, connection)| ends(connection));
        ended.map(|(number, _)| *number).collect()
    }

    /// Lets it in, after [`Self::check`], and ends the connections of [`Self::ended_by`]. Returns its number, and all that was
    /// held for another instance: a lost volume makes a new instance, and nobody will ever come for what the old one had.
    pub(super) fn admit(&mut self, newcomer: &Newcomer<'_>) -> (u32, Vec<D>) {
        for number in self.ended_by(newcomer) {
            self.connections.remove(&number);
        }
        let mut strangers = Vec::new();
        if !self.is_same_instance(newcomer) {
            strangers = self.take_listeners();
            strangers.append(&mut self.take_sockets());
            self.highest = 0;
        }
        self.instance = Some(newcomer.instance.to_owned());
        self.highest = self.highest.max(newcomer.incarnation);
        self.last_number += 1;
        let connection = Connection {
            incarnation: newcomer.incarnation,
            role: newcomer.role,
            complete: false,
        };
        self.connections.insert(self.last_number, connection);
        self.away_since = None;
        self.missed = true;
        self.heard();
        (self.last_number, strangers)
    }

    /// A connection is gone; nothing if it had been ended already. Whether that was the last.
    pub(super) fn leave(&mut self, number: u32, now: CoarseInstant) -> bool {
        if self.connections.remove(&number).is_none() || !self.connections.is_empty() {
            return false;
        }
        self.away_since = Some(now);
        true
    }

    /// The time is looked at, as it is several times within `keep_listeners`. If it wasn't, this process has stood still (it was stopped, or
    /// its machine slept), and couldn't have heard a gateway meanwhile: that time is held against none.
    pub(super) fn look_at_clock(&mut self, now: CoarseInstant) {
        let still = now.since(mem::replace(&mut self.looked, now));
        if still <= self.keep_listeners / 2 {
            return;
        }
        tracing::warn!(
            ?still,
            "this process stood still; a gateway that is away has that much longer"
        );
        for since in [&mut self.away_since, &mut self.silent_since] {
            *since = since.map(|since| since.after(still).min(now));
        }
    }

    /// The gateway of this incarnation is linked (0: none). If it is the one that deposited, it isn't away, it only can't reach the
    /// custodian. A later one that never came here does without custody, and what the one before left is nobody's. One that is here and
    /// isn't linked says nothing, until it is heard here.
    pub(super) fn seen(&mut self, incarnation: u32, now: CoarseInstant) {
        if incarnation > 0 || self.connections.is_empty() {
            self.heard();
        } else {
            self.silent_since.get_or_insert(now);
        }
        if incarnation > 0
            && incarnation <= self.highest
            && let Some(since) = &mut self.away_since
        {
            *since = now;
        }
    }

    /// The gateway that is here has said something.
    pub(super) fn heard(&mut self) {
        self.silent_since = None;
        self.given_up = false;
    }

    fn is_same_instance(&self, newcomer: &Newcomer<'_>) -> bool {
        self.instance
            .as_ref()
            .is_none_or(|instance| instance == newcomer.instance)
    }

    /// Whether a connection is let in and not ended.
    pub(super) fn is_current(&self, number: u32) -> bool {
        self.connections.contains_key(&number)
    }

    /// How long no gateway has been here; zero while one is.
    pub(super) fn away(&self, now: CoarseInstant) -> Duration {
        self.away_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// Whether one is here.
    pub(super) fn gateway_is_here(&self) -> bool {
        self.away_since.is_none()
    }

    /// What is to be closed now because none has come.
    pub(super) fn due(&mut self, now: CoarseInstant) -> Due<D> {
        let away = self.away(now);
        let over = self.away_since.is_some() && self.missed;
        let listeners = if over && away >= self.keep_listeners {
            self.take_listeners()
        } else {
            Vec::new()
        };
        // A process that hangs keeps its connections open here, as it keeps its clients'. Its listeners are left to it: it may go on, and
        // couldn't serve anybody without them.
        let hangs = self
            .silent_since
            .is_some_and(|since| !self.given_up && now.since(since) >= self.keep_sockets);
        let sockets = if hangs {
            self.given_up = true;
            Some(self.take_sockets())
        } else if over && away >= self.keep_sockets {
            self.missed = false;
            Some(self.take_sockets())
        } else {
            None
        };
        Due { listeners, sockets }
    }

    /// Everything that the shard has is deposited. When all shards have said so, returns what no shard has.
    pub(super) fn complete(&mut self, number: u32) -> Vec<D> {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.complete = true;
        }
        if !self.is_complete() {
            return Vec::new();
        }
        let mut orphans = Vec::new();
        let connections = &self.connections;
        let is_orphan = |depositor: &u32| !connections.contains_key(depositor);
        for (id, socket) in self.sockets.extract_if(|_, socket| is_orphan(&socket.depositor)) {
            self.transport_states.remove(&id);
            orphans.push(socket.descriptor);
        }
        let ids: Vec<u64> = self
            .listeners
            .iter()
            .filter(|(_, listener)| is_orphan(&listener.depositor))
            .map(|(id, _)| *id)
            .collect();
        for listener in ids.iter().filter_map(|id| self.listeners.remove(id)) {
            orphans.push(listener.descriptor);
        }
        orphans
    }

    /// Whether all shards of the gateway that is here have deposited everything.
    pub(super) fn is_complete(&self) -> bool {
        let (mut complete, mut of) = (0, 0);
        // A shard has one connection.
        for connection in self.connections.values() {
            if let Role::Shard { shards, .. } = connection.role {
                of = shards;
                complete += u32::from(connection.complete);
            }
        }
        of > 0 && complete == of
    }

    // === What is held ===

    /// Keeps a descriptor. Returns the one that was held under this id, which is to be dropped, not shut: it is the same
    /// socket. A deposit of a connection that has been ended is returned as it came.
    pub(super) fn deposit(&mut self, number: u32, held: Held, descriptor: D) -> Option<D> {
        if !self.is_current(number) {
            return Some(descriptor);
        }
        let id = held.id;
        let before = self.release(id);
        if held.kind() == HeldKind::Listener {
            let listener = Listener {
                descriptor,
                depositor: number,
                transport: held.transport,
                address: held.address,
            };
            self.listeners.insert(id, listener);
            return before;
        }
        if !held.transport_state.is_empty() {
            self.transport_states
                .insert(id, held.transport_state.as_ref().into());
        }
        let socket = Socket {
            descriptor,
            depositor: number,
            transport: held.transport,
        };
        self.sockets.insert(id, socket);
        before
    }

    /// Gives up a descriptor, whoever deposited it; `None` if it isn't held (any more).
    pub(super) fn release(&mut self, id: u64) -> Option<D> {
        if let Some(socket) = self.sockets.remove(&id) {
            if !self.transport_states.is_empty() {
                self.transport_states.remove(&id);
            }
            return Some(socket.descriptor);
        }
        self.listeners.remove(&id).map(|listener| listener.descriptor)
    }

    fn take_listeners(&mut self) -> Vec<D> {
        let listeners = mem::take(&mut self.listeners).into_values();
        listeners.map(|listener| listener.descriptor).collect()
    }

    fn take_sockets(&mut self) -> Vec<D> {
        self.transport_states = Map::default();
        let sockets = mem::take(&mut self.sockets).into_values();
        sockets.map(|socket| socket.descriptor).collect()
    }

    /// How many sockets.
    pub(super) fn sockets(&self) -> usize {
        self.sockets.len()
    }

    /// How many listeners.
    pub(super) fn listeners(&self) -> usize {
        self.listeners.len()
    }

    /// The ids of all that is held, listeners first: what comes in there waits.
    pub(super) fn ids(&self) -> Vec<u64> {
        self.listeners
            .keys()
            .chain(self.sockets.keys())
            .copied()
            .collect()
    }

    /// What is held under an id.
    pub(super) fn get(&self, id: u64) -> Option<(Held, &D)> {
        if let Some(socket) = self.sockets.get(&id) {
            let state = self.transport_states.get(&id);
            let held = Held {
                id,
                kind: HeldKind::Socket.into(),
                transport: socket.transport,
                transport_state: state.map(|state| state.to_vec().into()).unwrap_or_default(),
                address: String::new(),
            };
            return Some((held, &socket.descriptor));
        }
        let listener = self.listeners.get(&id)?;
        let held = Held {
            id,
            kind: HeldKind::Listener.into(),
            transport: listener.transport,
            address: listener.address.clone(),
            ..Held::default()
        };
        Some((held, &listener.descriptor))
    }

    /// At most `most` sockets after the first `skip`, in an order that changes when sockets come and go: who goes through all of
    /// them in slices may miss some.
    pub(super) fn slice(&self, skip: usize, most: usize) -> impl Iterator<Item = (u64, &D)> {
        let slice = self.sockets.iter().skip(skip).take(most);
        slice.map(|(id, socket)| (*id, &socket.descriptor))
    }

    /// Gives memory back after many have left.
    pub(super) fn tidy(&mut self) {
        if self.sockets.capacity() > 4 * self.sockets.len() + 1_024 {
            self.sockets.shrink_to(2 * self.sockets.len());
        }
    }
}

/// Whether a record of a deposit can be kept.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn validate(held: &Held) -> Result<(), &'static str> {
    if held.id == 0 {
        return Err("an id of 0");
    }
    if held.kind() == HeldKind::Unspecified {
        return Err("a kind that isn't known");
    }
    if held.transport_state.len() > MAX_TRANSPORT_STATE {
        return Err("a transport's state above 256 bytes");
    }
    if held.address.len() > MAX_ADDRESS {
        return Err("an address above 80 bytes");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
