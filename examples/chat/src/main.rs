//! The chat server by itself.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use imaccess_example_chat::{Config, serve};
use tokio::net::TcpListener;
use tonic::transport::Endpoint;

/// A business server with rooms.
#[derive(Debug, Parser)]
struct Arguments {
    /// Address that the access layer dials
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7901")]
    listen: SocketAddr,
    /// Address of the push API (gRPC)
    #[arg(
        long,
        value_name = "URL",
        env = "IMACCESS_PUSH",
        default_value = "http://127.0.0.1:8100"
    )]
    push: String,
    /// The number under which the access layer knows this business
    #[arg(long, value_name = "ID", default_value_t = 2)]
    business: u32,
    /// File with the token that the push API asks for, read again for each call
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // Connected when it is first needed, and again when it broke: neither side has to be there first.
        let push = Endpoint::from_shared(arguments.push)?
            .connect_timeout(Duration::from_secs(3))
            .timeout(Duration::from_secs(10))
            .connect_lazy();
        let listener = TcpListener::bind(arguments.listen).await?;
        tracing::info!(address = %arguments.listen, "listening");
        let config = Config {
            business: arguments.business,
            token_file: arguments.token_file,
        };
        let interrupted = async {
            // Without the signal it goes on until it is killed.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        serve(config, push, listener, interrupted).await?;
        Ok(())
    })
}
