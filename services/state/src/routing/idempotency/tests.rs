//! What is fresh, running, repeated, refused and forgotten; and a model beside it.

use proptest::prelude::*;

use super::*;

fn print(number: u64) -> Fingerprint {
    Fingerprint([number, !number])
}

fn small() -> Bounds {
    Bounds {
        kept_for: Duration::from_secs(600),
        calls: 3,
        answer_bytes: 100,
        running_bytes: 1_000,
    }
}

fn done(bytes: usize) -> Answer {
    Answer::Done(Bytes::from(vec![0; bytes]))
}

fn fresh(calls: &mut Idempotency, now: Instant, name: u64) -> Ticket {
    match calls.begin(now, print(name), print(1_000 + name), 10) {
        Begun::Fresh(ticket) => ticket,
        other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn a_call_runs_and_is_repeated_until_its_time_is_over() {
    let (mut calls, now) = (Idempotency::new(small()), Instant::now());
    let ticket = fresh(&mut calls, now, 1);
    assert_eq!(calls.begin(now, print(1), print(1_001), 10), Begun::Running);
    assert_eq!(calls.begin(now, print(1), print(9), 10), Begun::Other);
    // It may take as long as it likes: its time begins with its answer.
    let end = now + Duration::from_secs(1_000);
    assert_eq!(calls.begin(end, print(1), print(1_001), 10), Begun::Running);
    calls.end(end, ticket, done(7));
    let almost = end + Duration::from_secs(600) - Duration::from_nanos(1);
    assert_eq!(
        calls.begin(almost, print(1), print(1_001), 10),
        Begun::Repeat(done(7))
    );
    assert_eq!(calls.begin(almost, print(1), print(9), 10), Begun::Other);
    let over = end + Duration::from_secs(600);
    let ticket = fresh(&mut calls, over, 1);
    calls.forget(ticket);
    assert_eq!((calls.size(), calls.take_evicted()), ((0, 0), 0));
}

#[test]
fn a_failure_that_did_nothing_is_forgotten_and_others_are_not() {
    let kept = |status: Status| Answer::of_failure(&status).is_some();
    assert!(!kept(Status::unavailable("")));
    assert!(!kept(Status::resource_exhausted("")));
    assert!(!kept(Status::aborted("")));
    assert!(kept(Status::invalid_argument("")));
    assert!(kept(Status::internal("")));
    assert!(kept(Status::deadline_exceeded("")));
    let (mut calls, now) = (Idempotency::new(small()), Instant::now());
    let ticket = fresh(&mut calls, now, 1);
    calls.forget(ticket);
    let ticket = fresh(&mut calls, now, 1);
    let answer = Answer::of_failure(&Status::internal("lost")).unwrap();
    calls.end(now, ticket, answer.clone());
    assert_eq!(
        calls.begin(now, print(1), print(1_001), 10),
        Begun::Repeat(answer)
    );
}

#[test]
fn the_oldest_answers_make_room_and_running_calls_never_do() {
    let (mut calls, now) = (Idempotency::new(small()), Instant::now());
    let running = fresh(&mut calls, now, 1);
    for name in 2..6 {
        let ticket = fresh(&mut calls, now, name);
        calls.end(now, ticket, done(1));
    }
    assert_eq!(calls.take_evicted(), 2);
    assert_eq!(calls.take_evicted(), 0);
    assert_eq!(calls.begin(now, print(1), print(1_001), 10), Begun::Running);
    assert_eq!(
        calls.begin(now, print(5), print(1_005), 10),
        Begun::Repeat(done(1))
    );
    // By bytes too.
    let ticket = fresh(&mut calls, now, 6);
    calls.end(now, ticket, done(100));
    assert_eq!(calls.size(), (2, 100));
    let _ = calls.take_evicted();
    // When all run, there is no room to make.
    let (_second, _third) = (fresh(&mut calls, now, 7), fresh(&mut calls, now, 8));
    assert_eq!(calls.take_evicted(), 1);
    assert_eq!(calls.begin(now, print(9), print(9), 10), Begun::Full);
    calls.end(now, running, done(1));
    assert!(matches!(
        calls.begin(now, print(9), print(9), 10),
        Begun::Fresh(_)
    ));
}

#[test]
fn what_runs_is_bounded_by_its_bytes() {
    let (mut calls, now) = (Idempotency::new(small()), Instant::now());
    let Begun::Fresh(ticket) = calls.begin(now, print(1), print(1), 995) else {
        panic!("it fits")
    };
    assert_eq!(calls.begin(now, print(2), print(2), 6), Begun::Full);
    calls.end(now, ticket, done(1));
    assert!(matches!(calls.begin(now, print(2), print(2), 6), Begun::Fresh(_)));
}

#[test]
fn fingerprints_tell_purposes_and_processes_apart() {
    let prints = Fingerprints::random();
    assert_eq!(prints.of(1, b"x"), prints.of(1, b"x"));
    assert_ne!(prints.of(1, b"x"), prints.of(2, b"x"));
    assert_ne!(prints.of(1, b"x"), prints.of(1, b"y"));
    assert_ne!(prints.of(1, b"x"), Fingerprints::random().of(1, b"x"));
}

#[derive(Debug, Clone)]
enum Step {
    Begin(u64, u64),
    End(usize, usize),
    Forget(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u64..6, 0_u64..2).prop_map(|(name, digest)| Step::Begin(name, digest)),
        3 => (0_usize..8, 0_usize..60).prop_map(|(which, bytes)| Step::End(which, bytes)),
        1 => (0_usize..8).prop_map(Step::Forget),
        1 => (0_u64..700).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever happens: bounds hold, a running call is never fresh again, and what is repeated is what was answered.
    #[test]
    fn nothing_is_made_twice(steps in prop::collection::vec(step(), 1..200)) {
        let mut calls = Idempotency::new(small());
        let mut now = Instant::now();
        let mut running: Vec<(u64, u64, Ticket)> = Vec::new();
        let mut answered: HashMap<u64, (u64, Answer)> = HashMap::new();
        for step in steps {
            match step {
                Step::Begin(name, digest) => match calls.begin(now, print(name), print(100 + digest), 10) {
                    Begun::Fresh(ticket) => {
                        prop_assert!(running.iter().all(|(other, ..)| *other != name));
                        running.push((name, digest, ticket));
                    }
                    Begun::Running => {
                        prop_assert!(running.iter().any(|(other, with, _)| (*other, *with) == (name, digest)));
                    }
                    Begun::Repeat(answer) => {
                        prop_assert_eq!(answered.get(&name), Some(&(digest, answer)));
                    }
                    Begun::Other => {
                        let runs = running.iter().any(|(other, with, _)| *other == name && *with != digest);
                        let was = answered.get(&name).is_some_and(|(with, _)| *with != digest);
                        prop_assert!(runs || was);
                    }
                    Begun::Full => prop_assert_eq!(running.len(), 3),
                },
                Step::End(which, bytes) if !running.is_empty() => {
                    let (name, digest, ticket) = running.swap_remove(which % running.len());
                    calls.end(now, ticket, done(bytes));
                    answered.insert(name, (digest, done(bytes)));
                }
                Step::Forget(which) if !running.is_empty() => {
                    let (.., ticket) = running.swap_remove(which % running.len());
                    calls.forget(ticket);
                }
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
                Step::End(..) | Step::Forget(_) => (),
            }
            let (count, bytes) = calls.size();
            prop_assert!(count <= 3 && bytes <= 100);
            prop_assert!(count >= running.len());
        }
    }
}
