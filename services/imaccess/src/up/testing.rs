//! A played `up --processes` for tests: real processes, of scripts instead of parts, behind a real control socket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::plan::tests::example;
use super::processes::{self, Processes};
use super::{Event, control, plan};
use crate::part::Config;

/// For anything that a test waits for: a busy machine must not fail it.
const PATIENCE: Duration = Duration::from_secs(60);

/// gateway-0 and state-0, kept running.
pub(crate) struct PlayedUp {
    processes: Processes,
    plan: plan::Plan,
    _control: control::Control,
    directory: PathBuf,
}

impl PlayedUp {
    /// Starts both from `executable`.
    pub(crate) fn start(directory: &Path, executable: &Path, admin: [SocketAddr; 2]) -> Self {
        let mut plan = example(1, Vec::new()).unwrap();
        plan.parts.retain(|part| part.config.socket_dir().is_some());
        for part in &mut plan.parts {
            match &mut part.config {
                Config::Gateway(gateway) => gateway.admin_listen = admin[0],
                Config::Sidecar(sidecar) => sidecar.admin_listen = admin[1],
                other => panic!("{other:?}"),
            }
        }
        let (events, mut happened) = mpsc::channel::<Event>(1);
        let processes = processes::start(&plan, executable, directory, &events, false);
        tokio::spawn(async move { while happened.recv().await.is_some() {} });
        let control = control::Control::serve(directory, Arc::clone(&processes.handles)).unwrap();
        Self {
            processes,
            plan,
            _control: control,
            directory: directory.to_owned(),
        }
    }

    /// The asking side.
    pub(crate) fn control(&self) -> crate::control::Control {
        crate::control::Control::in_directory(&self.directory)
    }

    /// What it says of gateway-0.
    pub(crate) async fn gateway(&self) -> crate::control::ListedPart {
        let parts = self.control().list().await.unwrap();
        parts.into_iter().find(|part| part.name == "gateway-0").unwrap()
    }

    /// Ends both.
    pub(crate) async fn end(mut self) {
        self.processes.end(&self.plan, |_| true).await;
    }
}

/// Makes a program of a shell script's text.
pub(crate) fn script(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    // By a process of its own: another test that forks while this one has the file open for writing would keep it
    // from being run.
    let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod 755 \"$2\"";
    let status = std::process::Command::new("/bin/sh")
        .args(["-c", write, "sh", text])
        .arg(&path)
        .status();
    assert!(status.unwrap().success());
    path
}

/// Waits until `look` gives something.
pub(crate) async fn wait_for<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
