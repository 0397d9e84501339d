//! What `up` tells people: addresses, `ready`, and commands that work as printed.

use std::env;
use std::path::Path;

use super::directory;
use super::plan::{CHAT, CHAT_ID};
use super::view::View;
use crate::cluster::DEFAULT_IPCONFIG;
use crate::push_api::DEFAULT_PUSH;

/// The whole text. `businesses` is the list of them; `program` is how to call this program from here; `custody` whether gateways
/// can be replaced while their connections stay open.
pub(super) fn text(view: &View, directory: &Path, businesses: &Path, program: &str, custody: bool) -> String {
    let mut lines = vec![format!("{:<12} {}", "ipconfig", view.ipconfig)];
    lines.push(format!("{:<12} {}  (gRPC)", "push API", view.push_grpc));
    for gateway in &view.gateways {
        lines.push(format!("{:<12} {}  (TCP)", gateway.name, gateway.tcp));
    }
    for business in &view.businesses {
        lines.push(format!(
            "{:<12} {} (id {})",
            "business", business.name, business.id
        ));
    }
    lines.push(format!(
        "{:<12} {}  (read again when it changes)",
        "businesses",
        businesses.display()
    ));
    lines.push(format!("{:<12} {}", "directory", directory.display()));
    lines.push(String::new());
    lines.push("ready".to_owned());
    lines.push(String::new());
    lines.push("Try, in another terminal:".to_owned());
    let commands = commands(view, directory, program).into_iter();
    lines.extend(commands.map(|command| format!("  {command}")));
    if custody {
        lines.push(format!("  {}", upgrade(directory, program)));
    }
    lines.push(String::new());
    lines.push("Ctrl-C ends the cluster.".to_owned());
    lines.join("\n")
}

fn commands(view: &View, directory: &Path, program: &str) -> Vec<String> {
    let flag = |name: &str, value: &str, default: &str| {
        if value == default {
            String::new()
        } else {
            format!(" {name} {value}")
        }
    };
    let ipconfig = flag("--ipconfig", &view.ipconfig, DEFAULT_IPCONFIG);
    let push = flag("--push", &view.push_grpc, DEFAULT_PUSH);
    let dir = dir(directory);
    let mut commands = vec![
        format!("{program} call --business echo --data hello{ipconfig}  # prints hello"),
        format!("{program} connect --device alice --join lobby{ipconfig}  # goes on; prints what is pushed"),
        format!("{program} push --device alice --data hi{push}{ipconfig}"),
        format!("{program} push --group lobby --business echo --data hi{push}{ipconfig}"),
    ];
    if view
        .businesses
        .iter()
        .any(|business| business.name == CHAT && business.id == CHAT_ID)
    {
        commands.push(format!(
            "{program} connect --device ann --room lobby{ipconfig}  # chat: what is typed here"
        ));
        commands.push(format!(
            "{program} connect --device ben --room lobby{ipconfig}  # appears here, and the other way round"
        ));
    }
    commands.push(format!(
        "{program} top --once{dir}  # gateways, businesses, rates; without --once it goes on"
    ));
    commands
}

/// The flag that names the directory, unless it is the usual one.
fn dir(directory: &Path) -> String {
    if directory == Path::new(directory::DEFAULT) {
        String::new()
    } else {
        format!(" --dir {}", directory.display())
    }
}

/// Another process takes a gateway's place.
fn upgrade(directory: &Path, program: &str) -> String {
    let dir = dir(directory);
    format!("{program} upgrade gateway{dir}  # replaces the gateways; no connection is closed")
}

/// How this program was called, if that works from here: `target/release/imaccess`, or `imaccess` from the path.
pub(super) fn program() -> String {
    let called = env::args().next().unwrap_or_else(|| "imaccess".to_owned());
    let here = env::current_dir().unwrap_or_default();
    let shorter = Path::new(&called).strip_prefix(&here).ok().and_then(Path::to_str);
    shorter.map_or_else(|| called.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::example;
    use super::*;

    #[test]
    fn usual_addresses_need_no_flags_and_others_are_given() {
        let mut view = View::new(
            &example(1, Vec::new()).unwrap(),
            Path::new("/d"),
            Path::new("/d/businesses.yaml"),
        );
        let usual = Path::new(".imaccess");
        let commands_now = commands(&view, usual, "target/release/imaccess");
        assert!(commands_now[0].starts_with("target/release/imaccess call --business echo --data hello  #"));
        assert_eq!(
            commands_now[2],
            "target/release/imaccess push --device alice --data hi"
        );
        let rooms = |commands: &[String]| {
            commands
                .iter()
                .filter(|line| line.contains("--room lobby  #"))
                .count()
        };
        assert_eq!(rooms(&commands_now), 2);
        view.push_grpc = "http://127.0.0.1:9".to_owned();
        view.ipconfig = "http://127.0.0.1:8".to_owned();
        let file = Path::new(".imaccess/businesses.yaml");
        let plain = text(&view, usual, file, "imaccess", false);
        assert!(!plain.contains("upgrade"));
        assert!(
            plain.contains("businesses   .imaccess/businesses.yaml"),
            "{plain}"
        );
        let elsewhere = text(&view, Path::new("d"), file, "imaccess", true);
        assert!(elsewhere.contains("\n  imaccess upgrade gateway --dir d  #"));
        assert!(elsewhere.contains("\n  imaccess top --once --dir d  #"));
        let text = text(&view, usual, file, "imaccess", true);
        assert!(text.contains("\n  imaccess upgrade gateway  #"));
        assert!(text.contains(
            "push --device alice --data hi --push http://127.0.0.1:9 --ipconfig http://127.0.0.1:8"
        ));
        assert!(text.contains("\nready\n") && text.ends_with("Ctrl-C ends the cluster."));
        view.businesses[1].id = 7;
        assert_eq!(
            rooms(&commands(&view, usual, "imaccess")),
            0,
            "another business has its name"
        );
    }
}
