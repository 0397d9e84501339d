//! How a gateway's end goes on: which stage begins when. Shards do what a stage asks of them (`shard/drain.rs`).

use std::sync::Arc;
use std::time::Duration;

use imaccess_common::drain::Drain;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::config::GatewayDrain;
use crate::limits::Admission;

/// The stages of an end, in order; some are left out when they have no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// No end is in sight.
    Serving,
    /// Clients still come, because not everybody knows yet that this gateway isn't listed any more.
    Propagating,
    /// Nobody comes any more, and clients are told to go, at a rate.
    Telling,
    /// Whoever is left is closed.
    Closing,
}

/// Where an end is, and what its stage needs to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    pub(crate) stage: Stage,
    /// GO_AWAYs per second, of all shards together; 0: all at once.
    pub(crate) rate: u32,
    /// When [`Stage::Closing`] begins.
    pub(crate) deadline: Instant,
}

impl Course {
    /// No end is in sight.
    pub(crate) fn serving() -> Self {
        Self {
            stage: Stage::Serving,
            rate: 0,
            deadline: Instant::now(),
        }
    }
}

/// Goes through the stages, at their times from now on. Each begins once: a shard that is in a later one already stays there.
pub(crate) async fn conduct(
    plan: GatewayDrain,
    drain: &Drain,
    courses: &watch::Sender<Course>,
    admission: &Arc<Admission>,
) {
    let begin = Instant::now();
    let deadline = begin + plan.deadline;
    let enter = |stage| {
        let rate = plan.rate;
        courses.send_replace(Course {
            stage,
            rate,
            deadline,
        });
    };
    let seconds = |duration: Duration| duration.as_secs_f64();
    if !plan.propagation.is_zero() {
        tracing::info!(
            connections = admission.open(),
            propagation_s = seconds(plan.propagation),
            "draining: clients are accepted until everybody knows that they should go elsewhere"
        );
        enter(Stage::Propagating);
        sleep_until(begin + plan.propagation).await;
    }
    if plan.propagation < plan.deadline {
        tracing::info!(
            connections = admission.open(),
            rate = plan.rate,
            deadline_s = seconds(plan.deadline),
            "draining: the listeners are closed, and clients are told to go"
        );
        enter(Stage::Telling);
        sleep_until(deadline).await;
    }
    tracing::info!(
        connections = admission.open(),
        flush_s = seconds(drain.remaining()),
        "draining: the clients that are left are closed"
    );
    enter(Stage::Closing);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stages with the seconds at which they began.
    async fn stages(plan: GatewayDrain) -> Vec<(Stage, u64)> {
        let (courses, mut seen) = watch::channel(Course::serving());
        let admission = Arc::new(Admission::new(1, 0));
        let begin = Instant::now();
        let drain = Drain::new(Duration::from_secs(100));
        let mut stages = Vec::new();
        let watching = async {
            while seen.changed().await.is_ok() {
                let stage = seen.borrow_and_update().stage;
                stages.push((stage, begin.elapsed().as_secs()));
                if stage == Stage::Closing {
                    return;
                }
            }
        };
        tokio::join!(conduct(plan, &drain, &courses, &admission), watching);
        stages
    }

    #[tokio::test(start_paused = true)]
    async fn each_stage_has_its_time_and_without_time_none_but_the_last() {
        let plan = |propagation, deadline| GatewayDrain {
            rate: 1,
            propagation: Duration::from_secs(propagation),
            deadline: Duration::from_secs(deadline),
        };
        let (propagating, telling, closing) = (Stage::Propagating, Stage::Telling, Stage::Closing);
        assert_eq!(stages(plan(0, 0)).await, [(closing, 0)]);
        assert_eq!(stages(plan(0, 9)).await, [(telling, 0), (closing, 9)]);
        assert_eq!(stages(plan(3, 3)).await, [(propagating, 0), (closing, 3)]);
        let all = [(propagating, 0), (telling, 3), (closing, 9)];
        assert_eq!(stages(plan(3, 9)).await, all);
    }
}
