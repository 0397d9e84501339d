//! Questions to many instances at once, and the answers that have come.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use imaccess_proto::v1::InstanceAnswer;
use tokio::sync::oneshot;

use super::table::InstanceIndex;

/// Questions under way; more are refused. Each is a list of instances and what they answer: at most 500 KB of members per instance.
const MOST: usize = 1_024;

/// All that are under way.
#[derive(Debug, Default)]
pub(crate) struct Gathers {
    next: AtomicU64,
    /// Held for one answer, never over an await.
    asked: Mutex<HashMap<u64, Asked>>,
}

#[derive(Debug)]
struct Asked {
    awaited: Vec<InstanceIndex>,
    answers: Vec<InstanceAnswer>,
    /// Told when nothing is awaited any more.
    done: Option<oneshot::Sender<()>>,
}

/// One question. Dropping it (the caller went away) gives it up.
#[derive(Debug)]
pub(crate) struct Gathering<'a> {
    gathers: &'a Gathers,
    /// Its name towards the instances.
    pub(crate) id: u64,
    done: oneshot::Receiver<()>,
}

/// What came of a question.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Gathered {
    pub(crate) answers: Vec<InstanceAnswer>,
    /// Instances that didn't answer, or not wholly.
    pub(crate) missing: u32,
}

// === impl Gathers ===

impl Gathers {
    fn asked(&self) -> MutexGuard<'_, HashMap<u64, Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a question to these instances; `None` when too many are under way.
    pub(crate) fn begin(&self, instances: Vec<InstanceIndex>) -> Option<Gathering<'_>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (tell, done) = oneshot::channel();
        let mut new = Asked {
            awaited: instances,
            answers: Vec::new(),
            done: Some(tell),
        };
        new.finish_if_complete();
        let mut asked = self.asked();
        if asked.len() >= MOST {
            return None;
        }
        asked.insert(id, new);
        drop(asked);
        Some(Gathering {
            gathers: self,
            id,
            done,
        })
    }

    /// An instance has answered. Late and unknown answers are ignored.
    pub(crate) fn answer(&self, instance: InstanceIndex, answer: InstanceAnswer) {
        let mut asked = self.asked();
        let Some(one) = asked.get_mut(&answer.id) else {
            return;
        };
        if one.forget(instance) {
            one.answers.push(answer);
            one.finish_if_complete();
        }
    }

    /// The stream of an instance broke: what it was to answer won't be.
    pub(crate) fn lost(&self, instance: InstanceIndex) {
        for one in self.asked().values_mut() {
            one.miss(instance);
        }
    }
}

impl Asked {
    /// Awaits an instance no more; whether it did.
    fn forget(&mut self, instance: InstanceIndex) -> bool {
        let place = self.awaited.iter().position(|&awaited| awaited == instance);
        place.map(|place| self.awaited.swap_remove(place)).is_some()
    }

    /// An instance won't answer.
    fn miss(&mut self, instance: InstanceIndex) {
        if self.forget(instance) {
            self.answers.push(InstanceAnswer {
                partial: true,
                ..InstanceAnswer::default()
            });
            self.finish_if_complete();
        }
    }

    fn finish_if_complete(&mut self) {
        if self.awaited.is_empty()
            && let Some(done) = self.done.take()
        {
            // The receiver may be gone with its call.
            let _ = done.send(());
        }
    }
}

// === impl Gathering ===

impl Gathering<'_> {
    /// Waits until all have answered.
    pub(crate) async fn complete(&mut self) {
        if !self.done.is_terminated() {
            let _ = (&mut self.done).await;
        }
    }

    /// An instance couldn't be asked.
    pub(crate) fn missed(&self, instance: InstanceIndex) {
        if let Some(asked) = self.gathers.asked().get_mut(&self.id) {
            asked.miss(instance);
        }
    }

    /// The answers as they are.
    pub(crate) fn finish(self) -> Gathered {
        let Some(asked) = self.gathers.asked().remove(&self.id) else {
            return Gathered::default();
        };
        let partial = asked.answers.iter().filter(|answer| answer.partial).count();
        Gathered {
            missing: u32::try_from(partial + asked.awaited.len()).unwrap_or(u32::MAX),
            answers: asked.answers,
        }
    }
}

impl Drop for Gathering<'_> {
    fn drop(&mut self) {
        self.gathers.asked().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const A: InstanceIndex = InstanceIndex(1);
    const B: InstanceIndex = InstanceIndex(2);
    const C: InstanceIndex = InstanceIndex(3);

    fn answer(id: u64, count: u64) -> InstanceAnswer {
        InstanceAnswer {
            id,
            count,
            ..InstanceAnswer::default()
        }
    }

    #[test]
    fn each_instance_answers_once_and_who_is_lost_is_missing() {
        let gathers = Gathers::default();
        let mut question = gathers.begin(vec![A, B, C]).unwrap();
        gathers.answer(A, answer(question.id, 2));
        gathers.answer(A, answer(question.id, 9));
        gathers.answer(B, answer(question.id + 1, 9));
        assert!(question.complete().now_or_never().is_none());
        gathers.lost(B);
        gathers.answer(
            C,
            InstanceAnswer {
                partial: true,
                ..answer(question.id, 3)
            },
        );
        assert!(question.complete().now_or_never().is_some());
        let gathered = question.finish();
        let counts: Vec<u64> = gathered.answers.iter().map(|answer| answer.count).collect();
        assert_eq!((counts, gathered.missing), (vec![2, 0, 3], 2));
        assert!(gathers.asked().is_empty());
    }

    #[test]
    fn a_question_to_nobody_is_answered_and_one_given_up_is_forgotten() {
        let gathers = Gathers::default();
        let mut nobody = gathers.begin(Vec::new()).unwrap();
        assert!(nobody.complete().now_or_never().is_some());
        assert_eq!(nobody.finish(), Gathered::default());
        let late = gathers.begin(vec![A]).unwrap();
        let id = late.id;
        assert_eq!(late.finish().missing, 1);
        gathers.answer(A, answer(id, 1));
        drop(gathers.begin(vec![A]).unwrap());
        assert!(gathers.asked().is_empty());
    }

    #[test]
    fn there_is_a_bound() {
        let gathers = Gathers::default();
        let questions: Vec<_> = (0..MOST).map(|_| gathers.begin(vec![A]).unwrap()).collect();
        assert!(gathers.begin(vec![A]).is_none());
        drop(questions);
        assert!(gathers.begin(vec![A]).is_some());
    }
}
