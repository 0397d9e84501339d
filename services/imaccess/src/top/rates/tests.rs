//! Rounds of pages, and what is shown of the time between them.

use super::*;

/// A round at so many milliseconds, of pages by name.
fn round(ms: u64, pages: &[(&str, &str)]) -> Round {
    let read = |(name, page): &(&str, &str)| {
        let reading = Reading::Read {
            at: Duration::from_millis(ms),
            figures: Box::new(Figures::parse(page).unwrap()),
        };
        ((*name).to_owned(), reading)
    };
    Round {
        unix_ms: ms,
        pages: pages.iter().map(read).collect(),
        standings: BTreeMap::new(),
    }
}

fn gateway(connections: u32, sent: u32, kicked: u32) -> String {
    format!(
        "imaccess_gateway_connections {connections}\nimaccess_gateway_connection_limit 100\n\
         imaccess_gateway_sessions {connections}\nimaccess_gateway_sent_bytes_total {sent}\n\
         imaccess_gateway_closed_total{{code=\"kicked\"}} {kicked}\n"
    )
}

#[test]
fn rates_are_by_the_time_between_the_readings_of_each_page() {
    let before = round(1_000, &[("gateway-0", &gateway(5, 1_000, 1))]);
    let now = round(3_000, &[("gateway-0", &gateway(7, 5_000, 2))]);
    let view = between(&before, &now);
    let row = &view.gateways[0];
    assert_eq!((row.connections, row.out_bytes_per_s), (Some(7.0), Some(2_000.0)));
    assert_eq!(view.closes_per_s["kicked"], 0.5);
    assert_eq!(view.unix_ms, 3_000);
}

#[test]
fn a_process_that_began_anew_counts_from_nothing_and_a_new_page_has_no_rate() {
    let before = round(0, &[("gateway-0", &gateway(5, 1_000, 9))]);
    let now = round(
        1_000,
        &[
            ("gateway-0", &gateway(5, 300, 1)),
            ("gateway-1", &gateway(1, 50, 7)),
        ],
    );
    let view = between(&before, &now);
    assert_eq!(view.gateways[0].out_bytes_per_s, Some(300.0));
    assert_eq!(
        (view.gateways[1].out_bytes_per_s, view.gateways[1].connections),
        (None, Some(1.0))
    );
    assert_eq!(
        view.closes_per_s["kicked"], 1.0,
        "nothing is known of the second's"
    );
    let again = between(&now, &now);
    assert_eq!(again.gateways[0].out_bytes_per_s, None, "no time has gone by");
}

#[test]
fn businesses_are_summed_over_sidecars() {
    let sidecar = |ok: u32, late: u32, fast: u32| {
        format!(
            "imaccess_state_uplink_answers_total{{business=\"echo\",code=\"ok\"}} {ok}\n\
             imaccess_state_uplink_answers_total{{business=\"echo\",code=\"deadline_exceeded\"}} {late}\n\
             imaccess_state_uplink_seconds_bucket{{business=\"echo\",le=\"0.01\"}} {fast}\n\
             imaccess_state_uplink_seconds_bucket{{business=\"echo\",le=\"0.1\"}} {ok}\n\
             imaccess_state_uplink_seconds_bucket{{business=\"echo\",le=\"+Inf\"}} {ok}\n\
             imaccess_state_requests_in_flight{{worker=\"0\",business=\"echo\"}} 2\n"
        )
    };
    let before = round(
        0,
        &[("state-0", &sidecar(0, 0, 0)), ("state-1", &sidecar(10, 5, 10))],
    );
    let now = round(
        2_000,
        &[("state-0", &sidecar(60, 0, 50)), ("state-1", &sidecar(50, 7, 50))],
    );
    let view = between(&before, &now);
    let echo = &view.businesses[0];
    assert_eq!(
        (echo.name.as_str(), echo.requests_per_s, echo.in_flight),
        ("echo", 51.0, 4.0)
    );
    assert_eq!(
        echo.failures_per_s,
        Counters::from([("deadline_exceeded".to_owned(), 1.0)])
    );
    // 100 answers, 90 of them within 10 ms: the 99th is nine tenths of the way to 100 ms.
    assert!((echo.p99_s.unwrap() - 0.091).abs() < 1e-9, "{echo:?}");
    assert!(
        (echo.p50_s.unwrap() - 0.01 * 50.0 / 90.0).abs() < 1e-9,
        "{echo:?}"
    );
}

#[test]
fn quantiles_know_their_limits() {
    assert_eq!(quantile(&[], 0.5), None);
    assert_eq!(quantile(&[(1.0, 0.0), (f64::INFINITY, 0.0)], 0.5), None);
    assert_eq!(
        quantile(&[(1.0, 0.0), (2.0, 0.0), (f64::INFINITY, 3.0)], 0.5),
        Some(2.0)
    );
    assert_eq!(
        quantile(&[(1.0, 0.0), (3.0, 4.0), (f64::INFINITY, 4.0)], 0.5),
        Some(2.0)
    );
}

#[test]
fn scores_and_standings_meet_the_gateways_by_name() {
    let scores = "imaccess_ipconfig_score{gateway=\"gateway-0\",kind=\"dynamic\"} 1.25\n\
                  imaccess_ipconfig_score{gateway=\"gateway-0\",kind=\"static\"} 93\n\
                  imaccess_ipconfig_score{gateway=\"elsewhere\",kind=\"static\"} 8\n";
    let mut now = round(0, &[("gateway-0", &gateway(7, 0, 0)), ("ipconfig", scores)]);
    now.standings = BTreeMap::from([("gateway-0".to_owned(), "listed".to_owned())]);
    let fault = Reading::Failed("refused".to_owned());
    now.pages.insert("routing-0".to_owned(), fault);
    let view = between(&Round::default(), &now);
    let names: Vec<&str> = view.gateways.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["elsewhere", "gateway-0"]);
    assert_eq!(view.gateways[0].connections, None);
    assert_eq!(view.gateways[1].score_dynamic, Some(1.25));
    assert_eq!(view.gateways[1].state.as_deref(), Some("listed"));
    assert_eq!(view.unread["routing-0"], "refused");
    assert_eq!(now.nothing_read(), None);
    now.pages.retain(|name, _| name == "routing-0");
    assert_eq!(now.nothing_read().unwrap(), "routing-0: refused");
}
