//! Pushes to all clients and to some, as a business sends them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastrand::Rng;
use imaccess_proto::v1::push_client::PushClient;
use imaccess_proto::v1::{Outcome, PushDevicesRequest, PushGroupRequest};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::Channel;

use super::payload::{self, Origin};
use super::positions::{DEVICE_PUSHER, GROUP_PUSHER, PUSH};
use super::{GROUP, Ground, plain, sdk};
use crate::raw_client::APP;

/// Devices of one push.
const DEVICES: usize = 200;

/// What became of the pushes.
#[derive(Clone, Debug, Default)]
pub struct Pushed {
    /// Pushes to the group that were taken.
    pub to_group: u64,
    /// Of them, those that were said to reach all gateways: numbering stream and number. Of the others it was said that somebody may not
    /// get them.
    pub to_all: BTreeSet<(u64, u64)>,
    /// The last one's number in its group.
    pub last_in_group: u64,
    /// Devices pushed to, by outcome.
    pub to_devices: BTreeMap<String, u64>,
    /// Calls that failed, by status.
    pub failed: BTreeMap<String, u64>,
}

/// Starts both pushers, as far as the load wants them.
pub(super) fn start(ground: &Arc<Ground>) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    let client = PushClient::new(ground.place.push.clone());
    if let Some(every) = ground.load.group_push {
        tasks.push(tokio::spawn(to_group(Arc::clone(ground), client.clone(), every)));
    }
    if let Some(every) = ground.load.device_push {
        tasks.push(tokio::spawn(to_devices(Arc::clone(ground), client, every)));
    }
    tasks
}

async fn to_group(ground: Arc<Ground>, mut client: PushClient<Channel>, every: Duration) {
    let mut turns = interval(every);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1.. {
        turns.tick().await;
        if ground.quiet.load(Ordering::Relaxed) {
            continue;
        }
        let request = PushGroupRequest {
            business: ground.place.business,
            group: GROUP.to_vec().into(),
            payload: content(&ground, GROUP_PUSHER, number).into(),
            ..PushGroupRequest::default()
        };
        let answer = client.push_group(request).await;
        let mut pushed = ground.pushed.lock();
        match answer {
            Ok(answer) => {
                pushed.to_group += 1;
                let answer = answer.into_inner();
                pushed.last_in_group = answer.sequence;
                if answer.unsynced == 0 {
                    pushed.to_all.insert((answer.group_epoch, answer.sequence));
                }
            }
            Err(status) => {
                let code = format!("group {:?}", status.code());
                *pushed.failed.entry(code).or_default() += 1;
            }
        }
    }
}

async fn to_devices(ground: Arc<Ground>, mut client: PushClient<Channel>, every: Duration) {
    let mut turns = interval(every);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut random = Rng::with_seed(ground.load.seed.rotate_left(23));
    for number in 1.. {
        turns.tick().await;
        if ground.quiet.load(Ordering::Relaxed) {
            continue;
        }
        let all = ground.load.plain + ground.load.sdk;
        let some = DEVICES.min(all as usize);
        let mut numbers = random.choose_multiple(0..all, some);
        // One whose goodbye is said is offline rightly.
        numbers.retain(|number| {
            ground
                .plain
                .get(*number as usize)
                .is_none_or(|client| !client.has_left())
        });
        let names = numbers.into_iter().map(|number| {
            number
                .checked_sub(ground.load.plain)
                .map_or_else(|| plain::device(number), sdk::device)
        });
        let request = PushDevicesRequest {
            business: ground.place.business,
            app: APP.to_owned(),
            devices: names.collect(),
            payload: content(&ground, DEVICE_PUSHER, number).into(),
            ..PushDevicesRequest::default()
        };
        let answer = client.push_devices(request).await;
        let mut pushed = ground.pushed.lock();
        match answer {
            Ok(answer) => {
                for outcome in answer.into_inner().outcomes {
                    let outcome = Outcome::try_from(outcome).unwrap_or_default();
                    let name = format!("{outcome:?}").to_lowercase();
                    *pushed.to_devices.entry(name).or_default() += 1;
                }
            }
            Err(status) => {
                let code = format!("devices {:?}", status.code());
                *pushed.failed.entry(code).or_default() += 1;
            }
        }
    }
}

fn content(ground: &Ground, who: u32, number: u64) -> Vec<u8> {
    let mut content = Vec::new();
    let origin = Origin {
        seed: ground.load.seed,
        who,
        number,
    };
    payload::fill(origin, PUSH, &mut content);
    content
}
