//! One gateway pod: what its containers do, what is being replaced in it, and whether that went well.

use std::time::Duration;

use imaccess_common::handover::{
    GATEWAY_LIMIT, Handover, STATE_LIMIT, Seen, Verdict, Wanted, losses, obstacle, of_gateway, of_state,
};
use imaccess_operator_api::in_place::{Replaced, Replacing, Side};
use imaccess_operator_api::names::{REPLACING_ANNOTATION, port};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::images::Images;
use super::step::PodRef;
use crate::cluster::{Cluster, annotation};

/// As long as both dead-man timers: whatever the pod had, nobody holds it any more.
const NOTHING_LEFT: Duration = Duration::from_secs(95);
/// A pod without connections may take longer: its image may have to be pulled.
const BLIND_LIMIT: Duration = Duration::from_secs(180);
/// So long at least a new container is looked at before the next is touched.
const SETTLES: Duration = Duration::from_secs(2);
/// So long the kubelet may take to see a new image.
const STALE: Duration = Duration::from_secs(8);
/// A kubelet that doesn't act for so long is told of.
const KUBELET: Duration = Duration::from_secs(20);

/// What is to be made of a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Look {
    /// It has the images.
    Done,
    /// A container may be replaced now.
    Due(Replacing),
    /// It has no node yet, and so nothing to keep: its images are simply changed.
    Unplaced,
    /// It would be due, if something weren't in the way.
    Blocked(String),
    /// A container is being replaced.
    InHand {
        /// What is waited for.
        why: String,
        /// Whether the new container is there.
        is_new: bool,
    },
    /// It has been replaced, and all is well.
    Good(Replaced),
    /// It won't do.
    Bad(String),
}

/// A gateway pod.
pub(crate) struct GatewayPod<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) images: Images,
    pub(crate) replacing: Option<Replacing>,
    page: Result<&'a Handover, String>,
}

impl<'a> GatewayPod<'a> {
    pub(crate) fn of(cluster: &Cluster<'a>, pod: &'a Pod) -> Self {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let page = match cluster.observed.gateways.get(uid) {
            Some(Ok(page)) => Ok(page),
            Some(Err(why)) => Err(why.clone()),
            None => Err("it wasn't asked".to_owned()),
        };
        Self {
            pod,
            images: Images::of_pod(pod),
            replacing: replacing(pod),
            page,
        }
    }

    pub(crate) fn name(&self) -> &'a str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn reference(&self) -> PodRef {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        PodRef {
            name: text(&self.pod.metadata.name),
            uid: text(&self.pod.metadata.uid),
            resource_version: text(&self.pod.metadata.resource_version),
        }
    }

    /// Where its gateway takes orders; none while the pod has no address.
    pub(crate) fn control(&self) -> Option<String> {
        let address = self.pod.status.as_ref()?.pod_ip.as_deref()?;
        Some(format!("{address}:{}", port::GATEWAY_CONTROL))
    }

    /// Whether it has a node.
    pub(crate) fn is_placed(&self) -> bool {
        self.pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.node_name.is_some())
    }

    /// What is to be made of it, when it should have `wanted`.
    pub(crate) fn look(&self, wanted: &Images, now: Timestamp) -> Look {
        match &self.replacing {
            Some(replacing) => self.judge(replacing, wanted, now),
            None if self.images == *wanted => Look::Done,
            None if !self.is_placed() => Look::Unplaced,
            None => self.due(wanted, now),
        }
    }

    fn due(&self, wanted: &Images, now: Timestamp) -> Look {
        let (gateway, state) = (self.status(Side::Gateway), self.status(Side::State));
        let differs = |side: Side| self.images.of(side) != wanted.of(side);
        // State first; but a gateway that doesn't run can't vouch for a new state.
        let gateway_first = differs(Side::Gateway) && !gateway.running && state.running;
        let side = if differs(Side::State) && !gateway_first {
            Side::State
        } else {
            Side::Gateway
        };
        // What the other container holds alone is safe while this one, which doesn't run, is replaced.
        let is_held = match side {
            Side::State => gateway.running && (!state.running || self.is_unlinked()),
            Side::Gateway => !gateway.running && state.running,
        };
        let blind = !is_held && self.has_nothing(now);
        let obstacle = match &self.page {
            _ if blind || is_held => None,
            Err(why) => Some(format!(
                "its gateway doesn't say whether its connections are held: {why}"
            )),
            Ok(page) if !gateway.ready => Some(obstacle(page).unwrap_or_else(|| "it isn't ready".to_owned())),
            Ok(page) => obstacle(page),
        };
        if let Some(why) = obstacle {
            return Look::Blocked(why);
        }
        let status = match side {
            Side::Gateway => gateway,
            Side::State => state,
        };
        let page = self.page.as_ref().ok();
        Look::Due(Replacing {
            container: side,
            image: wanted.of(side).to_owned(),
            from: self.images.of(side).to_owned(),
            id: status.id,
            restarts: status.restarts,
            since: now,
            incarnation: page.map_or(0, |page| page.incarnation),
            connections: page.map_or(0, |page| page.connections),
            faults: page.map_or(0, |page| page.faults),
            lease: (side == Side::Gateway && !blind && !is_held).then(|| self.lease_name()),
            blind,
            back: false,
        })
    }

    /// The way back from what failed.
    pub(crate) fn back(&self, failed: &Replacing, now: Timestamp) -> Replacing {
        let status = self.status(failed.container);
        let incarnation = self.page.as_ref().map_or(0, |page| page.incarnation);
        Replacing {
            image: failed.from.clone(),
            from: failed.image.clone(),
            id: status.id,
            restarts: status.restarts,
            since: now,
            incarnation: incarnation.max(failed.incarnation),
            lease: (failed.container == Side::Gateway).then(|| self.lease_name()),
            back: true,
            ..failed.clone()
        }
    }

    /// The same for whoever goes on with it.
    fn lease_name(&self) -> String {
        format!(
            "operator-{}",
            self.pod.metadata.uid.as_deref().unwrap_or_default()
        )
    }

    /// No connection that could be kept: none is there, or the pod hasn't worked for longer than anybody holds one.
    fn has_nothing(&self, now: Timestamp) -> bool {
        let gateway = self.status(Side::Gateway);
        match &self.page {
            Ok(page) => page.connections == 0 && obstacle(page).is_some(),
            Err(_) => {
                let never_ran = gateway.id.is_none() && gateway.restarts == 0;
                never_ran || self.unready_for(now).is_some_and(|time| time > NOTHING_LEFT)
            }
        }
    }

    /// Whether the gateway is without any link: its state does nothing for it.
    fn is_unlinked(&self) -> bool {
        self.page.as_ref().is_ok_and(|page| page.links == 0)
    }

    fn unready_for(&self, now: Timestamp) -> Option<Duration> {
        let conditions = self.pod.status.as_ref()?.conditions.as_ref()?;
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
        let since = ready.last_transition_time.as_ref()?.0;
        (ready.status == "False").then(|| elapsed(since, now))
    }

    fn judge(&self, replacing: &Replacing, wanted: &Images, now: Timestamp) -> Look {
        let status = self.status(replacing.container);
        let waited = elapsed(replacing.since, now);
        // For a moment the status is that of the image before.
        if let Some(why) = status.stuck.filter(|_| waited > STALE) {
            return Look::Bad(why);
        }
        if status.id.is_none() || status.id == replacing.id {
            let node = self.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let why = if waited > KUBELET {
                let (node, seconds) = (node.unwrap_or("its node"), KUBELET.as_secs());
                format!("the kubelet of {node} hasn't replaced the container for more than {seconds} s")
            } else {
                "the kubelet is to replace the container".to_owned()
            };
            return Look::InHand { why, is_new: false };
        }
        // What was there before may have ended once more before the kubelet saw the new image; one that is put back comes after
        // any number of them.
        let again = !replacing.back && status.restarts > replacing.restarts.saturating_add(2);
        let ended = status
            .ended
            .or_else(|| again.then(|| "it ended and was started again".to_owned()));
        let seen = Seen {
            ended,
            handover: self.page.clone().cloned(),
            ready: if status.ready {
                Ok(())
            } else {
                Err("its probe doesn't succeed yet".to_owned())
            },
            left: 0,
        };
        let other = match replacing.container {
            Side::Gateway => Side::State,
            Side::State => Side::Gateway,
        };
        let unsure = replacing.blind || replacing.lease.is_none() && replacing.container == Side::Gateway;
        let half = unsure && !replacing.back && self.images.of(other) != wanted.of(other);
        let verdict = match replacing.container {
            // What doesn't work may be the other one, which is next.
            _ if half && seen.ended.is_none() => Verdict::Good,
            _ if replacing.blind => of_state(&seen, true),
            Side::State => of_state(&seen, true),
            // After a crash what could be kept is kept.
            Side::Gateway if replacing.back || replacing.lease.is_none() => {
                of_gateway(&seen, replacing.incarnation, Wanted::Any)
            }
            Side::Gateway => of_gateway(&seen, replacing.incarnation, Wanted::Planned),
        };
        // Counted from when it began to run, if that is known: until then nothing was its fault.
        let since = status
            .started_at
            .map_or(replacing.since, |at| at.max(replacing.since));
        let page = self.page.as_ref().ok();
        let losses = page
            .filter(|_| !replacing.blind && !replacing.back)
            .and_then(|page| {
                let is_same = page.incarnation == replacing.incarnation;
                let before = if is_same { replacing.faults } else { 0 };
                losses(page, replacing.connections, page.faults.saturating_sub(before))
            });
        match verdict {
            Verdict::Good if losses.is_some() => Look::Bad(losses.unwrap_or_default()),
            // Faults need a moment to show.
            Verdict::Good if elapsed(since, now) < SETTLES => Look::InHand {
                why: "it is being watched for a moment".to_owned(),
                is_new: true,
            },
            Verdict::Good => Look::Good(self.replaced(replacing)),
            Verdict::Bad(why) => Look::Bad(why),
            Verdict::Wait(why) if elapsed(since, now) > limit(replacing) => {
                Look::Bad(format!("after {} s {why}", limit(replacing).as_secs()))
            }
            Verdict::Wait(why) => Look::InHand { why, is_new: true },
        }
    }

    fn replaced(&self, replacing: &Replacing) -> Replaced {
        let takeover = self.page.as_ref().map(|page| &page.takeover);
        let of_gateway = |figure: u64| {
            if replacing.container == Side::Gateway {
                figure
            } else {
                0
            }
        };
        Replaced {
            container: replacing.container,
            image: replacing.image.clone(),
            connections: replacing.connections,
            closed: of_gateway(takeover.as_ref().map_or(0, |takeover| takeover.closed)),
            stall_milliseconds: of_gateway(takeover.map_or(0, |takeover| takeover.stall_milliseconds)),
            back: replacing.back,
        }
    }

    fn status(&self, side: Side) -> Status {
        let status = self.pod.status.as_ref();
        let list = status.and_then(|status| match side {
            Side::Gateway => status.container_statuses.as_ref(),
            Side::State => status.init_container_statuses.as_ref(),
        });
        let mut list = list.into_iter().flatten();
        list.find(|status| status.name == side.container())
            .map_or_else(Status::default, Status::of)
    }
}

/// A container as the kubelet says.
#[derive(Clone, Debug, Default)]
struct Status {
    id: Option<String>,
    running: bool,
    ready: bool,
    restarts: i32,
    started_at: Option<Timestamp>,
    /// How it ended, if it has.
    ended: Option<String>,
    /// Why it doesn't come up.
    stuck: Option<String>,
}

impl Status {
    fn of(status: &ContainerStatus) -> Status {
        let state = status.state.clone().unwrap_or_default();
        let waiting = state.waiting.unwrap_or_default();
        let reason = waiting.reason.unwrap_or_default();
        let last = status
            .last_state
            .as_ref()
            .and_then(|last| last.terminated.as_ref());
        let terminated = state
            .terminated
            .as_ref()
            .or(if reason == "CrashLoopBackOff" { last } else { None });
        let ended = terminated.map(|ended| {
            let message = ended.message.as_deref().unwrap_or_default().trim();
            let last_line = message.lines().last().unwrap_or_default();
            format!("exit status {}, {last_line}", ended.exit_code)
                .trim_end_matches([',', ' '])
                .to_owned()
        });
        let stuck = is_stuck(&reason).then(|| {
            let message = waiting.message.unwrap_or_default();
            why_stuck(&reason, &message)
        });
        Status {
            id: status.container_id.clone().filter(|id| !id.is_empty()),
            running: state.running.is_some(),
            ready: status.ready,
            restarts: status.restart_count,
            started_at: state
                .running
                .and_then(|running| running.started_at)
                .map(|at| at.0),
            ended,
            stuck,
        }
    }
}

/// Reasons for which the kubelet doesn't start a container, and which don't pass within seconds.
pub(crate) fn is_stuck(reason: &str) -> bool {
    matches!(
        reason,
        "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable"
            | "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError"
    )
}

/// Why, in words that don't change from one attempt of the kubelet to the next.
pub(crate) fn why_stuck(reason: &str, message: &str) -> String {
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable" => {
            "it can't be pulled; check its name, that the registry has it, and spec.imagePullSecrets"
                .to_owned()
        }
        "InvalidImageName" => "that is no name of an image".to_owned(),
        "ErrImageNeverPull" => "it isn't on the node, and spec.imagePullPolicy is Never".to_owned(),
        _ => format!("{reason}, {}", message.trim_end_matches('.')),
    }
}

/// What is being replaced in a pod, if anything is.
pub(crate) fn replacing(pod: &Pod) -> Option<Replacing> {
    serde_json::from_str(annotation(pod, REPLACING_ANNOTATION)?).ok()
}

fn limit(replacing: &Replacing) -> Duration {
    match replacing.container {
        _ if replacing.blind => BLIND_LIMIT,
        Side::Gateway => GATEWAY_LIMIT,
        Side::State => STATE_LIMIT,
    }
}

pub(crate) fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO)
}
