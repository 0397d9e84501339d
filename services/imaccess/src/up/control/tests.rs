use std::fs;
use std::net::SocketAddr;

use tempfile::TempDir;

use super::super::testing::{PlayedUp, script, wait_for};
use super::*;

const NOWHERE: [SocketAddr; 2] = {
    let address = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
    [address, address]
};
const DEADLINE: Duration = Duration::from_secs(60);

fn replace(part: &str, binary: &Path) -> Request {
    Request::Replace {
        part: part.to_owned(),
        binary: binary.to_owned(),
        kill: false,
    }
}

/// A part that writes its name beside itself when it has started, and goes on.
fn sleeper(directory: &TempDir, name: &str) -> PathBuf {
    let text = format!(
        "echo {name} >> {}/started; echo {name} says >&2; exec sleep 1000",
        directory.path().display()
    );
    script(directory.path(), name, &text)
}

async fn raw(up: &TempDir, line: &[u8]) -> String {
    let mut stream = UnixStream::connect(up.path().join(SOCKET)).await.unwrap();
    // A refusal may come before all is written.
    let _ = stream.write_all(line).await;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_part_is_replaced_and_restarted_from_what_replaced_it() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (sleeper(&directory, "old"), sleeper(&directory, "new"));
    let up = PlayedUp::start(directory.path(), &old, NOWHERE);
    let mode = fs::metadata(directory.path().join(SOCKET))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = wait_for("the old one has said something", || async {
        Some(up.gateway().await).filter(|part| !part.stderr.is_empty())
    })
    .await;
    assert_eq!((&before.binary, before.kind.as_str()), (&old, "gateway"));
    assert_eq!(before.admin.as_deref(), Some("127.0.0.1:1"));

    let replaced = up
        .control()
        .replace(&replace("gateway-0", &new), DEADLINE)
        .await
        .unwrap();
    assert_eq!(replaced.previous_pid, before.pid);
    assert_eq!(replaced.previous_binary, old);
    assert_eq!(replaced.status, "signal: 15 (SIGTERM)");
    assert_eq!(replaced.stderr, "old says\n");
    let after = up.gateway().await;
    assert_eq!((after.pid, &after.binary), (replaced.pid, &new));
    assert_eq!(after.last.unwrap().pid, before.pid);

    // It dies, and it is the new one that is started again.
    let pid = rustix::process::Pid::from_raw(i32::try_from(replaced.pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let again = wait_for("another process", || async {
        Some(up.gateway().await).filter(|part| part.pid != 0 && part.pid != replaced.pid)
    })
    .await;
    assert_eq!(again.binary, new);
    assert_eq!(again.last.unwrap().status, "signal: 9 (SIGKILL)");
    up.end().await;
}

#[tokio::test]
async fn a_part_that_dies_again_and_again_is_replaced_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let crashing = script(directory.path(), "crashing", "echo no such key >&2; exit 3");
    let new = sleeper(&directory, "new");
    let up = PlayedUp::start(directory.path(), &crashing, NOWHERE);
    let dead = wait_for("it has died", || async {
        let part = up.gateway().await;
        let stderr = part.last.as_ref().map(|last| last.stderr.as_str());
        Some(part.clone()).filter(|_| stderr == Some("no such key\n"))
    })
    .await;
    assert_eq!(dead.last.unwrap().status, "exit status: 3");
    let replaced = up
        .control()
        .replace(&replace("gateway-0", &new), DEADLINE)
        .await
        .unwrap();
    assert_ne!(replaced.pid, 0);
    assert_eq!(up.gateway().await.binary, new);
    up.end().await;
}

#[tokio::test]
async fn what_cant_be_started_leaves_the_part_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let old = sleeper(&directory, "old");
    let up = PlayedUp::start(directory.path(), &old, NOWHERE);
    let ask = async |part: &str, binary: &Path| {
        let refused = up.control().replace(&replace(part, binary), DEADLINE).await;
        refused.unwrap_err().to_string()
    };
    let before = wait_for("it runs", || async {
        Some(up.gateway().await).filter(|part| part.pid != 0)
    })
    .await;
    let fault = ask("gateway-7", &old).await;
    assert!(
        fault.contains("gateway-7") && fault.contains("gateway-0, state-0"),
        "{fault}"
    );
    assert!(
        ask("gateway-0", Path::new("/no/such"))
            .await
            .contains("No such file")
    );
    assert_eq!(up.gateway().await.pid, before.pid);

    // A program that turns out to be none only when it is started.
    let strange = script(directory.path(), "strange", "");
    fs::write(&strange, "#!/no/such/interpreter\n").unwrap();
    let fault = ask("gateway-0", &strange).await;
    assert!(fault.contains("strange can't be started"), "{fault}");
    let back = wait_for("the old one is back", || async {
        Some(up.gateway().await).filter(|part| part.pid != 0)
    })
    .await;
    assert_eq!(back.binary, old);
    up.end().await;
}

#[tokio::test]
async fn two_replacements_of_one_part_dont_mix() {
    let directory = tempfile::tempdir().unwrap();
    let release = directory.path().join("release");
    // Ends only when it is allowed to.
    let text = format!(
        "trap 'while ! test -e {0}; do sleep 0.01; done; exit 0' TERM; echo >> {1}; while :; do sleep 0.01; done",
        release.display(),
        directory.path().join("trapped").display()
    );
    let slow = script(directory.path(), "slow", &text);
    let (new, newer) = (sleeper(&directory, "new"), sleeper(&directory, "newer"));
    let up = PlayedUp::start(directory.path(), &slow, NOWHERE);
    wait_for("both have started", || async {
        let started = fs::read(directory.path().join("trapped")).unwrap_or_default();
        (started.len() == 2).then_some(())
    })
    .await;
    let control = up.control();
    let first_order = replace("gateway-0", &new);
    let first = tokio::spawn(async move { control.replace(&first_order, DEADLINE).await });
    wait_for("the first is at it", || async {
        (up.gateway().await.binary == new).then_some(())
    })
    .await;
    let second = up
        .control()
        .replace(&replace("gateway-0", &newer), DEADLINE)
        .await;
    let fault = second.unwrap_err().to_string();
    assert!(fault.contains("being replaced already"), "{fault}");
    fs::write(&release, "").unwrap();
    let replaced = first.await.unwrap().unwrap();
    assert_eq!(replaced.status, "exit status: 0");
    assert_eq!(up.gateway().await.binary, new);
    up.end().await;
}

#[tokio::test]
async fn a_kill_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let old = sleeper(&directory, "old");
    let up = PlayedUp::start(directory.path(), &old, NOWHERE);
    wait_for("it runs", || async {
        Some(up.gateway().await).filter(|part| part.pid != 0)
    })
    .await;
    let request = Request::Replace {
        part: "gateway-0".to_owned(),
        binary: old,
        kill: true,
    };
    let replaced = up.control().replace(&request, DEADLINE).await.unwrap();
    assert_eq!(replaced.status, "signal: 9 (SIGKILL)");
    up.end().await;
}

#[tokio::test]
async fn strange_requests_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let old = sleeper(&directory, "old");
    let up = PlayedUp::start(directory.path(), &old, NOWHERE);
    for (line, part) in [
        (b"\n".to_vec(), "a request is like"),
        (b"{\"restart\":{}}\n".to_vec(), "restart"),
        (b"{\"list\":{\"x\":1}}\n".to_vec(), "x"),
        (b"{\"replace\":{\"part\":\"gateway-0\"}}\n".to_vec(), "binary"),
        (b"\xff\n".to_vec(), "no text"),
        (vec![b'x'; 20 << 10], "one line of at most"),
    ] {
        let answer = raw(&directory, &line).await;
        let refused: Refused = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}"));
        assert!(refused.error.contains(part), "{}", refused.error);
    }
    assert!(
        raw(&directory, b"{\"list\":{}}\n")
            .await
            .starts_with("{\"parts\":[{\"name\":\"gateway-0\"")
    );
    up.end().await;
}

#[test]
fn only_the_user_and_root_may_ask() {
    for (peer, own, may) in [(1, 1, true), (0, 1, true), (2, 1, false), (1, 0, false)] {
        assert_eq!(may_ask(peer, own), may, "{peer} {own}");
    }
}
