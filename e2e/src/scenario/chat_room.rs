//! People in rooms of `chat`, at terminals: what one types appears at the others in the room, and nowhere else.

use std::time::Duration;

use anyhow::Result;

use super::verdict::count;
use crate::command::Session;
use crate::report::{Report, Size};
use crate::{Cluster, Options};

const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let mut report = Report::new("chat-room", size, seed);
    let cluster = Cluster::start(Options {
        gateways: 2,
        ..Options::default()
    })
    .await?;
    let lines = size.pick(20, 200);
    // Without names: `connect --room` makes them up, as it does for a new user.
    let mut one = Session::start(Some(&cluster.view.ipconfig), ["connect", "--room", "lobby"])?;
    one.expect("you are in lobby, alone", PATIENCE).await?;
    let mut other = Session::start(Some(&cluster.view.ipconfig), ["connect", "--room", "lobby"])?;
    other.expect("you are in lobby, with ", PATIENCE).await?;
    one.expect(" has joined", PATIENCE).await?;
    let mut seen = 0;
    for number in 0..lines {
        let said = format!("hello {number} of {seed}");
        one.say(&said).await?;
        seen += u64::from(is_said(&other.expect(&said, PATIENCE).await?, &said));
        let answered = format!("hello back, {number} of {seed}");
        other.say(&answered).await?;
        seen += u64::from(is_said(&one.expect(&answered, PATIENCE).await?, &answered));
    }
    report.figure("lines_typed", 2 * lines);
    report.exactly("lines_seen_by_the_other", count(seen), count(2 * lines));

    // Somebody in another room: the next line that appears there is its own.
    let elsewhere = ["connect", "--device", "carol", "--room", "garden"];
    let mut third = Session::start(Some(&cluster.view.ipconfig), elsewhere)?;
    third.expect("you are in garden, alone", PATIENCE).await?;
    one.say("not for the garden").await?;
    other.expect("not for the garden", PATIENCE).await?;
    third.say("/join lobby").await?;
    let next = third.expect("", PATIENCE).await?;
    let seen_elsewhere = next.contains("not for the garden");
    report.exactly("lines_seen_elsewhere", f64::from(u8::from(seen_elsewhere)), 0.0);
    other.expect("* carol has joined", PATIENCE).await?;
    third.say("/leave").await?;
    one.expect("* carol has left", PATIENCE).await?;
    for session in [one, other, third] {
        session.end().await?;
    }
    cluster.stop(&[]).await?;
    Ok(report)
}

/// Whether a line is somebody's who said this.
fn is_said(line: &str, text: &str) -> bool {
    line.ends_with(&format!(": {text}"))
}
