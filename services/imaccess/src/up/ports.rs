//! Addresses for the parts: the usual ones if they are free, or free ones.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;

use anyhow::{anyhow, bail};

/// Attempts at a free port: half of the range would have to be taken for this to fail.
const ATTEMPTS: usize = 1_000;

/// Hands out addresses, each once. They stay bound until this is dropped, so that none is given twice.
#[derive(Debug)]
pub(super) struct Ports {
    ephemeral: bool,
    range: Range<u16>,
    held: Vec<TcpListener>,
}

impl Ports {
    /// With `ephemeral`, public addresses are free ones as well.
    pub(super) fn new(ephemeral: bool) -> Self {
        let local = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        Self {
            ephemeral,
            range: range_below(&local),
            held: Vec::new(),
        }
    }

    /// The address wished for, else the usual one, else (ephemeral) a free one. `what` listens there, `flag` moves it.
    pub(super) fn public(
        &mut self,
        wished: Option<SocketAddr>,
        usual: SocketAddr,
        what: &str,
        flag: &str,
    ) -> anyhow::Result<SocketAddr> {
        let address = match (wished, self.ephemeral) {
            (Some(address), _) if address.port() == 0 => return self.free_on(address),
            (Some(address), _) => address,
            (None, true) => return self.free(),
            (None, false) => usual,
        };
        match TcpListener::bind(address) {
            Ok(listener) => self.held.push(listener),
            Err(error) => bail!(
                "{what} can't listen on {address}: {error}. If another `imaccess up` runs, end it; or choose another \
                 address by {flag}, or free ones by --ephemeral"
            ),
        }
        Ok(address)
    }

    /// A free port on the loopback address.
    pub(super) fn free(&mut self) -> anyhow::Result<SocketAddr> {
        self.free_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// Free now, and outside the range from which the kernel takes the ports of outgoing connections: a part that is
    /// restarted finds its port free again, whatever was connected meanwhile.
    fn free_on(&mut self, mut address: SocketAddr) -> anyhow::Result<SocketAddr> {
        for _ in 0..ATTEMPTS {
            address.set_port(fastrand::u16(self.range.clone()));
            if let Ok(listener) = TcpListener::bind(address) {
                self.held.push(listener);
                return Ok(address);
            }
        }
        Err(anyhow!("no free port found on {}", address.ip()))
    }
}

/// The address of the n-th of several.
pub(super) fn shifted(first: Option<SocketAddr>, by: u16) -> anyhow::Result<Option<SocketAddr>> {
    let Some(mut address) = first else { return Ok(None) };
    if address.port() != 0 {
        let port = address.port().checked_add(by);
        address.set_port(port.ok_or_else(|| anyhow!("there are not enough ports from {address} on"))?);
    }
    Ok(Some(address))
}

/// Ports below those of outgoing connections, if there is room; the kernel's file has the first and last of those.
fn range_below(local: &str) -> Range<u16> {
    const FIRST: u16 = 10_000;
    let below = local
        .split_whitespace()
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(32_768);
    // With a range that starts low there is no room below it: anything may do then.
    if below >= FIRST + 5_000 {
        FIRST..below
    } else {
        FIRST..u16::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_lie_below_the_outgoing_ones() {
        assert_eq!(range_below("32768\t60999\n"), 10_000..32_768);
        assert_eq!(range_below("1024\t65535\n"), 10_000..65_535);
        assert_eq!(range_below(""), 10_000..32_768);
    }

    #[test]
    fn a_port_in_use_is_named_with_the_way_out() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let mut ports = Ports::new(false);
        let fault = ports
            .public(None, address, "ipconfig", "--ipconfig-listen")
            .unwrap_err()
            .to_string();
        for part in [
            "ipconfig",
            &address.to_string(),
            "--ipconfig-listen",
            "--ephemeral",
        ] {
            assert!(fault.contains(part), "{fault}");
        }
        let free = ports.free().unwrap();
        assert_ne!(ports.free().unwrap(), free);
    }

    #[test]
    fn several_stand_in_a_row() {
        let first = "127.0.0.1:7000".parse().unwrap();
        assert_eq!(
            shifted(Some(first), 2).unwrap(),
            Some("127.0.0.1:7002".parse().unwrap())
        );
        assert_eq!(shifted(None, 2).unwrap(), None);
        assert!(shifted(Some("127.0.0.1:65535".parse().unwrap()), 1).is_err());
    }
}
