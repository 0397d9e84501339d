//! A plain client: one blocking socket, the protocol's frames, nothing of our load loop or SDK.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use imaccess_wire::Limits;
use imaccess_wire::frame::{Close, Frame, Login, Reply, Request, Transport};
use imaccess_wire::header;

use crate::cluster::APP;

/// Longest wait for any answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Logs in, has one request echoed, says goodbye.
pub(crate) fn echo(gateway: SocketAddr, device: &str, token: &str, business: u32) -> anyhow::Result<()> {
    let mut client = TcpStream::connect_timeout(&gateway, PATIENCE).context("connect")?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_nodelay(true)?;
    let mut bytes = Vec::new();
    let login = Login {
        device,
        app: APP,
        token: token.as_bytes(),
        transport: Transport::Tcp,
        ..Login::default()
    };
    let login = send(
        &mut client,
        &mut bytes,
        |out| login.encode(out),
        |frame| match frame {
            Frame::LoginOk(_) => Some(Ok(())),
            Frame::LoginRefused(refused) => Some(Err(format!("login refused: {:?}", refused.known_code()))),
            _ => None,
        },
    );
    login?;
    let payload = b"hello";
    let request = Request {
        business,
        message_id: 1,
        payload,
        ..Request::default()
    };
    send(
        &mut client,
        &mut bytes,
        |out| request.encode(out),
        |frame| match frame {
            Frame::Reply(Reply {
                message_id: 1,
                code: 0,
                payload: b"hello",
                ..
            }) => Some(Ok(())),
            Frame::Reply(reply) => Some(Err(format!("answered with {:?}", reply.known_code()))),
            _ => None,
        },
    )?;
    let mut goodbye = Vec::new();
    Close::with_code(imaccess_wire::Code::ClientLeft).encode(&mut goodbye);
    client.write_all(&goodbye).context("say goodbye")
}

/// Sends one frame and reads until `judge` knows what came of it.
fn send(
    client: &mut TcpStream,
    bytes: &mut Vec<u8>,
    encode: impl FnOnce(&mut Vec<u8>),
    judge: impl Fn(Frame<'_>) -> Option<Result<(), String>>,
) -> anyhow::Result<()> {
    let mut out = Vec::new();
    encode(&mut out);
    client.write_all(&out).context("send")?;
    let mut buffer = [0; 4_096];
    loop {
        while let Some(split) = header::split(bytes, Limits::default())? {
            let verdict = Frame::decode(&split)?.and_then(&judge);
            let len = split.frame.len();
            bytes.drain(..len);
            if let Some(verdict) = verdict {
                return verdict.map_err(anyhow::Error::msg);
            }
        }
        let len = client.read(&mut buffer).context("receive")?;
        if len == 0 {
            bail!("the gateway closed the connection");
        }
        bytes.extend_from_slice(&buffer[..len]);
    }
}
