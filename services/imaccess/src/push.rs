//! `imaccess push`: what a business does to reach devices, by hand.

mod filter;
#[cfg(test)]
mod tests;

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use imaccess_common::config::duration;
use imaccess_proto::v1::{BroadcastRequest, Outcome, Priority, PushDevicesRequest, PushGroupRequest};
use serde_json::json;

use self::filter::Filter;
use crate::devices::{self, in_calls, of_push};
use crate::exit::{USAGE, WithStatus};
use crate::push_api::{PushApi, PushApiArgs, synced};
use crate::{columns, run, terminal};

/// What `--help` ends with.
pub(crate) const EXAMPLES: &str = "\
Examples:
  imaccess push --device alice --data hi
  imaccess push --devices crowd.txt --business chat --data 'we open at nine' --ttl 1h
  imaccess push --group lobby --business chat < picture.jpg
  imaccess push --all --filter 'platform=ios,version=1.2..2.0' --data 'please update'

Exit status: 0 every device got it or will (of a group or of all: it was sent to every gateway), 1 some device didn't, 75 not known \
of some: try again.";

/// Arguments of `push`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["device", "devices", "group", "all"]))]
pub(crate) struct PushArgs {
    /// Devices to push to
    #[arg(long, value_name = "DEVICE", value_delimiter = ',')]
    device: Vec<String>,
    /// File with devices to push to, one a line; `-` is standard input. Any number: they are sent in calls of 10,000
    #[arg(long, value_name = "FILE")]
    devices: Option<PathBuf>,
    /// Group to push to
    #[arg(long)]
    group: Option<String>,
    /// Push to every connected device, of whatever app
    #[arg(long)]
    all: bool,
    /// With --all: only devices for which this holds, such as `app=shop,platform=ios|android,version=1.2..2.0`
    #[arg(long, value_name = "CONDITIONS", conflicts_with_all = ["device", "devices", "group"])]
    filter: Option<Filter>,
    /// What to push [default: standard input, byte by byte]
    #[arg(long)]
    data: Option<String>,
    /// Which goes first where a device's messages wait
    #[arg(long, value_enum, default_value_t)]
    priority: Urgency,
    /// What isn't written within this time is dropped, such as 30s [default: it is never]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    ttl: Option<Duration>,
    /// How long devices that can't be reached for now are tried again while none of them can; 0: not at all
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "10s", conflicts_with_all = ["group", "all"])]
    patience: Duration,
    /// One JSON object on one line, complete, instead of text for people
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: PushApiArgs,
}

/// `--priority`.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Urgency {
    High,
    #[default]
    Normal,
    Low,
}

impl From<Urgency> for Priority {
    fn from(urgency: Urgency) -> Self {
        match urgency {
            Urgency::High => Self::High,
            Urgency::Normal => Self::Normal,
            Urgency::Low => Self::Low,
        }
    }
}

/// What is pushed, and how.
struct Content {
    payload: Vec<u8>,
    priority: Priority,
    ttl_ms: u32,
    /// Names this run: a call that is repeated must not push twice.
    run: String,
    json: bool,
}

/// Runs it.
pub(crate) fn run(arguments: PushArgs) -> anyhow::Result<ExitCode> {
    run::quiet_runtime()?.block_on(push(arguments))
}

async fn push(arguments: PushArgs) -> anyhow::Result<ExitCode> {
    let from_input = arguments
        .devices
        .as_deref()
        .is_some_and(|file| file.as_os_str() == "-");
    if from_input && arguments.data.is_none() {
        let fault = anyhow::anyhow!("standard input has the devices already: give the data by --data");
        return Err(fault).or_exit(USAGE);
    }
    let named = match (&arguments.group, arguments.all) {
        (None, false) => devices::read(&arguments.device, arguments.devices.as_deref())?,
        _ => Vec::new(),
    };
    let content = Content {
        payload: data(arguments.data)?,
        priority: arguments.priority.into(),
        ttl_ms: arguments.ttl.map_or(Ok(0), ttl_ms).or_exit(USAGE)?,
        run: format!("imaccess-{:016x}", fastrand::u64(..)),
        json: arguments.json,
    };
    let mut api = PushApi::open(&arguments.api).await?;
    match arguments.group {
        Some(group) => to_group(&mut api, &group, content).await,
        None if arguments.all => to_all(&mut api, arguments.filter, content).await,
        None => to_devices(&mut api, &named, arguments.patience, content).await,
    }
}

async fn to_devices(
    api: &mut PushApi,
    devices: &[String],
    patience: Duration,
    content: Content,
) -> anyhow::Result<ExitCode> {
    let Content {
        payload,
        priority,
        ttl_ms,
        run,
        json,
    } = content;
    let request = PushDevicesRequest {
        business: api.business,
        app: api.app.clone(),
        payload: payload.into(),
        priority: priority.into(),
        ttl_ms,
        ..PushDevicesRequest::default()
    };
    let results = in_calls(devices, patience, async |devices, number| {
        let request = PushDevicesRequest {
            devices,
            idempotency_key: format!("{run}-{number}"),
            ..request.clone()
        };
        let answer = api
            .call(request, async |push, request| push.push_devices(request).await)
            .await?;
        Ok(answer.outcomes.into_iter().map(|outcome| {
            let outcome = Outcome::try_from(outcome).unwrap_or(Outcome::Unspecified);
            (of_push(outcome), None)
        }))
    })
    .await?;
    results.finish(json)
}

async fn to_group(api: &mut PushApi, group: &str, content: Content) -> anyhow::Result<ExitCode> {
    let request = PushGroupRequest {
        business: api.business,
        group: group.to_owned().into(),
        payload: content.payload.into(),
        priority: content.priority.into(),
        ttl_ms: content.ttl_ms,
        ..PushGroupRequest::default()
    };
    let sent = api
        .call(request, async |push, request| push.push_group(request).await)
        .await?;
    if content.json {
        let object = json!({
            "group": group,
            "group_epoch": sent.group_epoch,
            "sequence": sent.sequence,
            "instances": sent.instances,
            "unsynced": sent.unsynced,
        });
        terminal::line(&object.to_string());
    } else {
        let (sequence, instances) = (sent.sequence, sent.instances);
        terminal::line(&format!(
            "{group}: push {sequence} sent to {instances} gateway(s)"
        ));
    }
    synced(sent.unsynced, "may have missed it; repeat if it matters")?;
    Ok(ExitCode::SUCCESS)
}

async fn to_all(api: &mut PushApi, filter: Option<Filter>, content: Content) -> anyhow::Result<ExitCode> {
    let request = BroadcastRequest {
        business: api.business,
        filter: filter.map(|Filter(filter)| filter),
        payload: content.payload.into(),
        priority: content.priority.into(),
        ttl_ms: content.ttl_ms,
        ..BroadcastRequest::default()
    };
    let sent = api
        .call(request, async |push, request| push.broadcast(request).await)
        .await?;
    if content.json {
        let object = json!({
            "devices": sent.devices,
            "unknown": sent.unknown,
            "instances": sent.instances,
            "unsynced": sent.unsynced,
        });
        terminal::line(&object.to_string());
    } else {
        let devices = columns::grouped(sent.devices);
        terminal::line(&format!(
            "handed on for {devices} device(s) on {} gateway(s)",
            sent.instances
        ));
        if sent.unknown > 0 {
            let unknown = columns::grouped(sent.unknown);
            terminal::line(&format!(
                "left out: {unknown} device(s) whose platform or version isn't known"
            ));
        }
    }
    synced(sent.unsynced, "may have missed it; repeat if it matters")?;
    Ok(ExitCode::SUCCESS)
}

/// What was given, or else all of standard input.
fn data(given: Option<String>) -> anyhow::Result<Vec<u8>> {
    if let Some(text) = given {
        return Ok(text.into_bytes());
    }
    if std::io::stdin().is_terminal() {
        eprintln!("what is to be pushed, until Ctrl-D:");
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut bytes);
    read.context("can't read what to push from standard input")
        .or_exit(USAGE)?;
    Ok(bytes)
}

/// A message's life in the interface's unit, in which 0 means for ever.
fn ttl_ms(ttl: Duration) -> anyhow::Result<u32> {
    let ms = u32::try_from(ttl.as_millis()).ok().filter(|ms| *ms > 0);
    ms.with_context(|| {
        let given = duration::format(ttl);
        format!("--ttl must be from 1ms to 49 days, not {given}")
    })
}
