//! The way back: what failed, the previous binary in its place again, and what came of that.

use std::time::Instant;

use anyhow::bail;

use super::{Ready, STEP, Upgrade, Wanted};
use crate::part::Kind;
use crate::upgrade::admin::NoLease;
use crate::upgrade::place::Ending;
use crate::upgrade::report::Outcome;

impl Upgrade {
    /// The replacement itself failed: perhaps nothing was touched, perhaps the previous binary was started again already.
    pub(super) async fn not_replaced(&mut self, ready: &Ready, error: anyhow::Error) -> anyhow::Result<()> {
        let now = self.place.running().await.ok();
        if now.as_ref().map(|now| now.pid) == Some(ready.running.pid) {
            if let (Some(lease), Some(admin)) = (&ready.lease, &self.target.gateway_admin) {
                // It ends by itself otherwise.
                let _ = self.admin.give_back(admin, &lease.lease).await;
            }
            return Err(error.context("nothing was touched"));
        }
        let why = format!("{error:#}");
        match now {
            Some(now) if now.binary == ready.running.binary => self.arrive_back(ready, now.pid, why).await,
            _ => self.go_back(ready, None, why).await,
        }
    }

    /// Puts the previous binary back.
    pub(super) async fn go_back(
        &mut self,
        ready: &Ready,
        failed: Option<u32>,
        why: String,
    ) -> anyhow::Result<()> {
        self.steps.say("failed", &why);
        if let Some(no_way) = self.place.no_way_back() {
            bail!(
                "{why}. It can't be undone from here: {no_way}. {}",
                self.state().await
            );
        }
        let ending = self.ending(failed, ready).await;
        let started = self.place.replace(&ready.previous, ending).await;
        match started {
            Ok(started) => {
                let text = format!(
                    "{} is started again, process {}",
                    ready.previous.display(),
                    started.pid
                );
                self.steps.say("back", &text);
                self.arrive_back(ready, started.pid, why).await
            }
            Err(error) => bail!("{why}. Going back failed too: {error:#}. {}", self.state().await),
        }
    }

    /// Verifies the previous binary, which runs again.
    async fn arrive_back(&mut self, ready: &Ready, pid: u32, why: String) -> anyhow::Result<()> {
        match self.verify(pid, Wanted::Any).await {
            Ok(()) => {
                self.outcome.rolled_back = true;
                let text = format!(
                    "{} is back, {}",
                    ready.previous.display(),
                    connections(&self.outcome)
                );
                self.steps.say("back", &text);
                bail!("{why}. {text}")
            }
            Err(fault) => bail!("{why}. Going back failed too: {fault}. {}", self.state().await),
        }
    }

    /// How to end the new process so that the old one can take over. A gateway that is asked to end, and has given no
    /// lease, sends all its clients away; the same goes for one that `up` has just started again.
    async fn ending(&mut self, failed: Option<u32>, ready: &Ready) -> Ending {
        let alive = match failed {
            Some(pid) => matches!(self.place.ended(pid).await, Ok(None)),
            None => false,
        };
        if !alive {
            return Ending::Killed;
        }
        let leased = match (self.target.kind, self.target.gateway_admin.clone()) {
            (Kind::Gateway, Some(admin)) => self.lease_back(&admin, ready).await,
            _ => self.admin.ready(&self.target.admin).await.is_ok(),
        };
        if leased { Ending::Asked } else { Ending::Killed }
    }

    async fn lease_back(&mut self, admin: &str, ready: &Ready) -> bool {
        if let Ok(handover) = self.admin.handover(admin).await {
            self.incarnation = self.incarnation.max(handover.incarnation);
        }
        let begun = Instant::now();
        loop {
            match self.admin.take_lease(admin, ready.new.speaks.lease).await {
                Ok(_) => return true,
                Err(NoLease::Never(_)) => return false,
                Err(NoLease::NotNow(_)) if begun.elapsed() >= self.patience.lease_back => return false,
                Err(NoLease::NotNow(_)) => tokio::time::sleep(STEP * 5).await,
            }
        }
    }

    /// What there is now, for whoever must go on from here.
    async fn state(&mut self) -> String {
        let process = match self.place.running().await {
            Ok(running) => format!("process {} runs from {}", running.pid, running.binary.display()),
            Err(error) => format!("{error:#}"),
        };
        let gateway = match &self.target.gateway_admin {
            Some(admin) => match self.admin.handover(admin).await {
                Ok(handover) => format!(
                    "the gateway has {} connections, {} of {} links, custody {}",
                    handover.connections,
                    handover.links,
                    handover.shards,
                    if handover.complete {
                        "complete"
                    } else {
                        "incomplete"
                    }
                ),
                Err(why) => format!(
                    "the gateway's admin page: {why}; the sidecar keeps its connections for a while (90 s unless \
                     configured otherwise): start a gateway before"
                ),
            },
            None => "the gateway's admin address isn't known".to_owned(),
        };
        format!("Now: {process}; {gateway}")
    }
}

fn connections(outcome: &Outcome) -> String {
    let number = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
    let closed = match outcome.closed {
        Some(closed) if closed > 0 => format!(", {closed} closed by its takeover"),
        _ => String::new(),
    };
    format!(
        "with {} connections ({} before{closed})",
        number(outcome.after),
        number(outcome.before)
    )
}
