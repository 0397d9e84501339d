//! A played gateway for tests: its admin pages are answered here, its processes are scripts that write down when they
//! start and when they are asked to end.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::up::testing::script;

/// What a good binary says of itself, with its link generations to be filled in.
const COMPAT: &str = r#"{"version":"9","speaks":{"link":{"oldest":LINK,"newest":LINK},"custody":{"oldest":1,"newest":1},"volume":{"oldest":1,"newest":1},"lease":{"oldest":1,"newest":1},"ticket":{"oldest":1,"newest":2}}}"#;

/// A directory in which everything of one test happens, and the admin pages.
pub(super) struct Stage {
    pub(super) directory: TempDir,
    pub(super) gateway: SocketAddr,
    pub(super) state: SocketAddr,
    script: Arc<Mutex<Script>>,
}

/// What the pages answer.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) custody: bool,
    pub(super) complete: bool,
    /// So many leases are refused first; of those to the new process, all, if `lease_back` is false.
    pub(super) refusals: u32,
    pub(super) lease_back: bool,
    /// What the new process's takeover closed, and how many of those had left.
    pub(super) closed: u64,
    pub(super) left: u64,
    /// Every request.
    pub(super) log: Vec<String>,
}

impl Stage {
    pub(super) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let script = Arc::new(Mutex::new(Script {
            custody: true,
            complete: true,
            refusals: 0,
            lease_back: true,
            closed: 0,
            left: 0,
            log: Vec::new(),
        }));
        let mut addresses = Vec::new();
        for part in ["gateway", "state"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            let (script, started) = (Arc::clone(&script), directory.path().join("started"));
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    serve(stream, part, &script, &started).await;
                }
            });
        }
        Self {
            directory,
            gateway: addresses[0],
            state: addresses[1],
            script,
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    /// The requests whose method and path begin so.
    pub(super) fn asked(&self, beginning: &str) -> usize {
        let script = self.script.lock().unwrap();
        script
            .log
            .iter()
            .filter(|line| line.starts_with(beginning))
            .count()
    }

    /// A binary that speaks one link generation, and goes on once it is started; its name decides what the pages say
    /// of it: see [`answer`].
    pub(super) fn binary(&self, name: &str, link: u32) -> PathBuf {
        self.program(name, link, "")
    }

    /// As [`Self::binary`], with something that it does first, before the pages know of it.
    pub(super) fn program(&self, name: &str, link: u32, first: &str) -> PathBuf {
        let compat = COMPAT.replace("LINK", &link.to_string());
        let directory = self.path().display();
        let text = format!(
            "test \"$1\" = compat && echo '{compat}' && exit\n\
             {first}\n\
             echo \"$1 {name}\" >> {directory}/started\n\
             trap 'echo \"$1 {name}\" >> {directory}/asked-to-end; rm -f {directory}/$1.pid; exit 0' TERM\n\
             printf '%s\\n%s\\n' $$ \"$0\" > {directory}/pid.$$ && mv {directory}/pid.$$ {directory}/$1.pid\n\
             # Not for ever, should a test fail to end it.\n\
             n=0; while test $n -lt 6000; do sleep 0.01; n=$((n+1)); done"
        );
        script(self.path(), name, &text)
    }

    /// Which processes were asked to end, in order.
    pub(super) fn asked_to_end(&self) -> String {
        fs::read_to_string(self.path().join("asked-to-end")).unwrap_or_default()
    }

    /// The gateways that were started, in order.
    pub(super) fn gateways(&self) -> Vec<String> {
        gateways(&self.path().join("started"))
    }
}

fn gateways(started: &Path) -> Vec<String> {
    let text = fs::read_to_string(started).unwrap_or_default();
    let names = text.lines().filter_map(|line| line.strip_prefix("gateway "));
    names.map(str::to_owned).collect()
}

async fn serve(stream: TcpStream, part: &str, script: &Mutex<Script>, started: &Path) {
    let mut stream = BufReader::new(stream);
    let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
    while stream.read_line(&mut line).await.is_ok_and(|read| read > 2) {
        if first.is_empty() {
            first.clone_from(&line);
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    if stream.read_exact(&mut body).await.is_err() {
        return;
    }
    let request = first.trim_end().trim_end_matches(" HTTP/1.1");
    let names = gateways(started);
    let (status, text) = answer(part, request, &mut script.lock().unwrap(), &names);
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        text.len()
    );
    let _ = stream.write_all((head + &text).as_bytes()).await;
}

/// The pages of a gateway whose last process is the last of `names`.
fn answer(part: &str, request: &str, script: &mut Script, names: &[String]) -> (u16, String) {
    script.log.push(format!("{part} {request}"));
    let name = names.last().map_or("", |name| name.as_str());
    let unready = name.contains("unready");
    match request {
        "GET /readyz" if part == "gateway" && unready => (503, "no  link\n".to_owned()),
        "GET /readyz" => (200, "yes link\n".to_owned()),
        "GET /metrics" => {
            let metric = "imaccess_gateway_takeover_connections_total";
            (200, format!("{metric}{{result=\"peer_gone\"}} {}\n", script.left))
        }
        // A process that dies doesn't get as far as its pages.
        _ if name.contains("crashing") => (500, String::new()),
        "GET /handover" => {
            let kind = match name {
                _ if names.len() == 1 => "none",
                _ if name.contains("unplanned") => "crashed",
                _ => "planned",
            };
            let closed = if names.len() > 1 { script.closed } else { 0 };
            let page = serde_json::json!({
                "custody": script.custody, "complete": script.complete, "links": 2, "shards": 2,
                "connections": 10 - closed, "held": 12, "lease": false, "incarnation": names.len(),
                "takeover": {"kind": kind, "adopted": 10 - closed, "closed": closed, "listeners": 2, "milliseconds": 3},
            });
            (200, page.to_string())
        }
        "POST /handover" if names.len() > 1 && !script.lease_back => {
            (409, r#"{"error":"custody is not complete"}"#.to_owned())
        }
        "POST /handover" if script.refusals > 0 => {
            script.refusals -= 1;
            (409, r#"{"error":"custody is not complete"}"#.to_owned())
        }
        "POST /handover" => {
            let lease = r#"{"lease":"ab","generation":1,"seconds":30,"connections":10,"held":12,"incarnation":1,"shards":2}"#;
            (200, lease.to_owned())
        }
        "DELETE /handover?lease=ab" => (200, String::new()),
        _ => (404, String::new()),
    }
}
