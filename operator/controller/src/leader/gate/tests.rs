use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Response;
use tower::ServiceExt;
use tower_test::mock;

use super::*;

/// A clock that stands at as many seconds as the number says.
fn standing() -> (Clock, Arc<AtomicU64>) {
    let seconds = Arc::new(AtomicU64::new(100));
    let read = Arc::clone(&seconds);
    (
        Clock::of(move || Duration::from_secs(read.load(Ordering::SeqCst))),
        seconds,
    )
}

fn gate(clock: &Clock) -> Gate {
    let refusals = IntCounter::new("refusals", "Refusals.").unwrap();
    Gate::new(clock.clone(), Duration::from_secs(4), refusals)
}

fn request(method: Method) -> Request<()> {
    Request::builder()
        .method(method)
        .uri("/api/v1/pods")
        .body(())
        .unwrap()
}

#[tokio::test]
async fn writes_pass_while_their_time_ends_before_the_gates() {
    let (clock, seconds) = standing();
    let gate = gate(&clock);
    let service = GateLayer(gate.clone()).layer(tower::service_fn(async |_: Request<()>| {
        Ok::<_, BoxError>(Response::new(()))
    }));
    let send = async |method| service.clone().oneshot(request(method)).await;
    // Until 110; a write takes 4 at most.
    gate.open_until(Duration::from_secs(110));
    for (now, passes) in [(100, true), (106, true), (107, false), (110, false), (500, false)] {
        seconds.store(now, Ordering::SeqCst);
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let answer = send(method.clone()).await;
            assert_eq!(answer.is_ok(), passes, "{method} at {now}");
            if let Err(fault) = answer {
                assert_eq!(fault.downcast_ref::<GateClosed>(), Some(&GateClosed));
            }
        }
        assert!(send(Method::GET).await.is_ok(), "reading is free at {now}");
    }
    assert_eq!(gate.refusals.get(), 12);
    gate.open();
    assert!(send(Method::POST).await.is_ok());
    gate.close();
    assert!(send(Method::POST).await.is_err());
}

#[tokio::test]
async fn a_request_that_was_let_through_is_not_driven_on_too_late() {
    let (clock, seconds) = standing();
    let gate = gate(&clock);
    gate.open_until(Duration::from_secs(110));
    let (service, mut server) = mock::pair::<Request<()>, Response<()>>();
    let mut gated = GateLayer(gate).layer(service);
    server.allow(1);
    let answer = gated.ready().await.unwrap().call(request(Method::PATCH));
    // Stopped for a minute, and continued: the answer that waits isn't even looked at.
    let (_, respond) = server.next_request().await.unwrap();
    respond.send_response(Response::new(()));
    seconds.store(160, Ordering::SeqCst);
    let fault = answer.await.unwrap_err();
    assert!(fault.downcast_ref::<Unanswered>().is_some(), "{fault}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_is_given_up() {
    let began = tokio::time::Instant::now();
    let gate = gate(&Clock::of(move || began.elapsed()));
    gate.open();
    let (service, mut server) = mock::pair::<Request<()>, Response<()>>();
    let mut gated = GateLayer(gate).layer(service);
    server.allow(2);
    for (method, timeout) in [(Method::PUT, 4), (Method::GET, 30)] {
        let asked = began.elapsed();
        let answer = gated.ready().await.unwrap().call(request(method));
        let held = server.next_request().await.unwrap();
        let fault = answer.await.unwrap_err();
        assert!(fault.downcast_ref::<Unanswered>().is_some(), "{fault}");
        assert_eq!((began.elapsed() - asked).as_secs(), timeout);
        drop(held);
    }
}

#[tokio::test(start_paused = true)]
async fn leading_is_told_and_ends_with_the_time() {
    let began = tokio::time::Instant::now();
    let gate = gate(&Clock::of(move || began.elapsed()));
    let (tell, mut leads) = watch::channel(false);
    let followed = gate.clone();
    tokio::spawn(async move { followed.follow(&tell).await });
    gate.open_until(Duration::from_secs(10));
    leads.wait_for(|leads| *leads).await.unwrap();
    assert!(gate.is_open());
    gate.open_until(Duration::from_secs(13));
    leads.wait_for(|leads| !*leads).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 13);
    gate.open();
    leads.wait_for(|leads| *leads).await.unwrap();
    gate.close();
    leads.wait_for(|leads| !*leads).await.unwrap();
}

#[test]
fn only_reading_methods_are_free() {
    assert!(!writes(&Method::GET) && writes(&Method::from_bytes(b"MERGE").unwrap()));
}
