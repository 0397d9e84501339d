//! One part's upgrade, step by step: preflight, lease, replacement, verification, and the way back if that fails.
//!
//! Until the replacement nothing is touched, and an error says so. Afterwards every error is followed by the way back, and
//! says what it led to.

mod back;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use imaccess_common::compat::{Compat, compatible};
use imaccess_common::handover::{Handover, Seen, Verdict, Wanted, obstacle, of_gateway, of_state};

use super::admin::{Admin, Lease, NoLease};
use super::place::{Ending, Place, with_said};
use super::plan::Target;
use super::preflight::{Found, ask, find};
use super::report::{Outcome, Steps, milliseconds};
use crate::part::{Kind, Running};

/// How long things may take. Tests wait less.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For custody to be complete, so that a lease is given.
    pub(super) lease: Duration,
    /// Likewise on the way back, where nothing is won by waiting.
    pub(super) lease_back: Duration,
    /// For the new process to be verified.
    pub(super) verify: Duration,
}

impl Patience {
    pub(super) const USUAL: Self = Self {
        lease: Duration::from_secs(10),
        lease_back: Duration::from_secs(3),
        verify: Duration::from_secs(15),
    };
}

/// Between two looks: well below the time for which a replacement is felt.
const STEP: Duration = Duration::from_millis(20);

/// One part's upgrade.
pub(super) struct Upgrade {
    target: Target,
    place: Place,
    admin: Admin,
    patience: Patience,
    steps: Steps,
    outcome: Outcome,
    /// The highest incarnation of the gateway that was seen.
    incarnation: u32,
}

/// What stands before anything is touched.
struct Ready {
    running: Running,
    /// What the way back leads to.
    previous: PathBuf,
    new: Compat,
    lease: Option<Lease>,
}

impl Upgrade {
    pub(super) fn new(
        target: Target,
        place: Place,
        binary: &Path,
        patience: Patience,
    ) -> anyhow::Result<Self> {
        let steps = Steps::of(&target.name);
        let outcome = Outcome::new(&target.name, binary);
        Ok(Self {
            target,
            place,
            admin: Admin::new()?,
            patience,
            steps,
            outcome,
            incarnation: 0,
        })
    }

    /// Does it, and says what came of it.
    pub(super) async fn run(mut self) -> Outcome {
        if let Err(error) = self.forward().await {
            self.outcome.error = Some(format!("{error:#}"));
        }
        self.outcome
    }

    async fn forward(&mut self) -> anyhow::Result<()> {
        let (ready, found) = self.prepare().await.context("nothing was touched")?;
        let new = self.outcome.to.clone();
        let since = Instant::now();
        let pid = match self.place.replace(&new, Ending::Asked).await {
            Ok(started) => {
                self.outcome.stopped_ms = Some(started.stopped_ms);
                let text = format!(
                    "process {} by {} ({})",
                    ready.running.pid, started.pid, started.status
                );
                self.steps.say("replaced", &text);
                started.pid
            }
            Err(error) => return self.not_replaced(&ready, error).await,
        };
        let verified = self.verify(pid, Wanted::Planned).await;
        match verified {
            Ok(()) => {
                self.outcome.ready_ms = Some(milliseconds(since.elapsed()));
                self.steps
                    .say("verified", &format!("version {}", ready.new.version));
                if found.is_copied() {
                    // Nothing runs from it, and the next upgrade makes its own.
                    let _ = std::fs::remove_file(&ready.previous);
                }
                Ok(())
            }
            Err(why) => self.go_back(&ready, Some(pid), why).await,
        }
    }

    /// Everything that can fail while nothing has been touched.
    async fn prepare(&mut self) -> anyhow::Result<(Ready, Found)> {
        let running = self.place.running().await?;
        self.outcome.from = Some(running.binary.clone());
        let new = ask(&self.outcome.to).await?;
        let found = find(running.pid, &running.binary)?;
        let old = ask(&found.now)
            .await
            .context("what runs can't be asked what it speaks")?;
        let neighbour = match self.place.neighbour().await {
            Some(beside) => Some(ask(&find(beside.pid, &beside.binary)?.now).await?),
            None => None,
        };
        compatible(&new, &old, neighbour.as_ref()).map_err(anyhow::Error::msg)?;
        let previous = found.keep(&self.place.copy())?;
        let text = format!(
            "version {} can take the place of version {}",
            new.version, old.version
        );
        self.steps.say("preflight", &text);
        let mut ready = Ready {
            running,
            previous,
            new,
            lease: None,
        };
        match (self.target.kind, self.target.gateway_admin.clone()) {
            (Kind::Gateway, Some(admin)) => ready.lease = Some(self.lease_in_time(&admin, &ready.new).await?),
            (_, Some(admin)) => self.check_gateway(&admin).await?,
            (_, None) => self
                .steps
                .say("gateway", "isn't asked: its admin address isn't known"),
        }
        Ok((ready, found))
    }

    /// A gateway's lease, as soon as it is given.
    async fn lease_in_time(&mut self, admin: &str, new: &Compat) -> anyhow::Result<Lease> {
        let begun = Instant::now();
        let handover = self.admin.handover(admin).await;
        let handover = handover.map_err(|why| anyhow!("the gateway's admin page at {admin}: {why}"))?;
        self.incarnation = handover.incarnation;
        if let (false, Some(why)) = (handover.custody, obstacle(&handover)) {
            bail!("{why}");
        }
        loop {
            match self.admin.take_lease(admin, new.speaks.lease).await {
                Ok(lease) => {
                    self.outcome.before = Some(lease.connections);
                    let text = format!(
                        "{} connections, {} descriptors held",
                        lease.connections, lease.held
                    );
                    self.steps.say("lease", &text);
                    return Ok(lease);
                }
                Err(NoLease::Never(why)) => bail!("the gateway gives no handover lease: {why}"),
                Err(NoLease::NotNow(why)) if begun.elapsed() >= self.patience.lease => {
                    bail!(
                        "the gateway has given no handover lease for {} s: {why}",
                        self.patience.lease.as_secs()
                    )
                }
                Err(NoLease::NotNow(_)) => tokio::time::sleep(STEP * 5).await,
            }
        }
    }

    /// A sidecar's gateway must be there and whole: never both at once.
    async fn check_gateway(&mut self, admin: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let handover = self.admin.handover(admin).await;
            let why = match handover {
                Ok(handover) => match obstacle(&handover) {
                    None => {
                        self.outcome.before = Some(handover.connections);
                        let text = format!("{} connections, all links are up", handover.connections);
                        self.steps.say("gateway", &text);
                        return Ok(());
                    }
                    Some(why) if !handover.custody => bail!("{why}"),
                    Some(why) => why,
                },
                Err(why) => format!("its admin page at {admin}: {why}"),
            };
            if begun.elapsed() >= self.patience.lease {
                bail!("the gateway isn't ready for it: {why}");
            }
            tokio::time::sleep(STEP * 5).await;
        }
    }

    /// Until the new process is as it should be; why not, if it isn't.
    async fn verify(&mut self, pid: u32, wanted: Wanted) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let why = match self.look(pid, wanted).await {
                // It may have ended since it was looked at first.
                Verdict::Good => match self.place.ended(pid).await {
                    Ok(Some(how)) => return Err(format!("the new process ended: {how}")),
                    _ => return Ok(()),
                },
                Verdict::Bad(why) => return Err(why),
                Verdict::Wait(why) => why,
            };
            if begun.elapsed() >= self.patience.verify {
                let seconds = self.patience.verify.as_secs();
                let why = format!("not as it should be after {seconds} s: {why}");
                return Err(with_said(&why, &self.place.said(pid).await));
            }
            tokio::time::sleep(STEP).await;
        }
    }

    async fn look(&mut self, pid: u32, wanted: Wanted) -> Verdict {
        let ended = match self.place.ended(pid).await {
            Ok(ended) => ended,
            Err(error) => return Verdict::Wait(format!("{error:#}")),
        };
        // What the gateway says of its links counts once the sidecar is ready; a gateway's readiness, once it is known by
        // its incarnation to be the new one's.
        let gateway = self.target.kind == Kind::Gateway;
        let early = match gateway {
            true => None,
            false => Some(self.admin.ready(&self.target.admin).await),
        };
        let (mut handover, mut left) = (Err("its address isn't known".to_owned()), 0);
        if let Some(admin) = &self.target.gateway_admin {
            handover = self.admin.handover(admin).await;
            if gateway && matches!(&handover, Ok(handover) if handover.takeover.closed > 0) {
                left = self.admin.left(admin).await;
            }
        }
        let ready = match early {
            Some(ready) => ready,
            None => self.admin.ready(&self.target.admin).await,
        };
        let seen = Seen {
            ended,
            handover,
            ready,
            left,
        };
        let above = self.incarnation;
        if gateway {
            self.note(&seen.handover, above);
            of_gateway(&seen, above, wanted)
        } else {
            if let Ok(handover) = &seen.handover {
                self.outcome.after = Some(handover.connections);
            }
            of_state(&seen, self.target.gateway_admin.is_some())
        }
    }

    /// What a new gateway says goes into the report, whatever the verdict.
    fn note(&mut self, handover: &Result<Handover, String>, above: u32) {
        if let Ok(handover) = handover
            && handover.incarnation > above
        {
            self.outcome.after = Some(handover.connections);
            self.outcome.adopted = Some(handover.takeover.adopted);
            self.outcome.closed = Some(handover.takeover.closed);
        }
    }
}
