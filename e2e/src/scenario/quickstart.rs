//! What a new user sees: `up` says what to try, and each of those commands works as it is printed.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

use crate::command::{self, Session};
use crate::logs::Logs;
use crate::report::{Report, Size};

const READY: Duration = Duration::from_secs(60);
const COMMAND: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(30);

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let mut report = Report::new("quickstart", size, seed);
    let directory = tempfile::Builder::new().prefix("imac-").tempdir()?;
    let (mut up, printed) = start(&directory.path().join("up")).await?;
    let commands = commands(&printed);
    ensure!(
        !commands.is_empty(),
        "up printed no command to try:\n{}",
        printed.join("\n")
    );
    report.figure("commands_printed", commands.len());

    // A `connect` goes on; what is pushed to its device or group must be printed by it.
    let mut sessions: Vec<(String, Session)> = Vec::new();
    for line in &commands {
        let words = shell_words(line);
        let verb = words.get(1).map_or("", String::as_str);
        if verb == "connect" {
            let session = Session::start_words(&words[1..])?;
            sessions.push((line.clone(), session));
            continue;
        }
        for (_, session) in &mut sessions {
            session.online(COMMAND).await?;
        }
        let printed = command::output_of(None, &words[1..], COMMAND)
            .await
            .with_context(|| line.clone())?;
        let data = words
            .iter()
            .position(|word| word == "--data")
            .and_then(|at| words.get(at + 1));
        match (verb, data) {
            ("call", Some(data)) => ensure!(printed.trim_end() == data, "`{line}` printed {printed:?}"),
            ("push", Some(data)) => {
                let (of, session) = sessions
                    .last_mut()
                    .with_context(|| format!("nobody to receive `{line}`"))?;
                session
                    .expect(data, COMMAND)
                    .await
                    .with_context(|| format!("`{of}` should print what `{line}` pushes"))?;
            }
            _ => {}
        }
    }
    report.figure("commands_that_worked", commands.len());
    for (_, session) in sessions {
        session.end().await?;
    }
    stop(&mut up).await?;
    Ok(report)
}

/// Starts `up` as a user does, on free ports, and returns what it printed until it was ready.
async fn start(directory: &Path) -> Result<(Child, Vec<String>)> {
    let mut command = command::imaccess(["up", "--ephemeral", "--dir"])?;
    command
        .arg(directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut up = command.spawn().context("cannot start imaccess up")?;
    let logs = Logs::default();
    logs.follow(up.stderr.take().context("standard error is piped")?);
    let mut lines = BufReader::new(up.stdout.take().context("standard output is piped")?).lines();
    let mut printed = Vec::new();
    let reading = async {
        while let Some(line) = lines.next_line().await? {
            let last = line.contains("Ctrl-C");
            printed.push(line);
            if last {
                return Ok(());
            }
        }
        Err(anyhow!("it ended"))
    };
    let ready = timeout(READY, reading)
        .await
        .unwrap_or_else(|_| Err(anyhow!("not within {READY:?}")));
    ready.with_context(|| {
        format!(
            "up isn't ready; it printed {printed:?} and logged:\n{}",
            logs.tail(20)
        )
    })?;
    ensure!(
        printed.iter().any(|line| line.contains("ready")),
        "up never said `ready`: {printed:?}"
    );
    logs.follow(lines.into_inner());
    Ok((up, printed))
}

/// The lines that are commands: they begin with the program, by whatever path it was started. What stands behind
/// a `#` is for people.
fn commands(printed: &[String]) -> Vec<String> {
    let command = |line: &String| {
        let line = line.split(" #").next().unwrap_or_default().trim();
        let program = line.split_whitespace().next()?;
        Path::new(program)
            .file_name()
            .is_some_and(|name| name == "imaccess")
            .then(|| line.to_owned())
    };
    printed.iter().filter_map(command).collect()
}

/// Words of a command line, with single and double quotes; nothing else of a shell is needed by what `up` prints.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    for character in line.chars() {
        match quote {
            Some(open) if character == open => quote = None,
            Some(_) => word.push(character),
            None if character == '\'' || character == '"' => (quote, begun) = (Some(character), true),
            None if character.is_whitespace() => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            None => {
                word.push(character);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

async fn stop(up: &mut Child) -> Result<()> {
    let pid = up
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
        .context("up has ended before")?;
    kill_process(pid, Signal::INT).context("cannot signal up")?;
    let status = timeout(END, up.wait())
        .await
        .with_context(|| format!("up didn't end within {END:?} of Ctrl-C"))??;
    if !status.success() {
        bail!("up ended with {status} after Ctrl-C");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_what_is_quoted() {
        assert_eq!(
            shell_words("imaccess push --data 'good morning' \"\""),
            ["imaccess", "push", "--data", "good morning", ""]
        );
    }

    #[test]
    fn commands_are_found_among_other_lines() {
        let printed = [
            "ready".to_owned(),
            "  imaccess call --data x   # prints x".to_owned(),
        ];
        assert_eq!(commands(&printed), ["imaccess call --data x"]);
    }
}
