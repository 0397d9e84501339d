//! The namespaces that the cluster lives in: made by `unshare`, held by their first process, entered by `nsenter`.

use std::fs::{self, File};
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::WaitOptions;

use crate::layout::Layout;
use crate::process::{command, output};
use crate::record::{Record, start_time};
use crate::wait::{pause, until};

/// Connections that the forwarder serves at once: each has two threads, and no test needs a tenth of this.
const FORWARDED: usize = 256;

/// Makes the namespaces, with this program (`cargo xtask cluster hold`) as their first process.
pub(crate) fn create(layout: &Layout) -> Result<Record> {
    // Bound here, in the machine's network: a socket stays in the network that it was made in, wherever its owner is.
    let listener = TcpListener::bind("127.0.0.1:0").context("a port for the API server")?;
    let port = listener.local_addr().context("the port's number")?.port();
    let log = File::create(layout.path("logs/hold.log")).context("cannot create logs/hold.log")?;
    let this = own_copy(layout)?;
    let child = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "--",
        ])
        .arg(this)
        .args(["cluster", "hold"])
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(log)
        // Ctrl-C ends the command that started the cluster, not the cluster.
        .process_group(0)
        .spawn()
        .context("cannot start unshare (util-linux)")?;
    let supervisor = i32::try_from(child.id()).context("a pid")?;
    let init = until(
        "the namespaces' first process runs",
        Duration::from_secs(10),
        || {
            let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"))
                .map_err(|error| error.to_string())?;
            let pid: i32 = children
                .trim()
                .parse()
                .map_err(|_| "no child of unshare".to_owned())?;
            // Before that it is still `unshare` itself, and its mounts may not be in place.
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).map_err(|error| error.to_string())?;
            if name.trim() == "unshare" {
                return Err(name);
            }
            Ok(pid)
        },
    )?;
    let started = start_time(init).context("the namespaces' first process has ended")?;
    let record = Record {
        supervisor,
        init,
        started,
        port,
        complete: false,
    };
    record.write(layout)?;
    Ok(record)
}

/// A copy of the running program, by a name that stays: a build, also the one that `cargo xtask test` begins with, puts another file in
/// the place of its own.
fn own_copy(layout: &Layout) -> Result<PathBuf> {
    let copy = layout.path("bin/xtask");
    let copied = fs::remove_file(&copy)
        .or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
        .and_then(|()| fs::copy("/proc/self/exe", &copy));
    copied.with_context(|| format!("cannot copy the running program to {}", copy.display()))?;
    Ok(copy)
}

/// A command that runs inside, in the network *outside* of the nodes.
pub(crate) fn inside(record: &Record, program: &str) -> Command {
    let target = record.init.to_string();
    let mut nsenter = command(
        "nsenter",
        ["--target", &target, "--mount", "--net", "--pid", "--"],
    );
    // A user's PATH on Debian has no `sbin`, where kube-proxy looks for iptables.
    let path = std::env::var("PATH").unwrap_or_default();
    nsenter.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
    nsenter.arg(program);
    nsenter
}

/// A command that runs inside, in the network of a node.
pub(crate) fn inside_node(record: &Record, node: &str, program: &str) -> Command {
    let mut nsenter = inside(record, "nsenter");
    nsenter
        .arg(format!("--net=/run/netns/{node}"))
        .arg("--")
        .arg(program);
    nsenter
}

/// Runs a shell script inside; it stops at its first failing command.
pub(crate) fn script(record: &Record, script: &str) -> Result<String> {
    output(inside(record, "sh").args(["-e", "-c", script]))
}

/// Starts a component that goes on when its starter has ended.
///
/// `shell` is a command of [`inside`] or [`inside_node`] with the program `sh`.
pub(crate) fn start(mut shell: Command, name: &str, words: &[String]) -> Result<()> {
    // Its parent ends at once, so that it becomes a child of the namespaces' first process, which reaps it.
    let detach = "log=$1; shift; setsid -- \"$@\" </dev/null >>\"$log\" 2>&1 &";
    output(
        shell
            .args(["-e", "-c", detach, "sh"])
            .arg(Layout::inside(&format!("logs/{name}.log")))
            .args(words),
    )
    .with_context(|| format!("cannot start {name}"))
    .map(drop)
}

/// What the namespaces' first process does: it reaps orphans, and forwards connections of its standard input (a
/// listening socket of the machine's network) to the API server inside, which has the same port there. It never
/// returns while its namespaces live.
///
/// # Errors
/// When standard input is no listening socket.
pub fn hold() -> Result<ExitCode> {
    let socket = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("standard input")?;
    let listener = TcpListener::from(socket);
    let port = listener
        .local_addr()
        .context("standard input is no listening socket")?
        .port();
    if std::process::id() != 1 {
        bail!(
            "this is the first process of the local cluster's namespaces: `cargo xtask cluster up` starts it"
        );
    }
    thread::Builder::new()
        .name("forwarder".to_owned())
        .spawn(move || accept(&listener, port))
        .context("a thread for the forwarder")?;
    loop {
        // Without a child, there is nothing to wait for until one is orphaned.
        if rustix::process::wait(WaitOptions::empty()).is_err() {
            pause(Duration::from_millis(100));
        }
    }
}

fn accept(listener: &TcpListener, port: u16) {
    static OPEN: AtomicUsize = AtomicUsize::new(0);
    for client in listener.incoming() {
        let client = match client {
            Ok(client) => client,
            Err(error) => {
                eprintln!("forwarder: cannot accept: {error}");
                pause(Duration::from_millis(100));
                continue;
            }
        };
        if OPEN.load(Ordering::Relaxed) >= FORWARDED {
            eprintln!("forwarder: refused a connection: {FORWARDED} are open");
            continue;
        }
        OPEN.fetch_add(1, Ordering::Relaxed);
        let served = thread::Builder::new().spawn(move || {
            if let Err(error) = forward(&client, port) {
                eprintln!("forwarder: {error}");
            }
            OPEN.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = served {
            eprintln!("forwarder: no thread: {error}");
            OPEN.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn forward(client: &TcpStream, port: u16) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", port))?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let upstream = thread::Builder::new().spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    })?;
    let _ = io::copy(&mut &server, &mut &*client);
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
    let _ = upstream.join();
    Ok(())
}
