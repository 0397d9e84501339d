//! Configuration of a gateway.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use imaccess_common::config::{ByteSize, duration};
use imaccess_common::tls::TlsConfig;
use serde::{Deserialize, Serialize};

/// Half of it is for the other side to answer.
const LEAST_SILENCE: Duration = Duration::from_millis(100);

/// What can be set. The defaults serve one cluster on one machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayConfig {
    /// Cluster id: in tickets, metrics and endpoints.
    pub cluster: String,
    /// Name of this gateway, as ipconfig lists it.
    pub name: String,
    /// The pod's UID. Empty: a random id, made once and kept in `socket_dir`.
    pub instance: String,
    /// Addresses for TCP clients; port 0 takes a free one.
    pub tcp: Vec<SocketAddr>,
    /// Directory of the Unix sockets that the state sidecar dials; the pod's shared memory volume.
    pub socket_dir: PathBuf,
    /// Threads, each with its own share of the connections. 0: one per core.
    pub shards: usize,
    /// Whether the state sidecar keeps a second descriptor of every client socket and listener, so that this process can be
    /// replaced, or killed, without closing a connection. It needs as many descriptors there as here.
    pub custody: bool,
    /// Address of the metrics and health pages.
    pub admin_listen: SocketAddr,
    /// This gateway's certificate, for `control_listen`.
    pub tls: Option<TlsConfig>,
    /// Address of the handover page under certificates. With it the admin address has that page no more; without, whoever
    /// reaches the admin address may ask for a handover.
    pub control_listen: Option<SocketAddr>,
    /// Names of the certificates that may use `control_listen`.
    pub control_clients: Vec<String>,
    /// Outbound bandwidth of this pod in bytes per second, declared; ipconfig ranks by what is left of it.
    pub bandwidth: ByteSize,
    /// Bounds.
    pub limits: GatewayLimits,
    /// Deadlines.
    pub deadlines: GatewayDeadlines,
    /// How clients are sent elsewhere when the gateway ends for good.
    pub drain: GatewayDrain,
}

/// How clients are sent elsewhere at the end. Without any of it they are closed at once, with a code that lets them resume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayDrain {
    /// Clients told to go per second, in all; 0: all at once.
    pub rate: u32,
    /// For so long clients are still accepted, and none is told to go: until nobody lists this gateway any more.
    #[serde(with = "duration")]
    pub propagation: Duration,
    /// Counted from the beginning of the end: then the clients that are left are closed.
    #[serde(with = "duration")]
    pub deadline: Duration,
}

/// How much of anything there may be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayLimits {
    /// Connections in all. More are told so, with a retry-after, and closed.
    pub connections: usize,
    /// Connections per source address; 0: no limit.
    pub connections_per_address: usize,
    /// Longest frame body that clients may send.
    pub frame_body: ByteSize,
    /// Kernel send buffer per connection. Small, so that what waits for a slow reader waits in the queue below,
    /// where its business's policy holds. Linux doubles the value for its own bookkeeping.
    pub send_buffer: ByteSize,
    /// Bytes that may wait in user memory for one connection, all businesses together.
    pub queue_per_connection: ByteSize,
    /// Bytes that may wait for one connection from one business that state has set no bound for.
    pub queue_per_business: ByteSize,
    /// Bytes that may wait on the link to state, per shard. Beyond it requests are answered `busy`.
    pub link_queue: ByteSize,
    /// Group frames that may wait for their turn, in bytes per shard. Beyond it the newest is dropped.
    pub fanout_queue: ByteSize,
    /// Members written to before other connections get their turn: at about 5 µs a write, 32 take 0.2 ms. With 256, single messages beside
    /// a push to 15,000 members waited 15 ms (p99, on two cores), with 32 they wait 5, and pushes take no longer.
    pub fanout_slice: usize,
}

/// How long anything may take.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayDeadlines {
    /// From accept to a whole login frame.
    #[serde(with = "duration")]
    pub login: Duration,
    /// From the first byte of a frame to its last.
    #[serde(with = "duration")]
    pub frame: Duration,
    /// Without a byte taken by the client while some wait: it reads too slowly.
    #[serde(with = "duration")]
    pub write_stall: Duration,
    /// From the close frame to the end of the socket, so that the client can read it.
    #[serde(with = "duration")]
    pub linger: Duration,
    /// How long the kernel keeps unacknowledged bytes before it gives a connection up (TCP_USER_TIMEOUT).
    #[serde(with = "duration")]
    pub user_timeout: Duration,
    /// A state that answers nothing on the link for this long, not even its pings, is taken for gone: it hangs, or its process is
    /// stopped. `without_state` counts from then on.
    #[serde(with = "duration")]
    pub state_silence: Duration,
    /// Without state for this long, clients are closed with a resumable code: longer than any restart, and together with
    /// `state_silence` shorter than the 100 s after which routing declares the instance dead.
    #[serde(with = "duration")]
    pub without_state: Duration,
    /// For clients to be flushed and to read why they were closed, after `drain.deadline`.
    #[serde(with = "duration")]
    pub drain: Duration,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            cluster: "local".to_owned(),
            name: "gateway-0".to_owned(),
            instance: String::new(),
            tcp: vec![SocketAddr::from(([127, 0, 0, 1], 7000))],
            socket_dir: PathBuf::from("imaccess-sockets"),
            shards: 0,
            custody: true,
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            control_listen: None,
            control_clients: Vec::new(),
            bandwidth: ByteSize(1_000_000_000),
            limits: GatewayLimits::default(),
            deadlines: GatewayDeadlines::default(),
            drain: GatewayDrain::default(),
        }
    }
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            connections: 200_000,
            connections_per_address: 0,
            frame_body: ByteSize(imaccess_wire::limits::MAX_BODY as u64),
            send_buffer: ByteSize(16 << 10),
            queue_per_connection: ByteSize(256 << 10),
            queue_per_business: ByteSize(64 << 10),
            link_queue: ByteSize(4 << 20),
            fanout_queue: ByteSize(8 << 20),
            fanout_slice: 32,
        }
    }
}

impl Default for GatewayDeadlines {
    fn default() -> Self {
        Self {
            login: Duration::from_secs(5),
            frame: Duration::from_secs(10),
            write_stall: Duration::from_secs(30),
            linger: Duration::from_secs(2),
            user_timeout: Duration::from_secs(30),
            state_silence: Duration::from_secs(6),
            without_state: Duration::from_secs(90),
            drain: Duration::from_secs(10),
        }
    }
}

impl GatewayConfig {
    /// Checks what the types can't.
    ///
    /// # Errors
    /// A sentence that names the field and what to do.
    pub fn validate(&self) -> Result<(), String> {
        if self.tcp.is_empty() {
            return Err("tcp: give at least one address to listen on, such as 0.0.0.0:7000".to_owned());
        }
        if self.shards > imaccess_net::handle::Handle::MAX_SHARDS {
            return Err(format!(
                "shards: at most {}",
                imaccess_net::handle::Handle::MAX_SHARDS
            ));
        }
        if self.limits.frame_body.0 > imaccess_wire::limits::MAX_BODY as u64 {
            return Err(format!(
                "limits.frame_body: at most {} bytes",
                imaccess_wire::limits::MAX_BODY
            ));
        }
        let longest = (imaccess_wire::HEADER_LEN + imaccess_wire::limits::MAX_BODY) as u64;
        if self.limits.queue_per_connection.0 < 2 * longest {
            return Err(format!(
                "limits.queue_per_connection: at least {} bytes, two of the longest frames",
                2 * longest
            ));
        }
        if self.limits.fanout_slice == 0 {
            return Err("limits.fanout_slice: at least 1".to_owned());
        }
        let given = [
            self.tls.is_some(),
            self.control_listen.is_some(),
            !self.control_clients.is_empty(),
        ];
        if given.contains(&true) && given.contains(&false) {
            return Err(
                "control_listen: goes together with tls and control_clients, or all three are left out"
                    .to_owned(),
            );
        }
        if self.deadlines.state_silence < LEAST_SILENCE {
            return Err(
                "deadlines.state_silence: at least 100ms, or a state that is merely busy would be taken for gone".to_owned(),
            );
        }
        if self.limits.connections == 0 {
            return Err("limits.connections: at least 1".to_owned());
        }
        if self.drain.propagation > self.drain.deadline {
            return Err(
                "drain.deadline: it counts from the same moment as drain.propagation and must not be shorter"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// How long the end may take: clients are sent elsewhere, then flushed.
    #[must_use]
    pub fn drain_time(&self) -> Duration {
        self.drain.deadline.saturating_add(self.deadlines.drain)
    }

    /// Threads to start.
    #[must_use]
    pub fn shard_count(&self) -> usize {
        match self.shards {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            shards => shards,
        }
    }
}
