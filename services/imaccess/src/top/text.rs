//! The view in tables, for people. Pure.

use super::figures::Counters;
use super::rates::{BusinessView, GatewayView, View};
use crate::columns;
use crate::terminal::on_one_line;

/// Where nothing is known.
const NOTHING: &str = "–";

/// All lines.
pub(super) fn lines(view: &View) -> Vec<String> {
    let mut lines = vec![heading(view), String::new()];
    lines.extend(gateways(&view.gateways));
    lines.push(String::new());
    lines.extend(businesses(&view.businesses));
    lines.push(String::new());
    lines.push(counters("closes/s", &view.closes_per_s));
    lines.push(counters("pushes/s", &view.pushes_per_s));
    lines.push(counters("group pushes/s", &view.group_pushes_per_s));
    if !view.unread.is_empty() {
        lines.push(String::new());
        let unread = view.unread.iter();
        lines.extend(
            unread.map(|(name, why)| format!("can't be read: {name}: {}", on_one_line(why.as_bytes()))),
        );
    }
    lines
}

fn heading(view: &View) -> String {
    let sum = |of: fn(&GatewayView) -> Option<f64>| view.gateways.iter().filter_map(of).sum::<f64>();
    format!(
        "{} gateway(s)   {} connections   {} sessions   {} devices online   {} in   {} out",
        view.gateways.len(),
        whole(sum(|gateway| gateway.connections)),
        whole(sum(|gateway| gateway.sessions)),
        view.devices_online.map_or_else(|| NOTHING.to_owned(), whole),
        bytes(sum(|gateway| gateway.in_bytes_per_s)),
        bytes(sum(|gateway| gateway.out_bytes_per_s)),
    )
}

fn gateways(gateways: &[GatewayView]) -> Vec<String> {
    let heading = [
        "GATEWAY",
        "STATE",
        " SCORE",
        " CONNS",
        " SESSIONS",
        " IN",
        " OUT",
        " FRAMES/s",
        " GROUP/s",
    ];
    let known =
        |value: Option<f64>, shown: fn(f64) -> String| value.map_or_else(|| NOTHING.to_owned(), shown);
    let row = |gateway: &GatewayView| {
        vec![
            on_one_line(gateway.name.as_bytes()),
            gateway.state.clone().unwrap_or_else(|| NOTHING.to_owned()),
            match (gateway.score_dynamic, gateway.score_static) {
                (Some(dynamic), Some(fixed)) => format!("{dynamic:.2}/{}", whole(fixed)),
                _ => NOTHING.to_owned(),
            },
            known(gateway.connections, whole),
            known(gateway.sessions, whole),
            known(gateway.in_bytes_per_s, bytes),
            known(gateway.out_bytes_per_s, bytes),
            known(gateway.frames_per_s, rate),
            known(gateway.group_deliveries_per_s, rate),
        ]
    };
    table(&heading, gateways.iter().map(row))
}

fn businesses(businesses: &[BusinessView]) -> Vec<String> {
    let heading = [
        "BUSINESS",
        " REQUESTS/s",
        " P50",
        " P99",
        " IN FLIGHT",
        "OTHER THAN OK, /s",
    ];
    let row = |business: &BusinessView| {
        vec![
            on_one_line(business.name.as_bytes()),
            rate(business.requests_per_s),
            business.p50_s.map_or_else(|| NOTHING.to_owned(), time),
            business.p99_s.map_or_else(|| NOTHING.to_owned(), time),
            whole(business.in_flight),
            listed(&business.failures_per_s),
        ]
    };
    table(&heading, businesses.iter().map(row))
}

fn table(heading: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    let mut table = vec![heading.iter().map(|cell| (*cell).to_owned()).collect()];
    table.extend(rows);
    columns::lines(&table)
}

fn counters(what: &str, counters: &Counters) -> String {
    let listed = listed(counters);
    let listed = if listed.is_empty() { "none" } else { &listed };
    format!("{what:<15} {listed}")
}

/// The greatest first; what stands still isn't named.
fn listed(counters: &Counters) -> String {
    let mut moving: Vec<(&String, f64)> = counters
        .iter()
        .map(|(name, value)| (name, *value))
        .filter(|(_, value)| *value > 0.0)
        .collect();
    moving.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let words = moving
        .iter()
        .map(|(name, value)| format!("{} {}", on_one_line(name.as_bytes()), rate(*value)));
    words.collect::<Vec<_>>().join("   ")
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a figure beyond the range is shown as its end"
)]
fn whole(value: f64) -> String {
    columns::grouped(value.round() as u64)
}

/// A rate: with a decimal while it is small.
fn rate(value: f64) -> String {
    if value > 0.0 && value < 10.0 {
        format!("{value:.1}")
    } else {
        whole(value)
    }
}

/// Bytes per second.
fn bytes(value: f64) -> String {
    let units = ["B/s", "kB/s", "MB/s", "GB/s"];
    let (mut value, mut unit) = (value, 0);
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1_000.0;
        unit += 1;
    }
    let number = if unit == 0 { whole(value) } else { rate(value) };
    format!("{number} {}", units[unit])
}

/// Seconds, in three digits or less.
fn time(seconds: f64) -> String {
    let (value, unit) = if seconds < 0.001 {
        (seconds * 1e6, "µs")
    } else if seconds < 1.0 {
        (seconds * 1e3, "ms")
    } else {
        (seconds, "s")
    };
    format!("{} {unit}", rate(value))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn view() -> View {
        let gateway = |name: &str, known: bool| GatewayView {
            name: name.to_owned(),
            state: known.then(|| "listed".to_owned()),
            score_dynamic: known.then_some(1.25),
            score_static: Some(49_988.0),
            connections: Some(1_200.0),
            connection_limit: Some(50_000.0),
            sessions: Some(1_199.0),
            in_bytes_per_s: known.then_some(1_260_000.0),
            out_bytes_per_s: Some(999_700.0),
            frames_per_s: known.then_some(12_345.6),
            group_deliveries_per_s: Some(0.0),
        };
        View {
            unix_ms: 0,
            gateways: vec![gateway("gateway-0", true), gateway("gateway-10", false)],
            businesses: vec![BusinessView {
                name: "echo".to_owned(),
                requests_per_s: 1_000.4,
                failures_per_s: Counters::from([("retry".to_owned(), 2.5)]),
                p50_s: Some(0.000_42),
                p99_s: Some(0.0316),
                in_flight: 3.0,
            }],
            closes_per_s: Counters::from([("kicked".to_owned(), 0.5), ("client_left".to_owned(), 20.0)]),
            pushes_per_s: Counters::from([("written".to_owned(), 0.0)]),
            group_pushes_per_s: Counters::new(),
            devices_online: Some(2_398.0),
            unread: BTreeMap::from([("routing-1".to_owned(), "refused".to_owned())]),
        }
    }

    #[test]
    fn a_view_is_drawn_in_columns() {
        let expected = "\
2 gateway(s)   2,400 connections   2,398 sessions   2,398 devices online   1.3 MB/s in   2.0 MB/s out

GATEWAY     STATE         SCORE  CONNS  SESSIONS        IN       OUT  FRAMES/s  GROUP/s
gateway-0   listed  1.25/49,988  1,200     1,199  1.3 MB/s  1.0 MB/s    12,346        0
gateway-10  –                 –  1,200     1,199         –  1.0 MB/s         –        0

BUSINESS  REQUESTS/s     P50    P99  IN FLIGHT  OTHER THAN OK, /s
echo           1,000  420 µs  32 ms          3  retry 2.5

closes/s        client_left 20   kicked 0.5
pushes/s        none
group pushes/s  none

can't be read: routing-1: refused";
        let drawn = lines(&view());
        assert_eq!(drawn.join("\n"), expected, "\n{}", drawn.join("\n"));
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(
            [0.0, 0.04, 9.94, 10.4, 1e6].map(rate),
            ["0", "0.0", "9.9", "10", "1,000,000"]
        );
        assert_eq!(
            [0.0, 999.0, 999.7, 2.5e6, 3e9, 4e12].map(bytes),
            [
                "0 B/s",
                "999 B/s",
                "1.0 kB/s",
                "2.5 MB/s",
                "3.0 GB/s",
                "4,000 GB/s"
            ]
        );
        assert_eq!(
            [0.000_001, 0.002_5, 0.25, 12.0].map(time),
            ["1.0 µs", "2.5 ms", "250 ms", "12 s"]
        );
    }
}
