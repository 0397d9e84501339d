//! Where routes are kept: behind an interface that an external store can serve as well.
//!
//! - Every call is a batch and may wait; there is no call that needs a scan of all devices.
//! - The only write to a route is compare-by-epoch, which a store like Redis does in a script of a few lines.
//! - What the memory store needs for a push is one lock and a few hash probes per slice of a batch: no allocation,
//!   no boxed future, and never the lock over an await.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use imaccess_common::identity::Epoch;

use super::groups::GroupTable;
use super::key::Keyer;
use super::table::{InstanceIndex, LostRoute, Route, RouteTable, Verdict};

/// Entries handled under one hold of the lock, before others get their turn: about 100 µs.
const SLICE: usize = 512;

/// The store can't answer now. What it was asked for is unknown, not absent.
#[derive(Debug, thiserror::Error)]
#[error("the route store is unavailable: {0}")]
pub struct StoreUnavailable(pub String);

/// A device's name and the route that was announced for it.
#[derive(Debug, Clone, Copy)]
pub struct Announcement<'a> {
    /// The app that the device belongs to.
    pub app: &'a str,
    /// The device.
    pub device: &'a str,
    /// Its route.
    pub route: Route,
}

/// A device's name and the epoch up to which its route is taken back.
#[derive(Debug, Clone, Copy)]
pub struct Retraction<'a> {
    /// The app that the device belongs to.
    pub app: &'a str,
    /// The device.
    pub device: &'a str,
    /// Routes with a higher epoch stay.
    pub epoch: Epoch,
}

/// Whether an instance has members of a group.
#[derive(Debug, Clone, Copy)]
pub struct Presence<'a> {
    /// The business that the group belongs to.
    pub business: u32,
    /// The group.
    pub group: &'a [u8],
    /// Whether there are any.
    pub present: bool,
}

/// Devices → routes, groups → instances.
pub trait RouteStore: Send + Sync + 'static {
    /// A new stream of an instance begins: what it said before stays until [`settle`](RouteStore::settle), but counts
    /// no more against its own new word. `key` breaks ties of epochs.
    fn begin(
        &self,
        instance: InstanceIndex,
        key: u64,
    ) -> impl Future<Output = Result<(), StoreUnavailable>> + Send;

    /// Writes by epoch; appends a verdict for each, in order.
    fn announce(
        &self,
        batch: &[Announcement<'_>],
        verdicts: &mut Vec<Verdict>,
    ) -> impl Future<Output = Result<(), StoreUnavailable>> + Send;

    /// Takes back what the instance announced, by epoch.
    fn retract(
        &self,
        instance: InstanceIndex,
        batch: &[Retraction<'_>],
    ) -> impl Future<Output = Result<(), StoreUnavailable>> + Send;

    /// Notes where groups have members, in order.
    fn enter_groups(
        &self,
        instance: InstanceIndex,
        batch: &[Presence<'_>],
    ) -> impl Future<Output = Result<(), StoreUnavailable>> + Send;

    /// The instance has said everything: drops what it didn't say again since [`begin`](RouteStore::begin).
    fn settle(&self, instance: InstanceIndex) -> impl Future<Output = Result<(), StoreUnavailable>> + Send;

    /// Drops all that the instance said; its routes are appended to `lost`. Its index may then be used again.
    fn forget(
        &self,
        instance: InstanceIndex,
        lost: &mut Vec<LostRoute>,
    ) -> impl Future<Output = Result<(), StoreUnavailable>> + Send;

    /// Appends the route of each device, in order.
    fn routes(
        &self,
        app: &str,
        devices: &[String],
        found: &mut Vec<Option<Route>>,
    ) -> impl Future<Output = Result<(), StoreUnavailable>> + Send;

    /// Appends the instances where the group has members.
    fn members(
        &self,
        business: u32,
        group: &[u8],
        found: &mut Vec<InstanceIndex>,
    ) -> impl Future<Output = Result<(), StoreUnavailable>> + Send;

    /// How much there is, for the metrics page.
    fn sizes(&self) -> Sizes;
}

/// How much is in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Devices with a route.
    pub routes: usize,
    /// Groups with members.
    pub groups: usize,
    /// Memory that the routes take in this process.
    pub route_bytes: usize,
}

/// All of it in this process's memory; every replica has its own.
#[derive(Debug)]
pub struct MemoryStore {
    keyer: Keyer,
    /// Guards both tables. Held for one slice of a batch, never over an await.
    tables: Mutex<Tables>,
}

#[derive(Debug)]
struct Tables {
    routes: RouteTable,
    groups: GroupTable,
    /// Generation of each instance's latest stream.
    generations: Vec<u32>,
}

// === impl MemoryStore ===

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> MemoryStore {
        let tables = Tables {
            routes: RouteTable::new(),
            groups: GroupTable::new(),
            generations: Vec::new(),
        };
        MemoryStore {
            keyer: Keyer::random(),
            tables: Mutex::new(tables),
        }
    }

    /// The tables are whole between any two calls on them, so a panic elsewhere under the lock spoils nothing.
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn drop_stale(&self, instance: InstanceIndex, mut lost: Option<&mut Vec<LostRoute>>) {
        while self
            .tables()
            .routes
            .drop_stale(instance, SLICE, lost.as_deref_mut())
        {
            tokio::task::yield_now().await;
        }
        let generation = self.tables().generation(instance);
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            cursor = self.tables().groups.sweep(instance, generation, at, SLICE as u32);
            if cursor.is_some() {
                tokio::task::yield_now().await;
            }
        }
    }
}

impl Default for MemoryStore {
    fn default() -> MemoryStore {
        MemoryStore::new()
    }
}

impl Tables {
    fn generation(&self, instance: InstanceIndex) -> u32 {
        self.generations
            .get(instance.0 as usize)
            .copied()
            .unwrap_or_default()
    }

    fn begin(&mut self, instance: InstanceIndex, key: u64) {
        let place = instance.0 as usize;
        if self.generations.len() <= place {
            self.generations.resize(place + 1, 0);
        }
        self.generations[place] = self.routes.begin(instance, key);
    }
}

/// Handles `$batch` by slices, each in one hold of the lock, with a chance for other tasks in between.
macro_rules! by_slices {
    ($store:ident, $batch:ident, |$tables:ident, $item:ident| $body:expr) => {{
        let mut slices = $batch.chunks(SLICE).peekable();
        while let Some(slice) = slices.next() {
            {
                let mut guard = $store.tables();
                let $tables = &mut *guard;
                for $item in slice {
                    $body;
                }
            }
            if slices.peek().is_some() {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }};
}

impl RouteStore for MemoryStore {
    async fn begin(&self, instance: InstanceIndex, key: u64) -> Result<(), StoreUnavailable> {
        self.tables().begin(instance, key);
        Ok(())
    }

    async fn announce(
        &self,
        batch: &[Announcement<'_>],
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), StoreUnavailable> {
        by_slices!(self, batch, |tables, new| {
            let verdict = tables.routes.apply(
                self.keyer.device(new.app, new.device),
                (new.app, new.device),
                new.route,
            );
            // Not begun can't be: the feed begins each stream before it hands anything on.
            verdicts.push(verdict.unwrap_or(Verdict::Applied));
        })
    }

    async fn retract(
        &self,
        instance: InstanceIndex,
        batch: &[Retraction<'_>],
    ) -> Result<(), StoreUnavailable> {
        by_slices!(self, batch, |tables, old| {
            tables
                .routes
                .retract(self.keyer.device(old.app, old.device), instance, old.epoch)
        })
    }

    async fn enter_groups(
        &self,
        instance: InstanceIndex,
        batch: &[Presence<'_>],
    ) -> Result<(), StoreUnavailable> {
        let generation = self.tables().generation(instance);
        by_slices!(self, batch, |tables, presence| {
            let key = self.keyer.group(presence.business, presence.group);
            match presence.present {
                true => tables.groups.enter(key, instance, generation),
                false => tables.groups.leave(key, instance),
            }
        })
    }

    async fn settle(&self, instance: InstanceIndex) -> Result<(), StoreUnavailable> {
        self.drop_stale(instance, None).await;
        Ok(())
    }

    async fn forget(
        &self,
        instance: InstanceIndex,
        lost: &mut Vec<LostRoute>,
    ) -> Result<(), StoreUnavailable> {
        // A stream that says nothing makes everything stale.
        self.tables().begin(instance, 0);
        self.drop_stale(instance, Some(lost)).await;
        self.tables().routes.release(instance);
        Ok(())
    }

    async fn routes(
        &self,
        app: &str,
        devices: &[String],
        found: &mut Vec<Option<Route>>,
    ) -> Result<(), StoreUnavailable> {
        by_slices!(self, devices, |tables, device| {
            found.push(tables.routes.get(self.keyer.device(app, device)));
        })
    }

    async fn members(
        &self,
        business: u32,
        group: &[u8],
        found: &mut Vec<InstanceIndex>,
    ) -> Result<(), StoreUnavailable> {
        let key = self.keyer.group(business, group);
        self.tables().groups.members(key, found);
        Ok(())
    }

    fn sizes(&self) -> Sizes {
        let tables = self.tables();
        Sizes {
            routes: tables.routes.len(),
            groups: tables.groups.len(),
            route_bytes: tables.routes.bytes(),
        }
    }
}
