//! How a gateway's end goes on: which stage begins when. Shards do what a stage asks of them (`shard/drain.rs`).

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
    admission: &Admission,
) {
    let begin = Instant::now();
    let deadline = begin + plan.deadline;
    for (stage, after) in stages(plan) {
        sleep_until(begin + after).await;
        let connections = admission.open();
        match stage {
            Stage::Serving => {}
            Stage::Propagating => tracing::info!(
                connections,
                propagation_s = plan.propagation.as_secs_f64(),
                "draining: clients are accepted until everybody knows that they should go elsewhere"
            ),
            Stage::Telling => tracing::info!(
                connections,
                rate = plan.rate,
                deadline_s = plan.deadline.as_secs_f64(),
                "draining: the listeners are closed, and clients are told to go"
            ),
            Stage::Closing => tracing::info!(
                connections,
                flush_s = drain.remaining().as_secs_f64(),
                "draining: the clients that are left are closed"
            ),
        }
        let rate = plan.rate;
        courses.send_replace(Course {
            stage,
            rate,
            deadline,
        });
    }
}

/// The stages that have any time, with when they begin; the last one always comes.
fn stages(plan: GatewayDrain) -> Vec<(Stage, Duration)> {
    let mut stages = Vec::with_capacity(3);
    if !plan.propagation.is_zero() {
        stages.push((Stage::Propagating, Duration::ZERO));
    }
    if plan.propagation < plan.deadline {
        stages.push((Stage::Telling, plan.propagation));
    }
    stages.push((Stage::Closing, plan.deadline));
    stages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_has_its_time_and_without_time_there_is_only_the_last() {
        let begun = |propagation, deadline| {
            let plan = GatewayDrain {
                rate: 1,
                propagation: Duration::from_secs(propagation),
                deadline: Duration::from_secs(deadline),
            };
            let seconds = |(stage, after): (Stage, Duration)| (stage, after.as_secs());
            stages(plan).into_iter().map(seconds).collect::<Vec<_>>()
        };
        let (propagating, telling, closing) = (Stage::Propagating, Stage::Telling, Stage::Closing);
        assert_eq!(begun(0, 0), [(closing, 0)]);
        assert_eq!(begun(0, 9), [(telling, 0), (closing, 9)]);
        assert_eq!(begun(3, 3), [(propagating, 0), (closing, 3)]);
        assert_eq!(begun(3, 9), [(propagating, 0), (telling, 3), (closing, 9)]);
    }
}
