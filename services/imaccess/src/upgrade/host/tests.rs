//! Upgrades of a part that runs by itself: scripts as binaries, a played gateway's admin pages.

use super::super::place::Place;
use super::super::plan::Target;
use super::super::report::Outcome;
use super::super::steps::{Patience, Upgrade};
use super::super::testing::Stage;
use super::*;
use crate::up::testing::wait_for;

const LONG: Duration = Duration::from_secs(60);
const PATIENCE: Patience = Patience {
    lease: LONG,
    lease_back: Duration::from_millis(50),
    verify: LONG,
};

fn configuration(stage: &Stage) -> PathBuf {
    let file = stage.path().join("gateway.yaml");
    let text = format!(
        "socket_dir: {}\nadmin_listen: {}\n",
        stage.path().display(),
        stage.gateway
    );
    fs::write(&file, text).unwrap();
    file
}

fn start(stage: &Stage, binary: &Path) -> Child {
    let mut command = Command::new(binary);
    command.args(["gateway", "--config", "gateway.yaml"]);
    command
        .current_dir(stage.path())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn is_there(stage: &Stage) -> Running {
    let file = PidFile::in_directory(stage.path(), Kind::Gateway);
    wait_for("a pid file", || async { file.read().ok().flatten() }).await
}

async fn upgrade(stage: &Stage, binary: &Path, log: Option<PathBuf>, supervised: bool) -> Outcome {
    let (host, admin) = Host::new(Kind::Gateway, &configuration(stage), log, supervised).unwrap();
    let target = Target {
        name: "gateway".to_owned(),
        kind: Kind::Gateway,
        gateway_admin: Some(admin.clone()),
        admin,
        neighbour: None,
    };
    let place = Place::Host(Box::new(host));
    Upgrade::new(target, place, binary, PATIENCE).unwrap().run().await
}

async fn end(stage: &Stage) {
    let end = End::of(is_there(stage).await.pid).unwrap();
    end.signal(Signal::TERM).unwrap();
    assert!(end.within(LONG).await.unwrap());
}

#[tokio::test]
async fn a_process_of_its_own_is_ended_by_a_signal_and_started_detached() {
    let stage = Stage::new().await;
    let (old, new) = (stage.binary("imaccess-old", 1), stage.binary("imaccess-new", 1));
    let mut child = start(&stage, &old);
    let before = is_there(&stage).await;
    let outcome = upgrade(&stage, &new, None, false).await;
    assert_eq!(outcome.error, None);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    let after = is_there(&stage).await;
    assert_eq!((&before.binary, &after.binary), (&old, &new));
    let words = fs::read(format!("/proc/{}/cmdline", after.pid)).unwrap();
    let words = String::from_utf8(words).unwrap().replace('\0', " ");
    let expected = format!(
        "gateway --config {}/gateway.yaml --own-session",
        stage.path().display()
    );
    assert!(words.contains(&expected), "{words}");
    end(&stage).await;
}

#[tokio::test]
async fn one_that_dies_is_taken_back_and_its_log_says_why() {
    let stage = Stage::new().await;
    let old = stage.binary("imaccess-old", 1);
    let new = stage.program("imaccess-crashing", 1, "echo no such key >&2; exit 3");
    let log = stage.path().join("log");
    fs::write(&log, "of before\n").unwrap();
    let _child = start(&stage, &old);
    is_there(&stage).await;
    let outcome = upgrade(&stage, &new, Some(log), false).await;
    let error = outcome.error.unwrap();
    assert!(
        error.contains("exit status: 3; it said:\nno such key\n"),
        "{error}"
    );
    assert!(outcome.rolled_back, "{error}");
    assert_eq!(is_there(&stage).await.binary, old);
    end(&stage).await;
}

#[tokio::test]
async fn a_service_manager_starts_the_next() {
    let stage = Stage::new().await;
    let (old, new) = (stage.binary("imaccess-old", 1), stage.binary("imaccess-new", 1));
    let mut child = start(&stage, &old);
    is_there(&stage).await;
    let manager = async {
        child.wait().await.unwrap();
        start(&stage, &new)
    };
    let (outcome, mut child) = tokio::join!(upgrade(&stage, &new, None, true), manager);
    assert_eq!(outcome.error, None);
    assert_eq!(stage.gateways(), ["imaccess-old", "imaccess-new"]);
    end(&stage).await;
    child.wait().await.unwrap();
}

#[tokio::test]
async fn what_a_crash_left_behind_is_no_process_of_ours() {
    let stage = Stage::new().await;
    let (host, _) = Host::new(Kind::Gateway, &configuration(&stage), None, false).unwrap();
    let fault = || format!("{:#}", host.running().unwrap_err());
    assert!(fault().contains("there is no"), "{}", fault());
    let mut other = Command::new("sleep")
        .arg("1000")
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let file = PidFile::in_directory(stage.path(), Kind::Gateway);
    fs::write(file.path(), format!("{}\n/x/imaccess\n", other.id().unwrap())).unwrap();
    let pid = other.id().unwrap();
    // Between fork and exec it is still this test's program.
    wait_for("it is another program", || async {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        (exe != std::env::current_exe().unwrap()).then_some(())
    })
    .await;
    assert!(fault().contains("not imaccess"), "{}", fault());
    other.kill().await.unwrap();
    assert!(fault().contains("has ended"), "{}", fault());
}

#[test]
fn a_changing_admin_address_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("f.yaml");
    let admin = |kind, text: &str| {
        fs::write(&file, text).unwrap();
        Host::new(kind, &file, None, false).map(|(_, admin)| admin)
    };
    // A gateway's default.
    let fault = admin(Kind::Gateway, "").err().unwrap().to_string();
    assert!(
        fault.contains("admin_listen") && fault.contains("fixed"),
        "{fault}"
    );
    let fixed = admin(Kind::Gateway, "admin_listen: 127.0.0.1:9300");
    assert_eq!(fixed.unwrap(), "127.0.0.1:9300");
    let any = admin(Kind::Sidecar, "admin_listen: 0.0.0.0:9301");
    assert_eq!(any.unwrap(), "127.0.0.1:9301");
}
