//! The shard's coarse clock: login, frame, ping, stall and linger deadlines from one wheel.

use std::time::Duration;

use imaccess_net::wheel::Tick;
use imaccess_wire::Code;

use super::Shard;
use super::connection::{Connection, Phase};

/// One tick. Deadlines are met up to one tick late; at 250 ms a 5 s deadline is 5 % inexact and a million
/// connections with 60 s pings cost 7,000 looks a second at most.
pub(crate) const TICK: Duration = Duration::from_millis(250);
/// The tick at which a shard begins: there must be a past, for connections that are taken over were heard in it. Ten
/// minutes are more than any silence that is waited for.
pub(crate) const FIRST_TICK: Tick = 2_400;
/// How long what a client sends may wait in the kernel for a state that was there just now: ten times what a replacement or a
/// restart takes, and well below every client's patience. Pings wait too.
const PATIENCE: Tick = 8;
/// Buckets of the wheel: 256 s, more than two and a half of the longest usual ping interval.
pub(crate) const BUCKETS: usize = 1_024;

/// Deadlines in ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    pub(crate) login: Tick,
    pub(crate) frame: Tick,
    pub(crate) write_stall: Tick,
    pub(crate) linger: Tick,
    pub(crate) without_state: Tick,
}

/// A duration in ticks, rounded up, at least one.
pub(crate) fn ticks(duration: Duration) -> Tick {
    let ticks = duration.as_millis().div_ceil(TICK.as_millis());
    Tick::try_from(ticks).unwrap_or(Tick::MAX).max(1)
}

/// Silence after which a client that pings at `interval_s` is taken for dead: two and a half intervals.
fn silence(interval_s: u16) -> Tick {
    ticks(Duration::from_millis(u64::from(interval_s) * 2_500))
}

/// What is to be done about a connection now, and otherwise when to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    LookAt(Tick),
    End(Code),
    /// It doesn't read: no close frame will reach it in time.
    Abandon,
    Release,
}

/// Decides for one connection. Pure: all time is in ticks and given.
fn verdict(connection: &Connection, now: Tick, deadlines: &Deadlines) -> Verdict {
    let mut next = Tick::MAX;
    let mut check = |since: Tick, after: Tick| {
        let at = since.saturating_add(after);
        next = next.min(at);
        at <= now
    };
    match connection.phase {
        Phase::Closing if check(connection.since, deadlines.linger) => return Verdict::Release,
        Phase::Closing => return Verdict::LookAt(next),
        Phase::Connecting | Phase::Authenticating if check(connection.since, deadlines.login) => {
            return Verdict::End(if connection.phase == Phase::Connecting {
                Code::LoginTimeout
            } else {
                Code::LoginUnavailable
            });
        }
        Phase::Online
            if connection.ping_interval_s > 0
                && check(connection.last_seen, silence(connection.ping_interval_s)) =>
        {
            return Verdict::End(Code::PingTimeout);
        }
        _ => {}
    }
    if let Some(partial) = &connection.partial
        && check(partial.since, deadlines.frame)
    {
        return Verdict::End(Code::FrameTimeout);
    }
    if let Some(queue) = &connection.queue
        && check(queue.progress, deadlines.write_stall)
    {
        return Verdict::Abandon;
    }
    Verdict::LookAt(next)
}

impl Shard {
    /// Puts a connection's next deadline on the wheel. Called when one may have come nearer; one that moved away is
    /// found out when the wheel gets there.
    pub(crate) fn look_again(&mut self, slot: u32) {
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        match verdict(connection, self.tick, &self.deadlines) {
            Verdict::LookAt(at) => self.wheel.schedule(slot, at),
            _ => self.wheel.schedule(slot, self.tick),
        }
    }

    /// What is done from here on happens now. Once per turn, and first of all: a process that was stopped and goes on would take what it
    /// reads for as old as the pause, and a session that has just ended would have lost that much of its resume window.
    pub(crate) fn look_at_clock(&mut self) {
        self.tick = ticks_since_start(self.clock.now().as_millis());
    }

    /// Turns the wheel if time has passed, and does what is due.
    pub(crate) fn turn_wheel(&mut self) {
        let now = self.tick;
        if now == self.wheel.now() {
            return;
        }
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(now, &mut due);
        for slot in due.drain(..) {
            let Some(connection) = self.connections.get(slot) else {
                continue;
            };
            match verdict(connection, now, &self.deadlines) {
                Verdict::LookAt(at) => self.wheel.schedule(slot, at),
                Verdict::End(code) => self.end(slot, code),
                Verdict::Abandon => self.abandon(slot, Code::SlowConsumer),
                Verdict::Release => self.release(slot),
            }
        }
        self.due = due;
        self.every_tick();
    }

    /// What isn't about single connections.
    fn every_tick(&mut self) {
        if self
            .holding
            .is_some_and(|since| self.tick.saturating_sub(since) >= PATIENCE)
        {
            self.release_held();
        }
        if self.logins_wait && !self.waits_for_state() {
            self.refuse_waiting();
        }
        self.look_after_custody();
        self.tick_telling();
        if let Some(since) = self.link.detached_since()
            && self.sessions > 0
            && self.tick.saturating_sub(since) >= self.deadlines.without_state
        {
            tracing::warn!(
                sessions = self.sessions,
                "state has been away too long: closing clients"
            );
            self.end_all(Code::StateLost);
        }
        if !self.accepting && self.accepts() {
            // After an accept error.
            if let Err(error) = self.watch_listeners() {
                tracing::warn!(%error, "the listeners can't be watched; trying again");
                self.pause_listeners();
            }
        }
        self.report();
    }

    /// Hands the tick's counts over to the metrics.
    pub(crate) fn report(&mut self) {
        self.metrics.collect(&mut self.counts);
        let (sessions, connections) = (self.sessions as i64, self.connections.len() as i64);
        let (queued, waiting) = (self.queued_bytes as i64, self.fanout.waiting_bytes() as i64);
        // Gauges are shared by all shards: each adds what changed.
        let ended = self.ended.len() as i64;
        let now = [sessions, connections, queued, waiting, ended];
        let before = std::mem::replace(&mut self.reported, now);
        self.metrics.sessions.add(sessions - before[0]);
        self.metrics.connections.add(connections - before[1]);
        self.metrics.queued_bytes.add(queued - before[2]);
        self.metrics.fanout_waiting_bytes.add(waiting - before[3]);
        self.metrics.ended_changed(ended - before[4]);
    }

    /// Whether state was there so short a time ago that a login may wait for it.
    pub(crate) fn waits_for_state(&self) -> bool {
        match self.link.detached_since() {
            Some(since) => self.tick.saturating_sub(since) < PATIENCE,
            None => true,
        }
    }

    /// Ends every connection that isn't ending.
    pub(crate) fn end_all(&mut self, code: Code) {
        for slot in 0..self.connections.slots() {
            self.end(slot, code);
        }
    }
}

/// The tick of a moment on the shard's clock, which starts at 0.
pub(crate) fn ticks_since_start(ms: u64) -> Tick {
    Tick::try_from(ms / TICK.as_millis() as u64)
        .unwrap_or(Tick::MAX)
        .saturating_add(FIRST_TICK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::connection::Partial;
    use imaccess_net::socket::ClientSocket;

    const DEADLINES: Deadlines = Deadlines {
        login: 20,
        frame: 40,
        write_stall: 120,
        linger: 8,
        without_state: 360,
    };

    fn connection(phase: Phase) -> Connection {
        let (one, _) = std::os::unix::net::UnixStream::pair().unwrap();
        Connection {
            phase,
            ping_interval_s: 60,
            ..Connection::new(ClientSocket::new(one.into()), 1, 100)
        }
    }

    fn decide(connection: Connection, now: Tick) -> Verdict {
        let verdict = verdict(&connection, now, &DEADLINES);
        connection.socket.close();
        verdict
    }

    #[test]
    fn each_phase_has_its_deadline() {
        assert_eq!(decide(connection(Phase::Connecting), 119), Verdict::LookAt(120));
        assert_eq!(
            decide(connection(Phase::Connecting), 120),
            Verdict::End(Code::LoginTimeout)
        );
        assert_eq!(
            decide(connection(Phase::Authenticating), 120),
            Verdict::End(Code::LoginUnavailable)
        );
        assert_eq!(decide(connection(Phase::Online), 699), Verdict::LookAt(700));
        assert_eq!(
            decide(connection(Phase::Online), 700),
            Verdict::End(Code::PingTimeout)
        );
        assert_eq!(decide(connection(Phase::Closing), 107), Verdict::LookAt(108));
        assert_eq!(decide(connection(Phase::Closing), 108), Verdict::Release);
    }

    #[test]
    fn a_frame_that_never_ends_is_cut_however_lively_it_drips() {
        let mut dripping = connection(Phase::Online);
        dripping.last_seen = 149;
        dripping.partial = Some(Box::new(Partial {
            bytes: vec![1],
            since: 110,
        }));
        assert_eq!(decide(dripping, 150), Verdict::End(Code::FrameTimeout));
    }

    #[test]
    fn ticks_round_up() {
        assert_eq!(ticks(Duration::from_millis(1)), 1);
        assert_eq!(ticks(Duration::from_millis(251)), 2);
        assert_eq!(ticks(Duration::ZERO), 1);
    }
}
