//! Kicks, groups, broadcasts and who is online: between fake sidecars and a business.

use bytes::Bytes;
use imaccess_proto::v1::{
    BroadcastRequest, ChangeMembersRequest, DestroyGroupRequest, DeviceFilter, GroupAction, InstanceAnswer,
    KickRequest, ListMembersRequest, Member, MovedGroup, MovedGroups, Outcome, PresenceStatus,
    QueryOnlineRequest, SessionAction,
};
use tonic::Code;

use super::fake::{Replica, Sidecar, announcement, fixed, presence};
use super::{SESSION_A, SESSION_B};
use crate::routing::RoutingConfig;

async fn two() -> (Sidecar, Sidecar, Replica) {
    let (mut a, mut b) = (Sidecar::start("a").await, Sidecar::start("b").await);
    let config = RoutingConfig {
        receipt_timeout: std::time::Duration::from_millis(300),
        ..fixed(&[&a, &b])
    };
    let replica = Replica::start(config).await;
    a.accept("test").await;
    b.accept("test").await;
    a.announce(vec![announcement("d1", SESSION_A, 5)]).await;
    b.announce(vec![announcement("d2", SESSION_B, 6)]).await;
    a.snapshot_done().await;
    b.snapshot_done().await;
    replica.in_sync().await;
    (a, b, replica)
}

fn names(devices: &[&str]) -> Vec<String> {
    devices.iter().map(|&device| device.to_owned()).collect()
}

#[tokio::test]
async fn a_kick_goes_to_the_session_and_its_answer_comes_back() {
    let (mut a, _b, replica) = two().await;
    let mut client = replica.client();
    let request = KickRequest {
        business: 7,
        app: "app".to_owned(),
        devices: names(&["d1", "nobody"]),
        reason: "spam".to_owned(),
    };
    let call = tokio::spawn(async move { client.kick(request).await.unwrap().into_inner() });
    let command = a.commands(1).await.remove(0);
    assert_eq!(command.action(), SessionAction::Kick);
    assert_eq!((command.locator, command.serial, command.epoch), (5_000, 50, 5));
    assert_eq!((command.business, command.reason.as_str()), (7, "spam"));
    a.receipt(command.id, Outcome::Done).await;
    let outcomes: Vec<_> = call.await.unwrap().outcomes().collect();
    assert_eq!(outcomes, [Outcome::Done, Outcome::Offline]);
    replica.stop().await;
}

#[tokio::test]
async fn groups_are_created_joined_listed_and_destroyed() {
    let (mut a, mut b, replica) = two().await;
    let change = |devices: &[&str]| ChangeMembersRequest {
        business: 7,
        group: Bytes::from_static(b"g"),
        app: "app".to_owned(),
        devices: names(devices),
    };
    let (mut client, request) = (replica.client(), change(&["d1", "d2"]));
    let call = tokio::spawn(async move { client.create_group(request).await.unwrap().into_inner() });
    let (to_a, to_b) = (a.commands(1).await.remove(0), b.commands(1).await.remove(0));
    assert_eq!((to_a.action(), &to_a.group[..]), (SessionAction::Join, &b"g"[..]));
    a.groups(vec![presence("g", true)]).await;
    a.receipt(to_a.id, Outcome::Done).await;
    b.receipt(to_b.id, Outcome::Refused).await;
    let outcomes: Vec<_> = call.await.unwrap().outcomes().collect();
    assert_eq!(outcomes, [Outcome::Done, Outcome::Refused]);

    let again = replica.client().create_group(change(&["d2"])).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);

    let mut client = replica.client();
    let request = ListMembersRequest {
        business: 7,
        group: Bytes::from_static(b"g"),
        limit: 10,
    };
    let call = tokio::spawn(async move { client.list_members(request).await.unwrap().into_inner() });
    let asked = a.group_command().await;
    assert_eq!((asked.action(), asked.limit), (GroupAction::List, 10));
    let member = Member {
        app: "app".to_owned(),
        device: "d1".to_owned(),
    };
    a.answer(InstanceAnswer {
        id: asked.id,
        count: 1,
        members: vec![member.clone()],
        ..InstanceAnswer::default()
    })
    .await;
    let listed = call.await.unwrap();
    assert_eq!(
        (listed.count, listed.members, listed.unsynced),
        (1, vec![member], 0)
    );

    let (mut client, request) = (replica.client(), change(&["d1"]));
    let call = tokio::spawn(async move { client.leave_group(request).await.unwrap().into_inner() });
    let command = a.commands(1).await.remove(0);
    assert_eq!(command.action(), SessionAction::Leave);
    a.receipt(command.id, Outcome::Done).await;
    call.await.unwrap();

    let mut client = replica.client();
    let request = DestroyGroupRequest {
        business: 7,
        group: Bytes::from_static(b"g"),
    };
    let call = tokio::spawn(async move { client.destroy_group(request).await.unwrap().into_inner() });
    // Also those without members in sight: a membership may be kept there for a session without a connection.
    for (sidecar, count) in [(&mut a, 2), (&mut b, 1)] {
        let asked = sidecar.group_command().await;
        assert_eq!(asked.action(), GroupAction::Destroy);
        sidecar
            .answer(InstanceAnswer {
                id: asked.id,
                count,
                ..InstanceAnswer::default()
            })
            .await;
    }
    let ended = call.await.unwrap();
    assert_eq!((ended.count, ended.unsynced), (3, 0));
    replica.stop().await;
}

#[tokio::test]
async fn a_broadcast_goes_once_to_every_gateway_and_says_who_missed_it() {
    let (mut a, mut b, replica) = two().await;
    let request = BroadcastRequest {
        business: 7,
        filter: Some(DeviceFilter {
            platforms: names(&["ios"]),
            ..DeviceFilter::default()
        }),
        payload: Bytes::from_static(b"news"),
        ..BroadcastRequest::default()
    };
    let (mut client, first) = (replica.client(), request.clone());
    let call = tokio::spawn(async move { client.broadcast(first).await.unwrap().into_inner() });
    for (sidecar, count, unknown) in [(&mut a, 10, 1), (&mut b, 20, 0)] {
        let push = sidecar.broadcast().await;
        assert_eq!(
            (&push.payload[..], push.filter.unwrap().platforms),
            (&b"news"[..], names(&["ios"]))
        );
        sidecar
            .answer(InstanceAnswer {
                id: push.id,
                count,
                unknown,
                ..InstanceAnswer::default()
            })
            .await;
    }
    let sent = call.await.unwrap();
    assert_eq!(
        (sent.devices, sent.unknown, sent.instances, sent.unsynced),
        (30, 1, 2, 0)
    );

    // One doesn't answer in time, the other only in part; a third is away.
    let (mut client, second) = (replica.client(), request.clone());
    let call = tokio::spawn(async move { client.broadcast(second).await.unwrap().into_inner() });
    let push = a.broadcast().await;
    a.answer(InstanceAnswer {
        id: push.id,
        count: 3,
        partial: true,
        ..InstanceAnswer::default()
    })
    .await;
    b.broadcast().await;
    let sent = call.await.unwrap();
    assert_eq!((sent.devices, sent.instances, sent.unsynced), (3, 2, 2));
    b.disconnect();
    replica
        .metric("imaccess_routing_instances{state=\"in_sync\"}", 1)
        .await;
    let (mut client, third) = (replica.client(), request);
    let call = tokio::spawn(async move { client.broadcast(third).await.unwrap().into_inner() });
    let push = a.broadcast().await;
    a.answer(InstanceAnswer {
        id: push.id,
        ..InstanceAnswer::default()
    })
    .await;
    let sent = call.await.unwrap();
    assert_eq!((sent.instances, sent.unsynced), (1, 1));
    replica.stop().await;
}

#[tokio::test]
async fn who_is_online_is_said_only_as_far_as_it_is_known() {
    let (_a, mut b, replica) = two().await;
    let ask = || QueryOnlineRequest {
        business: 7,
        app: "app".to_owned(),
        devices: names(&["d1", "nobody", "d2"]),
    };
    let said = async || {
        let answer = replica.client().query_online(ask()).await.unwrap().into_inner();
        let presences = answer.presences.iter();
        presences
            .map(|presence| (presence.status(), presence.gateway.clone()))
            .collect::<Vec<_>>()
    };
    use PresenceStatus::{Offline, Online, Retry};
    assert_eq!(
        said().await,
        [
            (Online, "a".to_owned()),
            (Offline, String::new()),
            (Online, "b".to_owned())
        ]
    );
    b.disconnect();
    replica
        .metric("imaccess_routing_instances{state=\"in_sync\"}", 1)
        .await;
    assert_eq!(
        said().await,
        [
            (Online, "a".to_owned()),
            (Retry, String::new()),
            (Retry, String::new())
        ]
    );
    replica.stop().await;
}

#[tokio::test]
async fn given_memberships_are_sent_after_the_session() {
    let (mut a, mut b, replica) = two().await;
    let moved = |session: [u8; 16]| MovedGroups {
        app: "app".to_owned(),
        device: "d2".to_owned(),
        session: Bytes::copy_from_slice(&session),
        groups: vec![MovedGroup {
            business: 7,
            group: Bytes::from_static(b"vip"),
        }],
    };
    // Of a session that the device has no more: nothing comes of it.
    a.moved_groups(moved(SESSION_A)).await;
    a.moved_groups(moved(SESSION_B)).await;
    let command = b.commands(1).await;
    assert_eq!(command.len(), 1);
    assert_eq!((command[0].id, command[0].action()), (0, SessionAction::Join));
    assert_eq!((command[0].epoch, &command[0].group[..]), (6, &b"vip"[..]));
    replica.stop().await;
}

#[tokio::test]
async fn bad_requests_name_their_field() {
    let (_a, _b, replica) = two().await;
    let mut client = replica.client();
    let long = "x".repeat(129);
    let kick = KickRequest {
        business: 7,
        app: "app".to_owned(),
        devices: names(&["d1"]),
        reason: long,
    };
    let list = ListMembersRequest {
        business: 7,
        group: Bytes::from_static(b"g"),
        limit: 10_001,
    };
    let version = BroadcastRequest {
        business: 7,
        filter: Some(DeviceFilter {
            version_from: "latest".to_owned(),
            ..DeviceFilter::default()
        }),
        ..BroadcastRequest::default()
    };
    let nobody = ChangeMembersRequest {
        business: 7,
        group: Bytes::from_static(b"g"),
        ..ChangeMembersRequest::default()
    };
    let key = BroadcastRequest {
        business: 7,
        idempotency_key: "k".repeat(65),
        ..BroadcastRequest::default()
    };
    let faults = [
        client.kick(kick).await.unwrap_err(),
        client.list_members(list).await.unwrap_err(),
        client.broadcast(version).await.unwrap_err(),
        client.join_group(nobody).await.unwrap_err(),
        client.broadcast(key).await.unwrap_err(),
        client
            .destroy_group(DestroyGroupRequest::default())
            .await
            .unwrap_err(),
    ];
    let begins = [
        "reason: has 129",
        "limit: 10001",
        "filter.version_from: \"latest\"",
        "devices: must",
        "idempotency_key: has 65",
        "business: ",
    ];
    for (fault, begins) in faults.iter().zip(begins) {
        assert_eq!(fault.code(), Code::InvalidArgument, "{fault:?}");
        assert!(
            fault.message().starts_with(begins),
            "{begins}: {}",
            fault.message()
        );
    }
    replica.stop().await;
}
