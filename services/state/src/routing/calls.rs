//! Pushes that wait for their receipts.
//!
//! One record per call, however many devices it names; a receipt finds its device by its number alone:
//!
//! ```text
//!   63          38 37        14 13       0
//!   │ generation  │  record    │ device  │
//! ```
//!
//! A record's generation is never reused within 67 million calls on that record, so a receipt that comes too late
//! finds nothing. It is never 0, so that no number is: that one asks for no receipt.

use std::sync::{Mutex, MutexGuard, PoisonError};

use imaccess_proto::v1::Outcome;
use tokio::sync::oneshot;

use super::table::InstanceIndex;

/// Most devices in one call: what the push API allows, and less than the device part of a number can name.
pub(crate) const DEVICES: usize = 10_000;
const DEVICE_BITS: u32 = 14;
const RECORD_BITS: u32 = 24;
const GENERATION_MASK: u64 = (1 << (64 - DEVICE_BITS - RECORD_BITS)) - 1;

const _: () = assert!(DEVICES < 1 << DEVICE_BITS);

/// All calls that wait.
#[derive(Debug)]
pub(crate) struct Calls {
    devices_limit: usize,
    /// Held for one batch of receipts or one call's registration, never over an await.
    slab: Mutex<Slab>,
}

#[derive(Debug, Default)]
struct Slab {
    records: Vec<Record>,
    free: Vec<u32>,
    /// Devices awaited, over all records.
    awaited: usize,
}

#[derive(Debug, Default)]
struct Record {
    generation: u64,
    /// Per device: who will answer, until the answer is there.
    devices: Vec<Answer>,
    awaited: usize,
    /// Told when nothing is awaited any more.
    done: Option<oneshot::Sender<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A receipt of this instance.
    Awaited(InstanceIndex),
    /// It is here.
    Given(Outcome),
}

/// A call's record. Dropping it (the caller went away) gives up what is still awaited.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    calls: &'a Calls,
    record: u32,
    base: u64,
    done: oneshot::Receiver<()>,
}

// === impl Calls ===

impl Calls {
    /// At most `devices_limit` devices are awaited at a time.
    pub(crate) fn new(devices_limit: usize) -> Calls {
        Calls {
            devices_limit,
            slab: Mutex::default(),
        }
    }

    /// The records are whole between any two statements that could panic.
    fn slab(&self) -> MutexGuard<'_, Slab> {
        self.slab.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a call; `None` when too many devices are awaited already.
    pub(crate) fn begin(&self, devices: Vec<Answer>) -> Option<Waiting<'_>> {
        let awaited = devices
            .iter()
            .filter(|answer| matches!(answer, Answer::Awaited(_)))
            .count();
        let (tell, done) = oneshot::channel();
        let mut slab = self.slab();
        if slab.awaited + awaited > self.devices_limit {
            return None;
        }
        let index = match slab.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(slab.records.len())
                    .ok()
                    .filter(|&index| index < 1 << RECORD_BITS)?;
                slab.records.push(Record {
                    generation: 1,
                    ..Record::default()
                });
                index
            }
        };
        slab.awaited += awaited;
        let record = &mut slab.records[index as usize];
        record.devices = devices;
        record.awaited = awaited;
        record.done = Some(tell);
        record.finish_if_complete();
        let base = (record.generation << (DEVICE_BITS + RECORD_BITS)) | (u64::from(index) << DEVICE_BITS);
        drop(slab);
        Some(Waiting {
            calls: self,
            record: index,
            base,
            done,
        })
    }

    /// Takes a batch of receipts: `outcomes[i]` of the push with the number `ids[i]`. Late and unknown ones are
    /// ignored. Returns how many counted.
    pub(crate) fn receipts(&self, ids: &[u64], outcomes: &[u8]) -> usize {
        let mut slab = self.slab();
        ids.iter()
            .zip(outcomes)
            .filter(|&(&id, &outcome)| slab.give(id, outcome))
            .count()
    }

    /// The stream of an instance broke: what it was to answer won't be.
    pub(crate) fn lost(&self, instance: InstanceIndex) {
        let mut slab = self.slab();
        let mut lost = 0;
        for record in slab.records.iter_mut().filter(|record| record.awaited > 0) {
            for answer in record
                .devices
                .iter_mut()
                .filter(|answer| **answer == Answer::Awaited(instance))
            {
                *answer = Answer::Given(Outcome::Retry);
                record.awaited -= 1;
                lost += 1;
            }
            record.finish_if_complete();
        }
        slab.awaited -= lost;
    }

    /// Devices awaited now.
    pub(crate) fn awaited(&self) -> usize {
        self.slab().awaited
    }
}

impl Slab {
    fn give(&mut self, id: u64, outcome: u8) -> bool {
        let place = usize::try_from((id >> DEVICE_BITS) & ((1 << RECORD_BITS) - 1)).expect("24 bits fit");
        let device = usize::try_from(id & ((1 << DEVICE_BITS) - 1)).expect("14 bits fit");
        let generation = id >> (DEVICE_BITS + RECORD_BITS);
        let Some(record) = self
            .records
            .get_mut(place)
            .filter(|record| record.generation == generation)
        else {
            return false;
        };
        let Some(answer @ Answer::Awaited(_)) = record.devices.get_mut(device) else {
            return false;
        };
        // An outcome of a later version, or none: not known here.
        let outcome = Outcome::try_from(i32::from(outcome)).unwrap_or(Outcome::Unspecified);
        *answer = Answer::Given(if outcome == Outcome::Unspecified {
            Outcome::Retry
        } else {
            outcome
        });
        record.awaited -= 1;
        record.finish_if_complete();
        self.awaited -= 1;
        true
    }
}

impl Record {
    fn finish_if_complete(&mut self) {
        if self.awaited == 0
            && let Some(done) = self.done.take()
        {
            // The receiver may be gone with its call.
            let _ = done.send(());
        }
    }
}

// === impl Waiting ===

impl Waiting<'_> {
    /// The number of the push to the `device`-th device.
    pub(crate) fn id(&self, device: usize) -> u64 {
        self.base | device as u64
    }

    /// Answers for pushes that couldn't be handed on.
    pub(crate) fn give(&self, ids: impl Iterator<Item = u64>, outcome: Outcome) {
        let mut slab = self.calls.slab();
        let outcome = u8::try_from(i32::from(outcome)).expect("outcomes are small");
        for id in ids {
            slab.give(id, outcome);
        }
    }

    /// Waits until all answers are there.
    pub(crate) async fn complete(&mut self) {
        if !self.done.is_terminated() {
            // An error would mean that the sender went without telling, which only `finish` lets it.
            let _ = (&mut self.done).await;
        }
    }

    /// The answers as they are; what is still awaited is `Retry`.
    pub(crate) fn finish(self) -> Vec<Outcome> {
        let devices = std::mem::take(&mut self.calls.slab().records[self.record as usize].devices);
        // Dropping `self` below releases the record; it counts by `awaited`, which stays right.
        devices
            .iter()
            .map(|answer| match answer {
                Answer::Awaited(_) => Outcome::Retry,
                Answer::Given(outcome) => *outcome,
            })
            .collect()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut slab = self.calls.slab();
        let record = &mut slab.records[self.record as usize];
        let awaited = std::mem::take(&mut record.awaited);
        record.generation = ((record.generation + 1) & GENERATION_MASK).max(1);
        record.devices = Vec::new();
        record.done = None;
        slab.awaited -= awaited;
        slab.free.push(self.record);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const A: InstanceIndex = InstanceIndex(1);
    const B: InstanceIndex = InstanceIndex(2);

    fn awaited(instances: &[InstanceIndex]) -> Vec<Answer> {
        instances
            .iter()
            .map(|&instance| Answer::Awaited(instance))
            .collect()
    }

    #[test]
    fn no_number_asks_for_no_receipt() {
        let calls = Calls::new(100);
        for _ in 0..3 {
            let call = calls.begin(awaited(&[A])).unwrap();
            assert_ne!(call.id(0), 0);
        }
        let calls = Calls::new(100);
        calls.slab().records.push(Record {
            generation: GENERATION_MASK,
            ..Record::default()
        });
        calls.slab().free.push(0);
        drop(calls.begin(awaited(&[A])).unwrap());
        assert_ne!(
            calls.begin(awaited(&[A])).unwrap().id(0),
            0,
            "also when it begins again"
        );
    }

    #[test]
    fn receipts_find_their_devices_once() {
        let calls = Calls::new(100);
        let mut devices = awaited(&[A, B, A]);
        devices.push(Answer::Given(Outcome::Offline));
        let mut call = calls.begin(devices).unwrap();
        assert_eq!(calls.awaited(), 3);
        assert!(call.complete().now_or_never().is_none());
        let (first, second) = (call.id(0), call.id(1));
        assert_eq!(
            calls.receipts(&[second, second, call.id(3), 12_345], &[1, 3, 1, 1]),
            1
        );
        call.give([call.id(2)].into_iter(), Outcome::Retry);
        assert_eq!(
            calls.receipts(&[first], &[99]),
            1,
            "an unknown outcome is not known"
        );
        assert!(call.complete().now_or_never().is_some());
        assert_eq!(
            call.finish(),
            [Outcome::Retry, Outcome::Written, Outcome::Retry, Outcome::Offline]
        );
        assert_eq!(calls.awaited(), 0);

        let next = calls.begin(awaited(&[A])).unwrap();
        assert_eq!(
            calls.receipts(&[first], &[1]),
            0,
            "the record is another call's now"
        );
        drop(next);
        assert_eq!(calls.awaited(), 0);
    }

    #[test]
    fn a_lost_instance_answers_retry() {
        let calls = Calls::new(100);
        let mut both = calls.begin(awaited(&[A, B])).unwrap();
        let mut other = calls.begin(awaited(&[B])).unwrap();
        calls.receipts(&[both.id(1)], &[2]);
        calls.lost(A);
        assert!(both.complete().now_or_never().is_some());
        assert!(other.complete().now_or_never().is_none());
        assert_eq!(both.finish(), [Outcome::Retry, Outcome::Acknowledged]);
        assert_eq!(other.finish(), [Outcome::Retry], "what hasn't come is unknown");
    }

    #[test]
    fn devices_awaited_are_bounded() {
        let calls = Calls::new(3);
        let first = calls.begin(awaited(&[A, A])).unwrap();
        assert!(calls.begin(awaited(&[A, A])).is_none());
        assert!(calls.begin(vec![Answer::Given(Outcome::Offline); 9]).is_some());
        drop(first);
        assert!(calls.begin(awaited(&[A, A, A])).is_some());
    }
}
