//! The server as the access layer and the push API see it.

use std::collections::BTreeSet;

use imaccess_proto::v1::EventKind::{Offline, Online, ResyncNeeded};
use imaccess_proto::v1::{FromAccess, Outcome};

mod stage;

use stage::Stage;

const HERE: &str = "gateway-0.0";

fn members(stage: &Stage, room: &str) -> BTreeSet<String> {
    stage.pushed().groups.get(room).cloned().unwrap_or_default()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_line_is_said_once_to_everybody_in_the_room() {
    let stage = Stage::open().await;
    let mut stream = stage.stream(HERE).await;
    stream.events(&[(Online, "ann", 1), (Online, "ben", 2)]).await;
    assert_eq!(stream.say("ann", "/join lobby").await, "you are in lobby, alone");
    assert_eq!(
        stream.say("ben", "/join lobby").await,
        "you are in lobby, with ann"
    );
    assert_eq!(members(&stage, "lobby"), names(&["ann", "ben"]));
    assert_eq!(stream.say("ann", "hello there").await, "");
    let before = stage.pushed().said.len();
    let again = stream.repeat("ann", "hello there", 3).await;
    assert_eq!((again.code, again.payload.len()), (0, 0));
    let said = stage.pushed().said;
    let lines: Vec<(&str, &str)> = said
        .iter()
        .map(|(room, text, _)| (room.as_str(), text.as_str()))
        .collect();
    assert_eq!(
        lines,
        [
            ("lobby", "* ann has joined"),
            ("lobby", "* ben has joined"),
            ("lobby", "ann: hello there"),
            ("lobby", "ann: hello there"),
        ]
    );
    assert_eq!(
        said[before - 1].2,
        said[before].2,
        "the push API knows a repetition by its key"
    );
    assert!((1..=64).contains(&said[before].2.len()));
    assert_eq!(stream.say("ben", "/who").await, "you are in lobby, with ann");
    stage.set(|pushed| pushed.unsynced = 1);
    assert_eq!(stream.say("ben", "hi").await, "* not everybody may have got that");
}

#[tokio::test]
async fn who_leaves_or_goes_to_another_room_is_no_member_any_more() {
    let stage = Stage::open().await;
    let mut stream = stage.stream(HERE).await;
    stream.events(&[(Online, "ann", 1)]).await;
    assert_eq!(
        stream.say("ann", "hello?").await,
        "you are in no room: /join ROOM"
    );
    stream.say("ann", "/join lobby").await;
    stream.say("ann", "/join lobby").await;
    assert_eq!(stream.say("ann", "/join attic").await, "you are in attic, alone");
    assert_eq!(members(&stage, "lobby"), names(&[]));
    assert_eq!(members(&stage, "attic"), names(&["ann"]));
    assert_eq!(stream.say("ann", "/leave").await, "you have left attic");
    assert_eq!(stream.say("ann", "/leave").await, "you are in no room");
    assert_eq!(members(&stage, "attic"), names(&[]));
    let said: Vec<String> = stage
        .pushed()
        .said
        .into_iter()
        .map(|(room, text, _)| format!("{room} {text}"))
        .collect();
    assert_eq!(
        said,
        [
            "lobby * ann has joined",
            "lobby * ann has left",
            "attic * ann has joined",
            "attic * ann has left",
        ]
    );
    assert!(stream.say("ann", "/dance").await.contains("/join ROOM"));
}

#[tokio::test]
async fn whoever_goes_and_comes_back_is_brought_back() {
    let stage = Stage::open().await;
    let mut stream = stage.stream(HERE).await;
    stream.events(&[(Online, "ann", 1), (Online, "ben", 2)]).await;
    stream.say("ann", "/join lobby").await;
    stream.say("ben", "/join lobby").await;
    stream.events(&[(Offline, "ann", 1)]).await;
    stage.told("lobby", "* ann is gone").await;
    assert_eq!(stream.say("ben", "/who").await, "you are in lobby, alone");

    // Routing may hear of a new session after the business has.
    stage.set(|pushed| {
        pushed.joins.clear();
        pushed.joins_end = [Outcome::Offline, Outcome::Retry].into();
    });
    // Events come at least once, and old ones may come late.
    stream
        .events(&[(Online, "ann", 3), (Online, "ann", 3), (Offline, "ann", 1)])
        .await;
    stage.told("lobby", "* ann is here").await;
    assert_eq!(stage.pushed().joins, ["ann"]);
    assert_eq!(stream.say("ben", "/who").await, "you are in lobby, with ann");

    // Another session takes the device over: the former one's end isn't told, and its membership went with it.
    stage.set(|pushed| {
        pushed.joins.clear();
        pushed.said.clear();
    });
    stream.events(&[(Online, "ann", 5)]).await;
    stage.told("lobby", "* ann is here").await;
    assert_eq!(stage.pushed().joins, ["ann"]);
}

#[tokio::test]
async fn who_cannot_be_brought_back_is_told_to_join_again() {
    let stage = Stage::open().await;
    let mut stream = stage.stream(HERE).await;
    stream.events(&[(Online, "ann", 1), (Online, "ben", 1)]).await;
    stream.say("ann", "/join lobby").await;
    stream.say("ben", "/join lobby").await;
    stage.set(|pushed| pushed.joins_end = [Outcome::Refused].into());
    stream
        .events(&[(Offline, "ann", 1), (Online, "ann", 2), (Offline, "ben", 1)])
        .await;
    // Consequences are done in order: when this is told, ann's is done.
    stage.told("lobby", "* ben is gone").await;
    assert_eq!(stream.say("ann", "hi").await, "you are in no room: /join ROOM");
    stage.set(|pushed| pushed.joins_end = [Outcome::Refused].into());
    assert_eq!(
        stream.say("ann", "/join lobby").await,
        "you are in too many groups already"
    );
}

#[tokio::test]
async fn a_snapshot_puts_right_what_events_did_not_tell() {
    let stage = Stage::open().await;
    let mut stream = stage.stream(HERE).await;
    stream
        .events(&[(Online, "ann", 1), (Online, "ben", 1), (Online, "cid", 1)])
        .await;
    for device in ["ann", "ben", "cid"] {
        stream.say(device, "/join lobby").await;
    }
    stage.set(|pushed| pushed.joins.clear());
    // It was asked for at the beginning; meanwhile events were dropped, so it will be asked for again.
    stream.events(&[(ResyncNeeded, "", 0)]).await;
    stream.snapshot(&[("ann", 1)], false).await;
    stream.snapshot(&[("ben", 4), ("cid", 1)], true).await;
    assert!(
        stream.answer().await.resync,
        "another one, which begins after events were dropped"
    );
    stage.told("lobby", "* ben is here").await;
    assert_eq!(stage.pushed().joins, ["ben"], "it has a new session");

    stream.snapshot(&[("ben", 4)], false).await;
    stream.events(&[(Online, "dan", 9)]).await;
    stream.snapshot(&[("cid", 1)], true).await;
    stage.told("lobby", "* ann is gone").await;
    assert_eq!(stream.say("cid", "/who").await, "you are in lobby, with ben");

    // No snapshot is on its way now: one is asked for at once.
    stream
        .send(FromAccess {
            events: vec![imaccess_proto::v1::ConnectionEvent {
                sequence: 1,
                kind: ResyncNeeded.into(),
                ..Default::default()
            }],
            ..FromAccess::default()
        })
        .await;
    assert!(stream.answer().await.resync);
    assert_eq!(stream.answer().await.event_ack, 1);
}

#[tokio::test]
async fn a_stream_that_comes_again_knows_its_devices_and_another_one_has_its_own() {
    let stage = Stage::open().await;
    let mut stream = stage.stream(HERE).await;
    let mut other = stage.stream("gateway-1.0").await;
    stream.events(&[(Online, "ann", 1)]).await;
    other.events(&[(Online, "ben", 1)]).await;
    stream.say("ann", "/join lobby").await;
    assert_eq!(
        other.say("ben", "/join lobby").await,
        "you are in lobby, with ann"
    );
    drop(stream);
    let stream = stage.stream(HERE).await;
    stream.snapshot(&[], true).await;
    stage.told("lobby", "* ann is gone").await;
    assert_eq!(other.say("ben", "/who").await, "you are in lobby, alone");
}

#[tokio::test]
async fn without_the_push_api_requests_are_to_be_repeated() {
    let stage = Stage::open().await;
    let mut stream = stage.stream(HERE).await;
    stream.say("ann", "/join lobby").await;
    stage.set(|pushed| pushed.away = true);
    let reply = stream.ask("ann", "hello").await;
    assert_eq!((reply.code, reply.payload.len()), (300, 0));
    assert!(reply.retry_after_ms > 0);
    assert_eq!(stream.ask("ben", "/join lobby").await.code, 300);
    // Also the way out is kept until it has been gone.
    assert_eq!(stream.ask("ann", "/leave").await.code, 300);
    stage.set(|pushed| pushed.away = false);
    assert_eq!(stream.say("ann", "hello").await, "");
    stage.set(|pushed| pushed.joins_end = [Outcome::Offline].into());
    assert_eq!(stream.ask("ben", "/join lobby").await.code, 300);
}

#[tokio::test]
async fn a_send_that_wants_no_reply_gets_none() {
    let stage = Stage::open().await;
    let mut stream = stage.stream(HERE).await;
    stream.say("ann", "/join lobby").await;
    let request = imaccess_proto::v1::BusinessRequest {
        app: "demo".to_owned(),
        device: "ann".to_owned(),
        payload: "psst".into(),
        ..Default::default()
    };
    stream
        .send(FromAccess {
            requests: vec![request],
            ..FromAccess::default()
        })
        .await;
    stage.told("lobby", "ann: psst").await;
    // The next answer is the next request's.
    assert_eq!(stream.say("ann", "/who").await, "you are in lobby, alone");
}

#[tokio::test]
async fn the_end_of_the_server_ends_its_streams_in_order() {
    let stage = Stage::open().await;
    let mut stream = stage.stream(HERE).await;
    stream.say("ann", "/join lobby").await;
    let ended = async {
        stream.ended().await;
        // The access layer would dial anew; the connection's end is what the server waits for.
        drop(stream);
    };
    tokio::join!(stage.close(), ended);
}
