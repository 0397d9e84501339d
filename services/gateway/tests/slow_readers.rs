//! Clients that stop reading: bounded by bytes and policy, and nobody else waits for them.

mod harness;

use bytes::Bytes;
use harness::TestGateway;
use imaccess_proto::v1::{
    BusinessQueue, GroupFrame, LinkPolicy, Membership, Outcome, SlowConsumerPolicy, StateBatch, Unicast,
};
use imaccess_wire::frame::{Close, GroupPush, Ping, Push, Reply};
use imaccess_wire::{Code, FrameType};

const GROUP: &[u8] = b"room";

fn group_frame(sequence: u64, len: usize) -> GroupFrame {
    let mut frame = Vec::new();
    let payload = vec![sequence as u8; len];
    GroupPush {
        business: 1,
        group: GROUP,
        group_epoch: 1,
        sequence,
        payload: &payload,
        ..GroupPush::default()
    }
    .encode(&mut frame);
    GroupFrame {
        business: 1,
        group: Bytes::from_static(GROUP),
        frame: frame.into(),
        ..GroupFrame::default()
    }
}

fn join(handle: u64) -> Membership {
    Membership {
        handle,
        business: 1,
        group: Bytes::from_static(GROUP),
        member: true,
    }
}

fn policy(policy: SlowConsumerPolicy, queue_bytes: u32) -> LinkPolicy {
    let queue = BusinessQueue {
        business: 1,
        queue_bytes,
        policy: policy.into(),
    };
    LinkPolicy {
        ping_interval_s: 60,
        businesses: vec![queue],
    }
}

fn push(handle: u64, receipt: u64, len: usize) -> StateBatch {
    let mut frame = Vec::new();
    Push {
        business: 1,
        payload: &vec![1; len],
        ..Push::default()
    }
    .encode(&mut frame);
    let unicast = Unicast {
        handle: vec![handle],
        length: vec![frame.len() as u32],
        frames: frame.into(),
        business: vec![1],
        receipt: vec![receipt],
        ..Unicast::default()
    };
    StateBatch {
        unicast: Some(unicast),
        ..StateBatch::default()
    }
}

#[tokio::test]
async fn a_group_push_reaches_all_members_once_and_in_order() {
    let gateway = TestGateway::start(|config| config.limits.fanout_slice = 3).await;
    let mut state = gateway.state().await;
    let mut members = Vec::new();
    for index in 0..20 {
        members.push(gateway.online(&mut state, &format!("d{index}")).await);
    }
    let (mut outsider, outsider_handle) = gateway.online(&mut state, "outsider").await;
    let memberships = members.iter().map(|(_, handle)| join(*handle)).collect();
    let groups = (1..=50).map(|sequence| group_frame(sequence, 100)).collect();
    state
        .send(StateBatch {
            memberships,
            groups,
            ..StateBatch::default()
        })
        .await;
    for (client, _) in &mut members {
        for sequence in 1..=50 {
            let (kind, body) = client.frame().await;
            assert_eq!(
                (kind, GroupPush::decode(&body).unwrap().sequence),
                (FrameType::GroupPush, sequence)
            );
        }
    }
    state.send(push(outsider_handle, 5, 10)).await;
    assert_eq!(
        outsider.frame().await.0,
        FrameType::Push,
        "and the outsider got nothing before"
    );
    assert_eq!(state.receipt().await, (5, Outcome::Written as u8));
    gateway
        .metric_becomes("imaccess_gateway_group_deliveries_total", 1000.0)
        .await;
}

#[tokio::test]
async fn drop_oldest_loses_frames_of_the_slow_reader_alone_and_tears_none() {
    let gateway = TestGateway::start(|_| {}).await;
    let mut state = gateway.state().await;
    state
        .send(StateBatch {
            policy: Some(policy(SlowConsumerPolicy::DropOldest, 20_000)),
            ..StateBatch::default()
        })
        .await;
    let (mut slow, slow_handle) = gateway.online_narrow(&mut state, "slow").await;
    let (mut quick, quick_handle) = gateway.online(&mut state, "quick").await;
    let memberships = vec![join(slow_handle), join(quick_handle)];
    state
        .send(StateBatch {
            memberships,
            ..StateBatch::default()
        })
        .await;
    // Far more than the kernel's buffers between the two, of which the slow reader's own is small.
    const COUNT: u64 = 1_000;
    for sequence in 1..=COUNT {
        state
            .send(StateBatch {
                groups: vec![group_frame(sequence, 1_000)],
                ..StateBatch::default()
            })
            .await;
        if sequence % 4 == 0 {
            for expected in sequence - 3..=sequence {
                let (_, body) = quick.frame().await;
                assert_eq!(
                    GroupPush::decode(&body).unwrap().sequence,
                    expected,
                    "the quick one misses nothing"
                );
            }
        }
    }
    let mut last = 0;
    let mut count = 0;
    while last < COUNT {
        let (_, body) = slow.frame().await;
        let push = GroupPush::decode(&body).unwrap();
        assert!(push.sequence > last && push.payload.iter().all(|byte| *byte == push.sequence as u8));
        last = push.sequence;
        count += 1;
    }
    assert!(count < COUNT, "nothing was dropped: the test needs more bytes");
    let dropped = "imaccess_gateway_dropped_frames_total{reason=\"drop_oldest\"}";
    gateway.metric_becomes(dropped, (COUNT - count) as f64).await;
    gateway.metric_becomes("imaccess_gateway_queued_bytes", 0.0).await;
}

#[tokio::test]
async fn the_close_policy_ends_the_slow_reader_with_a_resumable_code() {
    let gateway = TestGateway::start(|_| {}).await;
    let mut state = gateway.state().await;
    state
        .send(StateBatch {
            policy: Some(policy(SlowConsumerPolicy::Close, 20_000)),
            ..StateBatch::default()
        })
        .await;
    let (slow, handle) = gateway.online(&mut state, "slow").await;
    let mut receipts = 0;
    while state.closed.is_empty() {
        receipts += 1;
        state.send(push(handle, receipts, 60_000)).await;
        state.receive().await;
    }
    assert_eq!(state.closed().await, (handle, Code::SlowConsumer));
    gateway
        .metric_becomes("imaccess_gateway_closed_total{code=\"slow_consumer\"}", 1.0)
        .await;
    gateway.metric_becomes("imaccess_gateway_queued_bytes", 0.0).await;
    drop(slow);
}

#[tokio::test]
async fn drop_newest_refuses_and_says_so_in_the_receipt() {
    let gateway = TestGateway::start(|_| {}).await;
    let mut state = gateway.state().await;
    state
        .send(StateBatch {
            policy: Some(policy(SlowConsumerPolicy::DropNewest, 100_000)),
            ..StateBatch::default()
        })
        .await;
    let (slow, handle) = gateway.online(&mut state, "slow").await;
    let mut id = 0;
    let mut seen = Vec::new();
    loop {
        id += 1;
        state.send(push(handle, id, 60_000)).await;
        let (receipt, outcome) = state.receipt().await;
        assert_eq!(receipt, id);
        if seen.last() != Some(&outcome) {
            seen.push(outcome);
        }
        if outcome == Outcome::Refused as u8 {
            break;
        }
    }
    // Nothing of this size fits the kernel's small buffer at once, so even the first is queued in part.
    assert_eq!(seen, [Outcome::Queued as u8, Outcome::Refused as u8]);
    drop(slow);
}

#[tokio::test]
async fn a_burst_of_large_replies_to_one_client_tears_no_frame() {
    let gateway = TestGateway::start(|_| {}).await;
    let mut state = gateway.state().await;
    let (mut slow, handle) = gateway.online_narrow(&mut state, "slow").await;
    // Far more than its queue may hold, in one batch of control frames for one connection.
    const COUNT: u64 = 10;
    let mut frames = Vec::new();
    let mut lengths = Vec::new();
    for message_id in 0..COUNT {
        let before = frames.len();
        let payload = vec![message_id as u8; 60_000];
        let reply = Reply {
            message_id,
            payload: &payload,
            ..Reply::default()
        };
        reply.encode(&mut frames);
        lengths.push((frames.len() - before) as u32);
    }
    let unicast = Unicast {
        handle: vec![handle; COUNT as usize],
        length: lengths,
        frames: frames.into(),
        ..Unicast::default()
    };
    let batch = StateBatch {
        unicast: Some(unicast),
        ..StateBatch::default()
    };
    state.send(batch).await;
    assert_eq!(state.closed().await, (handle, Code::SlowConsumer));
    // Whatever still comes is whole, in order, and ends with the reason.
    let mut next = 0;
    loop {
        let (kind, body) = slow.frame().await;
        if kind == FrameType::Close {
            let close = Close::decode(&body).unwrap();
            assert_eq!(close.known_code(), Some(Code::SlowConsumer));
            break;
        }
        let reply = Reply::decode(&body).unwrap();
        assert_eq!(reply.message_id, next);
        assert!(reply.payload.len() == 60_000 && reply.payload.iter().all(|byte| u64::from(*byte) == next));
        next += 1;
    }
    assert!(next < COUNT);
}

#[tokio::test]
async fn thousands_of_pings_at_once_are_answered_in_few_writes() {
    let gateway = TestGateway::start(|_| {}).await;
    let mut state = gateway.state().await;
    let (mut client, _) = gateway.online(&mut state, "eager").await;
    const PINGS: usize = 5_000;
    let mut pings = Vec::new();
    (0..PINGS).for_each(|_| Ping::default().encode(&mut pings));
    client.write(&pings).await;
    for _ in 0..PINGS {
        assert_eq!(client.frame().await.0, FrameType::Pong);
    }
    gateway
        .metric_becomes(
            "imaccess_gateway_received_frames_total{type=\"ping\"}",
            PINGS as f64,
        )
        .await;
    let writes = gateway.metric("imaccess_gateway_writes_total").await;
    assert!(writes < 100.0, "{writes} writes");
}
