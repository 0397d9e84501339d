//! `imaccess group`: a business's groups, by hand.

use std::process::ExitCode;
use std::time::Duration;

use imaccess_proto::v1::{
    ChangeMembersRequest, DestroyGroupRequest, ListMembersRequest, ListMembersResponse, Outcome,
};
use serde_json::{Value, json};

use crate::devices::{DeviceFlags, in_calls, of_join, of_leave};
use crate::push_api::{PushApi, PushApiArgs, synced};
use crate::terminal::on_one_line;
use crate::{columns, run, terminal};

/// What `--help` ends with.
pub(crate) const EXAMPLES: &str = "\
Examples:
  imaccess group create lobby --device alice,bob --business chat
  imaccess group join lobby --devices crowd.txt --business chat
  imaccess group members lobby --business chat --limit 10
  imaccess group destroy lobby --business chat

A membership is of the device's session: it ends with the session. A group is there for as long as it has members.

Exit status: 0 done, 1 not for some device, 75 not known of some: try again.";

/// Arguments of `group`.
#[derive(Debug, clap::Args)]
pub(crate) struct GroupArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make a group of its first members; fails if it has members already
    Create(ChangeArgs),
    /// Make devices members
    Join(ChangeArgs),
    /// End devices' memberships
    Leave(ChangeArgs),
    /// Count the members and name some of them
    Members(MembersArgs),
    /// End all memberships
    Destroy(DestroyArgs),
}

#[derive(Debug, clap::Args)]
struct ChangeArgs {
    /// Name of the group
    group: String,
    #[command(flatten)]
    devices: DeviceFlags,
    /// One JSON object on one line, complete, instead of text for people
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: PushApiArgs,
}

#[derive(Debug, clap::Args)]
struct MembersArgs {
    /// Name of the group
    group: String,
    /// Most members to name; 0 only counts them
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    limit: u32,
    /// One JSON object on one line instead of text for people
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: PushApiArgs,
}

#[derive(Debug, clap::Args)]
struct DestroyArgs {
    /// Name of the group
    group: String,
    /// One JSON object on one line instead of text for people
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: PushApiArgs,
}

/// What becomes of memberships.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Create,
    Join,
    Leave,
}

/// Runs it.
pub(crate) fn run(arguments: GroupArgs) -> anyhow::Result<ExitCode> {
    run::quiet_runtime()?.block_on(group(arguments.what))
}

async fn group(what: What) -> anyhow::Result<ExitCode> {
    match what {
        What::Create(arguments) => change(arguments, Change::Create).await,
        What::Join(arguments) => change(arguments, Change::Join).await,
        What::Leave(arguments) => change(arguments, Change::Leave).await,
        What::Members(arguments) => members(arguments).await,
        What::Destroy(arguments) => destroy(arguments).await,
    }
}

async fn change(arguments: ChangeArgs, change: Change) -> anyhow::Result<ExitCode> {
    let devices = arguments.devices.read()?;
    let mut api = PushApi::open(&arguments.api).await?;
    let request = ChangeMembersRequest {
        business: api.business,
        group: arguments.group.into(),
        app: api.app.clone(),
        devices: Vec::new(),
    };
    let results = in_calls(&devices, Duration::ZERO, async |devices, number| {
        let request = ChangeMembersRequest {
            devices,
            ..request.clone()
        };
        // The first call has made the group; the others join it.
        let answer = match change {
            Change::Create if number == 0 => {
                api.call(request, async |push, request| push.create_group(request).await)
                    .await?
            }
            Change::Create | Change::Join => {
                api.call(request, async |push, request| push.join_group(request).await)
                    .await?
            }
            Change::Leave => {
                api.call(request, async |push, request| push.leave_group(request).await)
                    .await?
            }
        };
        let worded = if change == Change::Leave {
            of_leave
        } else {
            of_join
        };
        Ok(answer.outcomes.into_iter().map(move |outcome| {
            let outcome = Outcome::try_from(outcome).unwrap_or(Outcome::Unspecified);
            (worded(outcome), None)
        }))
    })
    .await?;
    results.finish(arguments.json)
}

async fn members(arguments: MembersArgs) -> anyhow::Result<ExitCode> {
    let mut api = PushApi::open(&arguments.api).await?;
    let request = ListMembersRequest {
        business: api.business,
        group: arguments.group.clone().into(),
        limit: arguments.limit,
    };
    let listed = api
        .call(request, async |push, request| push.list_members(request).await)
        .await?;
    if arguments.json {
        terminal::line(&members_json(&arguments.group, &listed).to_string());
    } else {
        let text = members_text(&arguments.group, &listed);
        text.iter().for_each(|line| terminal::line(line));
    }
    synced(
        listed.unsynced,
        "couldn't be asked: their members are missing; try again",
    )?;
    Ok(ExitCode::SUCCESS)
}

async fn destroy(arguments: DestroyArgs) -> anyhow::Result<ExitCode> {
    let mut api = PushApi::open(&arguments.api).await?;
    let request = DestroyGroupRequest {
        business: api.business,
        group: arguments.group.clone().into(),
    };
    let destroyed = api
        .call(request, async |push, request| push.destroy_group(request).await)
        .await?;
    if arguments.json {
        let object = json!({
            "group": arguments.group,
            "count": destroyed.count,
            "unsynced": destroyed.unsynced,
        });
        terminal::line(&object.to_string());
    } else {
        let count = columns::grouped(destroyed.count);
        terminal::line(&format!("{}: {count} membership(s) ended", arguments.group));
    }
    synced(destroyed.unsynced, "couldn't be told: destroy it again")?;
    Ok(ExitCode::SUCCESS)
}

fn members_text(group: &str, listed: &ListMembersResponse) -> Vec<String> {
    let mut lines = vec![format!("{group}: {} member(s)", columns::grouped(listed.count))];
    if listed.members.is_empty() {
        return lines;
    }
    let mut table = vec![vec!["APP".to_owned(), "DEVICE".to_owned()]];
    table.extend(listed.members.iter().map(|member| {
        let cell = |text: &str| on_one_line(text.as_bytes());
        vec![cell(&member.app), cell(&member.device)]
    }));
    lines.extend(columns::lines(&table));
    if let Some(more @ 1..) = listed.count.checked_sub(listed.members.len() as u64) {
        lines.push(format!("… and {} more", columns::grouped(more)));
    }
    lines
}

fn members_json(group: &str, listed: &ListMembersResponse) -> Value {
    let member = |member: &imaccess_proto::v1::Member| json!({"app": member.app, "device": member.device});
    json!({
        "group": group,
        "count": listed.count,
        "members": listed.members.iter().map(member).collect::<Vec<_>>(),
        "unsynced": listed.unsynced,
    })
}

#[cfg(test)]
mod tests {
    use imaccess_proto::v1::Member;

    use tonic::Status;

    use super::*;
    use crate::exit::{FAILED, RETRY, status_of};
    use crate::push_api::fake::{Asked, FakePush, parsed};

    /// Runs `group` with these words, and gives its exit status.
    async fn grouped(url: &str, words: &[&str]) -> ExitCode {
        let words = [words, &["--push", url]].concat();
        let arguments: GroupArgs = parsed(&words);
        let result = group(arguments.what).await;
        result.unwrap_or_else(|error| status_of(&error))
    }

    #[tokio::test]
    async fn a_group_is_made_joined_left_listed_and_destroyed() {
        let (fake, url) = FakePush::start().await;
        let status = async |words: &str| grouped(&url, &words.split(' ').collect::<Vec<_>>()).await;
        assert_eq!(status("create lobby --device a,b").await, ExitCode::SUCCESS);
        assert_eq!(
            status("create lobby --device c").await,
            FAILED.into(),
            "it has members"
        );
        assert_eq!(status("join lobby --device c,refused-1").await, FAILED.into());
        assert_eq!(
            status("leave lobby --device b,offline-1").await,
            ExitCode::SUCCESS
        );
        assert_eq!(status("members lobby --limit 1 --json").await, ExitCode::SUCCESS);
        fake.set_unsynced(1);
        assert_eq!(status("members lobby").await, RETRY.into());
        assert_eq!(status("destroy lobby").await, RETRY.into());
        fake.fail(0, Status::permission_denied("not yours"));
        assert_eq!(status("destroy lobby").await, FAILED.into());
        let asked = fake.asked();
        assert!(matches!(&asked[2], Asked::Join(request) if request.devices == ["c", "refused-1"]));
        assert!(matches!(&asked[4], Asked::Members(request) if request.limit == 1));
        assert!(matches!(&asked[6], Asked::Destroy(request) if request.group == "lobby"));
    }

    #[tokio::test]
    async fn a_large_group_is_made_once_and_joined_by_the_rest() {
        let (fake, url) = FakePush::start().await;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("crowd");
        let devices: Vec<String> = (0..10_001).map(|number| format!("d-{number}")).collect();
        std::fs::write(&file, devices.join("\n")).unwrap();
        let words = ["create", "lobby", "--devices", file.to_str().unwrap(), "--json"];
        assert_eq!(grouped(&url, &words).await, ExitCode::SUCCESS);
        let asked = fake.asked();
        assert!(matches!(&asked[..], [Asked::Create(_), Asked::Join(rest)] if rest.devices == ["d-10000"]));
    }

    #[test]
    fn members_are_shown_with_how_many_more_there_are() {
        let member = |device: &str| Member {
            app: "demo".to_owned(),
            device: device.to_owned(),
        };
        let listed = ListMembersResponse {
            count: 1_002,
            members: vec![member("alice"), member("b\nob")],
            unsynced: 0,
        };
        assert_eq!(
            members_text("lobby", &listed),
            [
                "lobby: 1,002 member(s)",
                "APP   DEVICE",
                "demo  alice",
                "demo  b\\nob",
                "… and 1,000 more"
            ]
        );
        let json = members_json("lobby", &listed);
        assert_eq!(json["members"][1], json!({"app": "demo", "device": "b\nob"}));
        assert_eq!((&json["count"], &json["unsynced"]), (&1_002.into(), &0.into()));
        assert_eq!(
            members_text("lobby", &ListMembersResponse::default()),
            ["lobby: 0 member(s)"]
        );
    }
}
