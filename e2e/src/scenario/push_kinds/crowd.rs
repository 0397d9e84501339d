//! Devices that are online and read, each with a platform and a version; and those that come and go, or don't read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use imaccess_wire::Code;
use imaccess_wire::frame::{Close, Frame, Login};
use tokio::task::JoinSet;

use super::{DEADLINE, whole};
use crate::cluster::GatewayView;
use crate::raw_client::{APP, RawClient};
use crate::report::Report;
use crate::tokens::Tokens;
use crate::wait::{Seen, wait_until};

/// Logins under way at a time.
const AT_ONCE: usize = 32;
/// Of a payload only what stands before this is kept: it names the push.
const BEFORE: u8 = b'|';

/// A kind of device: platform and version.
type Kind = (&'static str, &'static str);

/// See [`FILTERS`].
type Through = (&'static str, &'static str, fn(Kind) -> bool);

/// Devices take these in turn.
const KINDS: [Kind; 4] = [("ios", "1.9"), ("ios", "1.10"), ("android", "2.0.1"), ("", "")];

/// A filter, what is pushed through it, and whether it lets a kind through.
pub(super) const FILTERS: [Through; 3] = [
    ("platform=ios", "to ios", |(platform, _)| platform == "ios"),
    ("platform=ios|android,version=1.10..2.0", "to 1.10..2.0", |kind| {
        kind == KINDS[1]
    }),
    ("version=1.0..", "to 1.0 and up", |(_, version)| {
        !version.is_empty()
    }),
];

/// By device and name of the push: how often it came.
type Got = Arc<Mutex<HashMap<(usize, String), usize>>>;

/// The devices.
pub(super) struct Crowd {
    names: Vec<String>,
    got: Got,
    /// Each reads until it is dropped.
    _readers: JoinSet<()>,
}

impl Crowd {
    pub(super) async fn connect(gateways: &[GatewayView], tokens: &Tokens, count: usize) -> Result<Self> {
        let names: Vec<String> = (0..count).map(|number| format!("crowd-{number}")).collect();
        let got = Got::default();
        let (mut logins, mut readers) = (JoinSet::new(), JoinSet::new());
        for (number, name) in names.iter().enumerate() {
            if logins.len() >= AT_ONCE {
                keep(&mut logins, &mut readers, &got).await?;
            }
            let gateway = gateways[number % gateways.len()].tcp.clone();
            let (name, tokens) = (name.clone(), tokens.clone());
            logins.spawn(async move { Ok((number, log_in(&gateway, &name, number, &tokens).await?)) });
        }
        while !logins.is_empty() {
            keep(&mut logins, &mut readers, &got).await?;
        }
        Ok(Self {
            names,
            got,
            _readers: readers,
        })
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Those of a kind.
    pub(super) fn who(&self, is: fn(Kind) -> bool) -> Vec<String> {
        let of = self.names.iter().enumerate();
        of.filter(|(number, _)| is(KINDS[number % KINDS.len()]))
            .map(|(_, name)| name.clone())
            .collect()
    }

    /// Waits until these devices have the push of this name, and notes whether others have it too.
    pub(super) async fn all_got(&self, text: &str, wanted: &[String], report: &mut Report) -> Result<()> {
        let name = format!("not_reached_{}", text.replace([' ', '.'], "_"));
        let waited = wait_until(&format!("all have {text:?}"), DEADLINE, async || {
            let missing = self.missing(text, wanted);
            Ok(if missing == 0 {
                Seen::Yes(())
            } else {
                Seen::NotYet(missing)
            })
        })
        .await;
        report.exactly(&name, whole(self.missing(text, wanted)), 0.0);
        let got = self.got.lock().unwrap_or_else(PoisonError::into_inner);
        let all = got.keys().filter(|(_, other)| other == text).count();
        let strangers = all.saturating_sub(wanted.len());
        report.always_at_most(
            &name.replace("not_reached", "reached_by_mistake"),
            whole(strangers),
            0.0,
        );
        drop(got);
        waited
    }

    fn missing(&self, text: &str, wanted: &[String]) -> usize {
        let got = self.got.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |name: &String| {
            let number = name.rsplit('-').next().and_then(|number| number.parse().ok());
            number.is_some_and(|number| got.contains_key(&(number, text.to_owned())))
        };
        wanted.iter().filter(|name| !has(name)).count()
    }

    /// Each push came once.
    pub(super) fn nobody_got_twice(&self, report: &mut Report) {
        let got = self.got.lock().unwrap_or_else(PoisonError::into_inner);
        let twice = got.values().filter(|times| **times > 1).count();
        report.always_at_most("doubled", whole(twice), 0.0);
        report.figure("received", got.len());
    }
}

/// A device by its number, and its connection.
type LoggedIn = Result<(usize, RawClient)>;

/// Takes one login that is done, and reads its connection from then on.
async fn keep(logins: &mut JoinSet<LoggedIn>, readers: &mut JoinSet<()>, got: &Got) -> Result<()> {
    if let Some(done) = logins.join_next().await {
        let (number, client) = done??;
        readers.spawn(read(client, number, Arc::clone(got)));
    }
    Ok(())
}

async fn log_in(gateway: &str, device: &str, number: usize, tokens: &Tokens) -> Result<RawClient> {
    let token = tokens.get(device).await?;
    let mut client = RawClient::connect(gateway).await?;
    let (platform, version) = KINDS[number % KINDS.len()];
    let login = Login {
        device,
        app: APP,
        token: token.as_bytes(),
        platform,
        version,
        ..Login::default()
    };
    client
        .login(&login)
        .await
        .with_context(|| format!("login of {device}"))?;
    Ok(client)
}

async fn read(mut client: RawClient, number: usize, got: Got) {
    while let Ok(Some(frame)) = client.frame().await {
        let payload = match frame.decoded() {
            Ok(Frame::Push(push)) => push.payload.to_vec(),
            Ok(Frame::GroupPush(push)) => push.payload.to_vec(),
            _ => continue,
        };
        let named = payload.split(|byte| *byte == BEFORE).next().unwrap_or_default();
        let text = String::from_utf8_lossy(named).into_owned();
        let mut got = got.lock().unwrap_or_else(PoisonError::into_inner);
        *got.entry((number, text)).or_default() += 1;
    }
}

/// Devices log in and say goodbye.
pub(super) async fn come_and_go(gateways: &[GatewayView], tokens: &Tokens, devices: &[String]) -> Result<()> {
    for (number, device) in devices.iter().enumerate() {
        let gateway = &gateways[number % gateways.len()].tcp;
        let (mut client, _) = RawClient::online(gateway, device, &tokens.get(device).await?).await?;
        let mut goodbye = Vec::new();
        Close::with_code(Code::ClientLeft).encode(&mut goodbye);
        client.send(&goodbye).await?;
        client.ended(DEADLINE).await?;
    }
    Ok(())
}

/// Devices that don't read, with little room in their kernel.
pub(super) async fn slow(
    gateways: &[GatewayView],
    tokens: &Tokens,
    devices: &[String],
) -> Result<Vec<RawClient>> {
    let mut clients = Vec::new();
    for (number, device) in devices.iter().enumerate() {
        let gateway = &gateways[number % gateways.len()].tcp;
        let client = RawClient::connect_with_buffer(gateway, 4_096).await?;
        clients.push(client.logged_in(device, &tokens.get(device).await?).await?);
    }
    Ok(clients)
}

/// Reads until the connection ends: code and words of its close, if there was one.
pub(super) async fn close_of(client: &mut RawClient, deadline: Duration) -> Result<Option<(Code, String)>> {
    let reading = async {
        let mut last = None;
        while let Ok(Some(frame)) = client.frame().await {
            if let Ok(Frame::Close(close)) = frame.decoded() {
                last = close.known_code().map(|code| (code, close.reason.to_owned()));
            }
        }
        last
    };
    tokio::time::timeout(deadline, reading)
        .await
        .context("a device that was kicked is still connected")
}
