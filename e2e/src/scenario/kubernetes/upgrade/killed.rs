//! SIGKILL of each container of gateway pods, by the runtime's id: the kubelet starts it again, and the pod goes on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use tokio::time::sleep;

use super::judge;
use super::live::{Live, Scene, replaced, whole};
use crate::kubernetes::containers::{GatewayPod, Which};
use crate::kubernetes::process::Signal;
use crate::kubernetes::{Kubernetes, with_kubernetes};
use crate::report::{Report, Size};
use crate::scenario::verdict::{self, count};
use crate::wait::Seen;
use crate::witness::Load;
use crate::witness::tally::Window;

/// A kubelet that has restarted a container before waits for 10 s, then for 20 s.
const RESTARTED: Duration = Duration::from_secs(90);
/// For who was closed to be back with its session.
const ONLINE: Duration = Duration::from_secs(60);
/// Clients that leave before each kill.
const LEAVERS: u32 = 3;
const TAKEN_OVER: &str = "imaccess_gateway_takeover_connections_total";

pub(in crate::scenario) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-containers-killed", async |kubernetes| {
        ensure!(
            kubernetes.reaches_processes(),
            "processes of a given cluster's pods can't be reached"
        );
        let load = Load {
            reconnect: true,
            ..Load::new(seed, size.pick(200, 10_000), size.pick(100.0, 500.0))
        };
        // Who comes back comes before its session is over, whatever the machine does.
        let scene = Scene::set(kubernetes, |spec| spec.state.sidecar.resume_window_seconds = 60).await?;
        let mut live = scene.under(kubernetes, load).await?;
        let before = whole(kubernetes, live.cluster()).await?;
        let mut kills = Kills {
            random: Rng::with_seed(seed),
            windows: Vec::new(),
            longest: Duration::ZERO,
            in_mid_frame: 0.0,
        };
        let victims = size.pick(1, before.len());
        for pod in before.iter().take(victims) {
            for which in Which::ALL {
                live.leave(LEAVERS);
                let killed = kills.one(kubernetes, &live, pod, which).await;
                killed.with_context(|| format!("{} of {} killed", which.as_str(), pod.name))?;
            }
        }
        let after = whole(kubernetes, live.cluster()).await?;
        let ended = live.end(kubernetes).await?;

        let mut report = Report::new("k8s-containers-killed", size, seed);
        verdict::note(&ended.testimony, &mut report);
        for which in Which::ALL {
            verdict::stall(&ended.testimony, which.as_str(), &kills.of(which), &mut report);
        }
        report.figure("kills", kills.windows.len());
        report.figure("seconds_until_all_were_back_longest", kills.longest.as_secs_f64());
        let (plain, sdk) = (&ended.testimony.plain, &ended.testimony.sdk);
        let closed = count(plain.closed() + sdk.closed());
        report.figure("in_mid_frame", kills.in_mid_frame);
        report.figure("closed", closed);
        report.exactly(
            "closed_that_were_not_in_mid_frame",
            (closed - kills.in_mid_frame).max(0.0),
            0.0,
        );
        report.exactly(
            "closed_and_not_resumed",
            count(plain.not_resumed + sdk.not_resumed),
            0.0,
        );
        report.exactly("sdk_lost_requests", count(sdk.lost + sdk.told_retry), 0.0);
        report.exactly("sdk_doubled_replies", count(sdk.doubled), 0.0);
        verdict::nothing_forged(&ended.testimony, &mut report);
        report.exactly(
            "online_in_the_end",
            count(ended.online as u64),
            count(ended.present.len() as u64),
        );
        report.exactly("pods_replaced", count(replaced(&before, &after)), 0.0);
        judge::events(&ended, &mut report);
        Ok(report)
    })
    .await
}

struct Kills {
    random: Rng,
    windows: Vec<(Which, Window)>,
    longest: Duration,
    /// Connections that the gateways found in the middle of a frame, and could not go on with.
    in_mid_frame: f64,
}

impl Kills {
    /// One at a random moment, and everything together again.
    async fn one(
        &mut self,
        kubernetes: &Kubernetes,
        live: &Live,
        pod: &GatewayPod,
        which: Which,
    ) -> Result<()> {
        // At any moment of the load, not at that of the look before.
        sleep(Duration::from_millis(self.random.u64(200..1_200))).await;
        let now = find(live, pod).await?;
        let container = now.container(which);
        let from = live.witness.now();
        kubernetes
            .signal_container(&now.node, &container.id, Signal::Kill)
            .await?;
        kubernetes
            .until("the container runs again", RESTARTED, async || {
                let then = find(live, pod).await?;
                let then = then.container(which);
                let again = then.restarts > container.restarts && then.id != container.id && then.ready;
                Ok(if again {
                    Seen::Yes(())
                } else {
                    Seen::NotYet(format!("{then:?}"))
                })
            })
            .await?;
        whole(kubernetes, live.cluster()).await?;
        self.windows.push((
            which,
            Window {
                from,
                to: live.witness.now(),
                gateway: live.number_of(pod),
            },
        ));
        if which == Which::Gateway {
            // Each process counts its own takeover.
            let page = find(live, pod).await?.page(which).await?;
            self.in_mid_frame += page.sum(TAKEN_OVER, &[("result", "mid_frame")]);
            let adopted = page.sum(TAKEN_OVER, &[("result", "adopted")]);
            ensure!(
                adopted > 0.0,
                "the gateway after the kill went on with no connection"
            );
        }
        live.witness
            .online(kubernetes.environment.patience(ONLINE))
            .await?;
        self.longest = self.longest.max(live.witness.now() - from);
        Ok(())
    }

    fn of(&self, which: Which) -> Vec<Window> {
        let of_part = self.windows.iter().filter(|(killed, _)| *killed == which);
        of_part.map(|(_, window)| *window).collect()
    }
}

async fn find(live: &Live, pod: &GatewayPod) -> Result<GatewayPod> {
    let pods = live.cluster().gateway_pods().await?;
    let mut same = pods.into_iter().filter(|now| now.uid == pod.uid);
    same.next()
        .with_context(|| format!("the pod {} is gone", pod.name))
}
