//! What a request costs the sidecar, measured: run with `--ignored --nocapture`, alone.

use std::time::{Duration, Instant};

use imaccess_proto::v1::{Frames, GatewayBatch};
use imaccess_wire::frame::Request;

use super::harness::{LinkStream, business, gateway, soon, start};
use super::{attach, call, echo_business};

const SESSIONS: u64 = 1_000;
/// Requests on the way: what a gateway under load has.
const OUTSTANDING: u64 = 1_000;
const REQUESTS: u64 = 400_000;

/// CPU time of the worker's thread, user and system.
fn worker_cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let of_worker = tasks
        .map(|task| task.unwrap().path())
        .find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "state-0"));
    let schedstat = std::fs::read_to_string(of_worker.unwrap().join("schedstat")).unwrap();
    Duration::from_nanos(schedstat.split_whitespace().next().unwrap().parse().unwrap())
}

async fn requests(link: &LinkStream, message_id: u64, handles: std::ops::Range<u64>) {
    let mut frames = Vec::new();
    let (mut handle, mut length) = (Vec::new(), Vec::new());
    for at in handles {
        let before = frames.len();
        Request {
            business: 1,
            message_id,
            payload: &[7; 128],
            ..Request::default()
        }
        .encode(&mut frames);
        handle.push(at);
        length.push((frames.len() - before) as u32);
    }
    let uplink = Some(Frames {
        handle,
        length,
        frames: frames.into(),
    });
    link.send(GatewayBatch {
        uplink,
        ..GatewayBatch::default()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement"]
async fn requests_per_second_and_cpu_per_request() {
    let (address, mut streams) = business().await;
    let mut echo = echo_business(address);
    echo.concurrency = 4_096;
    let running = start(vec![echo], |_| ()).await;
    let mut shard = gateway(running.directory.path(), 0, 1);
    let mut link = attach(&mut shard).await;
    let logins = Instant::now();
    for handle in 1..=SESSIONS {
        link.login(running.attempt(handle, &format!("device-{handle}"), b"", &[]))
            .await;
        link.forget();
    }
    println!(
        "login one by one: {:?}, cpu {:?} each",
        logins.elapsed() / SESSIONS as u32,
        worker_cpu() / SESSIONS as u32
    );
    soon(streams.recv()).await.unwrap().echo();
    call(&mut link, 1, 1, b"").await;
    for batch in [16, 64, 256] {
        link.forget();
        let (before, cpu) = (Instant::now(), worker_cpu());
        let (mut sent, mut answered) = (0, 0);
        while answered < REQUESTS {
            while sent < REQUESTS && sent - answered < OUTSTANDING {
                let from = 1 + sent % SESSIONS;
                let until = (from + batch).min(SESSIONS + 1);
                requests(&link, 2 + batch * 1_000_000 + sent / SESSIONS, from..until).await;
                sent += until - from;
            }
            answered += link.count_replies().await;
        }
        let (took, cpu) = (before.elapsed(), worker_cpu() - cpu);
        println!(
            "batches of {batch}: {:.0} requests/s, {:.2} µs of worker CPU each",
            answered as f64 / took.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / answered as f64
        );
    }
    let page = running.metrics().await;
    let ok = page.lines().find_map(|line| {
        line.strip_prefix("imaccess_state_uplink_answers_total{business=\"echo\",code=\"ok\"} ")
    });
    assert_eq!(
        ok,
        Some((3 * REQUESTS + 1).to_string().as_str()),
        "all were answered by the business"
    );
}
