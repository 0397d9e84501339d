//! What is told, how often, and what the worker hears of it.

use std::sync::Mutex;

use imaccess_proto::v1::{BusinessReply, BusinessRequest, ConnectionEvent};
use prometheus::Registry;
use tokio::sync::{Notify, mpsc};

use super::*;
use crate::session::metrics::Metrics;

/// Answers events as it is told, and remembers them.
#[derive(Default)]
struct Scripted {
    answers: Mutex<Vec<Result<bool, CallError>>>,
    told: Mutex<Vec<Vec<u64>>>,
    connected: bool,
}

impl Caller for Scripted {
    async fn connect(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.connected
    }

    async fn ask(&self, _: BusinessRequest) -> Result<BusinessReply, CallError> {
        unreachable!("it is told events only")
    }

    async fn tell(&self, batch: &EventBatch) -> Result<bool, CallError> {
        assert_eq!(batch.from.as_ref().unwrap().instance, "pod/3.0");
        let sequences = batch
            .events
            .iter()
            .chain(&batch.snapshot)
            .map(|event| event.sequence);
        self.told.lock().unwrap().push(sequences.collect());
        self.answers.lock().unwrap().remove(0)
    }

    fn tidy(&self) {}
}

const ID: StreamId = StreamId {
    business: 0,
    stream: 0,
};

fn context() -> (StreamContext, mpsc::Receiver<(StreamId, StreamEvent)>) {
    let (events, heard) = mpsc::channel(16);
    let context = StreamContext {
        cluster: "c".to_owned(),
        dialler: "pod/3".to_owned(),
        place: 0,
        room: Arc::new(Notify::new()),
        events,
        metrics: Metrics::register(&Registry::new()),
    };
    (context, heard)
}

fn events(sequences: std::ops::RangeInclusive<u64>) -> Vec<ConnectionEvent> {
    let event = |sequence| ConnectionEvent {
        sequence,
        ..ConnectionEvent::default()
    };
    sequences.map(event).collect()
}

fn refused() -> Result<bool, CallError> {
    Err(CallError::Failed("status 500".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn each_batch_is_told_until_it_is_taken_and_only_then_the_next() {
    let caller = Scripted {
        answers: Mutex::new(vec![refused(), refused(), Ok(false), Ok(true), Ok(false)]),
        connected: true,
        ..Scripted::default()
    };
    let (context, mut heard) = context();
    let config = BusinessConfig::new(1, "b", "http://127.0.0.1:1");
    let batches = vec![
        FromAccess {
            events: events(1..=2),
            ..FromAccess::default()
        },
        FromAccess::default(),
        FromAccess {
            events: events(3..=3),
            ..FromAccess::default()
        },
        FromAccess {
            snapshot: events(0..=0),
            snapshot_done: true,
            ..FromAccess::default()
        },
    ];
    tell_all(
        &caller,
        &config,
        ID,
        &context,
        futures_util::stream::iter(batches),
    )
    .await
    .ok()
    .unwrap();
    let told: Vec<Vec<u64>> = vec![vec![1, 2], vec![1, 2], vec![1, 2], vec![3], vec![0]];
    assert_eq!(*caller.told.lock().unwrap(), told);
    let mut said = Vec::new();
    while let Ok((ID, StreamEvent::Batch(batch))) = heard.try_recv() {
        said.push((batch.event_ack, batch.resync));
    }
    assert_eq!(said, [(2, false), (3, true), (0, false)]);
}

#[tokio::test(start_paused = true)]
async fn the_stream_is_down_when_there_is_no_server() {
    let nobody = || Err(CallError::Unreached("nobody".into()));
    let caller = Scripted {
        answers: Mutex::new(vec![refused(), nobody()]),
        ..Scripted::default()
    };
    let (context, mut heard) = context();
    let config = BusinessConfig::new(1, "b", "http://127.0.0.1:1");
    let batch = FromAccess {
        events: events(1..=1),
        ..FromAccess::default()
    };
    let ended = tell_all(
        &caller,
        &config,
        ID,
        &context,
        futures_util::stream::iter([batch]),
    )
    .await;
    assert!(matches!(ended, Err(Fault::Stream(_))));
    assert!(heard.try_recv().is_err());
}
