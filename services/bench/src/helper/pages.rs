//! A thousand gateways' metrics pages from one process: for `bench ipconfig`.
//!
//! Each gateway has an address of its own (127.x.y.z, one port), so that ipconfig keeps a connection to each, as
//! it would. The figures change with every scrape: the ranking has something to do.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use imaccess_common::gateway_page::{BANDWIDTH, CONNECTION_LIMIT, CONNECTIONS, DRAINING, SENT_BYTES};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A scraper that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);

/// Longest request that is read.
const MAX_REQUEST: usize = 8 * 1_024;

/// Where the `number`-th gateway's page is, given the port.
pub(crate) fn address(number: u64, port: u16) -> SocketAddr {
    let [.., third, fourth] = (number as u32 + 1).to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, 7, third, fourth), port))
}

/// Serves the pages until the standard input ends; prints the port first.
pub(crate) fn run() -> anyhow::Result<()> {
    crate::child::end_with_parent();
    let runtime = super::runtime()?;
    let listener = runtime
        .block_on(TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
        .context("listen")?;
    super::say(&listener.local_addr()?.port())?;
    std::thread::spawn(move || runtime.block_on(accept(listener)));
    super::wait_for_end();
    Ok(())
}

async fn accept(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(async move {
                    // A scraper that leaves is no fault.
                    let _ = serve(stream).await;
                });
            }
            // Out of descriptors, most likely: those that end make room.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn serve(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let SocketAddr::V4(local) = stream.local_addr()? else {
        return Ok(());
    };
    let mut seed = u64::from(u32::from(*local.ip()));
    let mut request = Vec::new();
    loop {
        while !request.ends_with(b"\r\n\r\n") {
            let read = tokio::time::timeout(SILENCE, stream.read_buf(&mut request)).await??;
            if read == 0 || request.len() > MAX_REQUEST {
                return Ok(());
            }
        }
        request.clear();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        stream.write_all(page(seed >> 33).as_bytes()).await?;
    }
}

/// An HTTP answer with a page whose figures follow from `seed`.
fn page(seed: u64) -> String {
    let mut body = String::new();
    for (name, value) in [
        (CONNECTIONS, seed % 50_000),
        (CONNECTION_LIMIT, 200_000),
        (SENT_BYTES, seed % 1_000_000_000),
        (BANDWIDTH, 1_250_000_000),
        (DRAINING, 0),
    ] {
        writeln!(body, "{name} {value}").expect("a String takes everything");
    }
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_a_gateways() {
        let answer = page(12_345);
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let page = imaccess_common::gateway_page::GatewayPage::parse(body).unwrap();
        assert_eq!((page.connections, page.draining), (12_345.0, false));
        assert!(address(999, 80).ip().is_loopback());
        assert_ne!(address(255, 80), address(511, 80));
    }
}
