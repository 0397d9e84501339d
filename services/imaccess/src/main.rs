//! `imaccess`: every part of the cluster, the whole cluster on one machine, and what people use, in one binary.
//!
//! One file per verb, thin: [`part`] runs a part, [`up`] runs them all, the rest are clients. Everything else is in
//! the libraries.

mod bench;
mod call;
mod chat;
mod cluster;
mod columns;
mod compat;
mod connect;
mod control;
mod devices;
mod echo;
mod exit;
mod group;
mod kick;
mod kubectl;
mod online;
mod operator;
mod part;
mod probe;
mod push;
mod push_api;
mod run;
mod state;
mod terminal;
mod top;
mod up;
mod upgrade;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The access layer of an instant-messaging platform: long connections, sessions, pushes.
///
/// `imaccess up` runs a whole cluster on this machine; the other verbs talk to it, or run one part of it.
///
/// Exit status: 0 fine, 1 failed, 64 wrong usage, 75 not now: try again.
#[derive(Debug, Parser)]
#[command(name = "imaccess", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a whole cluster on this machine, until Ctrl-C
    #[command(after_help = up::EXAMPLES)]
    Up(Box<up::UpArgs>),
    /// Ask a business once and print its reply
    #[command(after_help = call::EXAMPLES)]
    Call(call::CallArgs),
    /// Stay connected as a device: print pushes, send input lines as requests
    #[command(after_help = connect::EXAMPLES)]
    Connect(connect::ConnectArgs),
    /// Push to devices, to a group or to all, as a business would
    #[command(after_help = push::EXAMPLES)]
    Push(Box<push::PushArgs>),
    /// Make, fill, list and destroy groups of devices, as a business would
    #[command(after_help = group::EXAMPLES)]
    Group(Box<group::GroupArgs>),
    /// End devices' sessions
    #[command(after_help = kick::EXAMPLES)]
    Kick(Box<kick::KickArgs>),
    /// Say whether devices are online
    #[command(after_help = online::EXAMPLES)]
    Online(Box<online::OnlineArgs>),
    /// Show how a cluster is doing: gateways, scores, connections, rates, closes by reason
    #[command(after_help = top::EXAMPLES)]
    Top(top::TopArgs),
    /// Measure what a connection, a login, a message or a delivery costs
    Bench(bench::BenchArgs),
    /// Run a gateway: the connection layer
    Gateway(part::PartArgs),
    /// Run state: the session layer beside a gateway, or the routing layer
    State(state::StateArgs),
    /// Run ipconfig: tells clients which gateways to connect to
    Ipconfig(part::PartArgs),
    /// Run the echo business: answers every request with its own payload
    Echo(echo::EchoArgs),
    /// Run the chat business: rooms, whose lines reach everybody in them
    Chat(Box<chat::ChatArgs>),
    /// Look after the ImAccessClusters of a Kubernetes cluster
    Operator(Box<operator::OperatorArgs>),
    /// Replace gateways, or their state sidecars, by another binary without closing a connection
    Upgrade(upgrade::UpgradeArgs),
    /// Print which generations of each format this binary speaks
    Compat(compat::CompatArgs),
    /// Ask a page and print its answer; exit status 0 if that is a good one
    Probe(probe::ProbeArgs),
    /// Print the version
    Version,
}

fn main() -> ExitCode {
    if kubectl::is_plugin() {
        return kubectl::main();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, but not to people. Nothing is left to tell if this can't be printed.
            let _ = error.print();
            return if error.use_stderr() {
                exit::USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let result = match cli.verb {
        Verb::Up(arguments) => up::run(*arguments),
        Verb::Call(arguments) => call::run(arguments),
        Verb::Connect(arguments) => connect::run(arguments),
        Verb::Push(arguments) => push::run(*arguments),
        Verb::Group(arguments) => group::run(*arguments),
        Verb::Kick(arguments) => kick::run(*arguments),
        Verb::Online(arguments) => online::run(*arguments),
        Verb::Top(arguments) => top::run(arguments),
        Verb::Bench(arguments) => bench::run(arguments),
        Verb::Gateway(arguments) => part::run(&arguments, part::Kind::Gateway),
        Verb::State(arguments) => state::run(&arguments),
        Verb::Ipconfig(arguments) => part::run(&arguments, part::Kind::Ipconfig),
        Verb::Echo(arguments) => echo::run(&arguments),
        Verb::Chat(arguments) => chat::run(&arguments),
        Verb::Operator(arguments) => operator::run(*arguments),
        Verb::Upgrade(arguments) => upgrade::run(&arguments),
        Verb::Compat(arguments) => compat::run(&arguments),
        Verb::Probe(arguments) => probe::run(&arguments),
        Verb::Version => {
            terminal::line(concat!("imaccess ", env!("CARGO_PKG_VERSION")));
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("imaccess: {error:#}");
        exit::status_of(&error)
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lines_that_up_prints_and_tests_use_are_understood() {
        for line in [
            "up --no-custody",
            "up --gateways 2 --processes --no-custody --json --ephemeral --dir d --shards 1 --routing 2 --business-config b.yaml",
            "call --business echo --data hello",
            "up --businesses b.yaml --no-chat",
            "connect --device alice --join lobby,hall --business 1",
            "connect --room lobby",
            "connect --device alice --room lobby --business rooms",
            "push --device a,b --data hi --push http://127.0.0.1:8100",
            "push --group lobby --business echo --data hi",
            "push --group lobby --data hi --push https://p:8100 --tls-ca f --tls-name n --token-file f",
            "push --group lobby --data hi --push https://p:8100 --tls-ca f --tls-cert f --tls-key f",
            "push --devices f --data hi --json --priority high --ttl 30s",
            "push --devices - --data hi",
            "push --group lobby",
            "push --all --data hi",
            "push --all --filter app=shop,platform=ios|android,version=1.2..2.0 --data hi",
            "group create lobby --device a,b --business chat",
            "group join lobby --devices f --json",
            "group leave lobby --device a",
            "group members lobby --limit 0",
            "group destroy lobby --push http://127.0.0.1:8100",
            "kick a b --reason why",
            "kick --devices f --json",
            "online a b",
            "online --devices -",
            "top",
            "top --once --json --interval 500ms --dir d",
            "top --metrics a=10.0.0.5:9300,10.0.0.9:9302 --ipconfig 10.0.0.8:9303",
            "chat --listen 127.0.0.1:0 --push http://127.0.0.1:8100 --business 7",
            "chat --push https://p:8100 --tls-ca f --tls-name n --token-file f --print-config",
            "state --role routing --config f --set push_listen=127.0.0.1:0 --print-config",
            "gateway --config f --exit-with-parent",
            "compat",
            "compat --json",
            "probe http://127.0.0.1:9300/readyz --timeout 10s",
            "upgrade gateway",
            "upgrade gateway --dir d --part gateway-0 --binary b --json",
            "upgrade state --part state-0",
            "upgrade gateway --config f --binary b --log f",
            "upgrade state --config f --gateway-admin 127.0.0.1:9300 --supervised",
            "gateway --config f --own-session",
            "echo --listen 127.0.0.1:0 --record f --hang --delay 10ms",
            "operator",
            "operator --namespace a,b --lease-namespace c --lease-name d --pages 127.0.0.1:0 --resync 5m --log-json",
            "operator --no-leader-election --ca-lifetime 1h --certificate-lifetime 10m",
        ] {
            let words = std::iter::once("imaccess").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
        for line in [
            "",
            "push --data hi",
            "push --device a --data hi --tls-ca f --tls-cert f",
            "push --device a --data hi --tls-key f",
            "push --device a --group g --data hi",
            "push --device a --devices f --data hi",
            "push --group g --all --data hi",
            "push --device a --filter app=b --data hi",
            "push --all --filter os=ios --data hi",
            "push --device a --ttl soon --data hi",
            "group",
            "group join lobby",
            "group join lobby --device a --devices f",
            "group members lobby --limit 10001",
            "kick",
            "kick a --devices f",
            "online",
            "top --interval 1ms",
            "top --dir d --metrics a:1",
            "connect --room lobby --join lobby",
            "state",
            "call --data x",
            "upgrade",
            "upgrade routing",
            "operator --no-leader-election --lease-name d",
            "operator --resync soon",
            "upgrade gateway --config f --dir d",
            "upgrade gateway --config f --part gateway-0",
            "upgrade gateway --supervised",
            "upgrade gateway --config f --supervised --log f",
        ] {
            let words = std::iter::once("imaccess").chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}
