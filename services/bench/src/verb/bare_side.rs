//! A bare fan-out server and its members, under the same load loop as ours.

use anyhow::bail;

use super::Bare;
use crate::bare::Counts;
use crate::fleet::Fleet;
use crate::job::{FannedOut, Fanout, Publisher};
use crate::statistics::us_per;

/// What it has to deliver.
#[derive(Clone, Copy, Debug)]
pub(super) struct BareLoad {
    /// To how many sockets.
    pub(super) members: u64,
    /// Messages that not everyone has yet.
    pub(super) outstanding: usize,
    /// Bytes of payload.
    pub(super) bytes: usize,
    /// Bytes of a message on the wire: as many as ours has.
    pub(super) frame_bytes: usize,
    /// Seconds of a round.
    pub(super) seconds: f64,
}

/// A bare server and its members.
pub(super) struct BareSide {
    server: Bare,
    members: Fleet,
    load: BareLoad,
    /// CPU of each round, µs per delivery.
    pub(super) us: Vec<f64>,
    /// Deliveries per second of each round.
    pub(super) rates: Vec<f64>,
    /// What the server did in all rounds.
    pub(super) counts: Counts,
    /// Deliveries of all rounds.
    pub(super) deliveries: u64,
}

impl BareSide {
    /// Starts it in one of the modes of `bench bare-fanout`, and warms it up for so many seconds.
    pub(super) fn start(mode: &str, load: BareLoad, warm_up: f64) -> anyhow::Result<Self> {
        let server = Bare::start(&["bare-fanout", "--mode", mode])?;
        let mut members = Fleet::start(load.members)?;
        members.connect_all(&[server.started.address], load.members, None)?;
        let mut side = Self {
            server,
            members,
            load,
            us: Vec::new(),
            rates: Vec::new(),
            counts: Counts::default(),
            deliveries: 0,
        };
        side.fan_out(warm_up)?;
        Ok(side)
    }

    fn fan_out(&mut self, seconds: f64) -> anyhow::Result<FannedOut> {
        let Some(address) = self.server.started.control else {
            bail!("the bare server has no control port")
        };
        let BareLoad {
            outstanding,
            bytes,
            frame_bytes,
            ..
        } = self.load;
        self.members.fanout(Fanout {
            publisher: Publisher::Bare { address, frame_bytes },
            outstanding,
            bytes,
            seconds,
        })
    }

    /// One round; how many deliveries it made in a second.
    pub(super) fn round(&mut self) -> anyhow::Result<f64> {
        let before = self.server.counts()?;
        let cpu = self.server.cpu()?;
        let done = self.fan_out(self.load.seconds)?;
        self.us.push(us_per(self.server.cpu()? - cpu, done.received));
        let rate = done.rate();
        self.rates.push(rate);
        let counts = self.server.counts()?.since(before);
        if done.received != done.expected || counts.short_writes > 0 {
            bail!("the bare server failed: {:?}, {counts:?}", done.failures);
        }
        self.counts.waits += counts.waits;
        self.counts.reads += counts.reads;
        self.counts.writes += counts.writes;
        self.deliveries += done.received;
        Ok(rate)
    }
}
