//! What one page says: the few figures of it that are shown. Pure.

use std::collections::BTreeMap;

use imaccess_common::gateway_page;
use imaccess_common::gateway_page::exposition::{ParseError, Sample, samples};

/// Counters by a label's value.
pub(super) type Counters = BTreeMap<String, f64>;

/// The figures of one page. A part has only its own; the rest is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) gateway: Option<Gateway>,
    /// By business.
    pub(super) businesses: BTreeMap<String, Business>,
    /// Devices pushed to, by outcome.
    pub(super) pushes: Counters,
    /// Group pushes, by result.
    pub(super) group_pushes: Counters,
    /// Scores by gateway.
    pub(super) scores: BTreeMap<String, Score>,
    /// Devices that one routing replica knows.
    pub(super) routes: Option<f64>,
}

/// A gateway's.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Gateway {
    pub(super) connections: f64,
    pub(super) connection_limit: f64,
    pub(super) sessions: f64,
    pub(super) draining: bool,
    pub(super) received_bytes: f64,
    pub(super) sent_bytes: f64,
    pub(super) sent_frames: f64,
    pub(super) group_deliveries: f64,
    /// By close code.
    pub(super) closed: Counters,
}

/// What a sidecar says of a business.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Business {
    /// By reply code.
    pub(super) answers: Counters,
    /// Answers within so many seconds, by the bound's bits: bounds are positive, so their bits are in order.
    pub(super) within: BTreeMap<u64, f64>,
    pub(super) in_flight: f64,
}

/// What ipconfig makes of a gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Score {
    /// Remaining bandwidth in GB/s.
    pub(super) dynamic: f64,
    /// Remaining connections.
    pub(super) fixed: f64,
}

impl Figures {
    /// Reads a whole page.
    pub(super) fn parse(page: &str) -> Result<Self, ParseError> {
        let mut figures = Self::default();
        for sample in samples(page) {
            figures.take(&sample?);
        }
        Ok(figures)
    }

    fn take(&mut self, sample: &Sample<'_>) {
        let label = |name: &str| {
            sample
                .labels
                .value(name)
                .map(std::borrow::Cow::into_owned)
                .unwrap_or_default()
        };
        let value = sample.value;
        let add = |counters: &mut Counters, key: String| *counters.entry(key).or_default() += value;
        match sample.name {
            gateway_page::CONNECTIONS => self.gateway().connections += value,
            gateway_page::CONNECTION_LIMIT => self.gateway().connection_limit += value,
            gateway_page::SENT_BYTES => self.gateway().sent_bytes += value,
            gateway_page::DRAINING => self.gateway().draining = value != 0.0,
            "imaccess_gateway_sessions" => self.gateway().sessions += value,
            "imaccess_gateway_received_bytes_total" => self.gateway().received_bytes += value,
            "imaccess_gateway_sent_frames_total" => self.gateway().sent_frames += value,
            "imaccess_gateway_group_deliveries_total" => self.gateway().group_deliveries += value,
            "imaccess_gateway_closed_total" => add(&mut self.gateway().closed, label("code")),
            "imaccess_state_uplink_answers_total" => {
                add(&mut self.business(label("business")).answers, label("code"));
            }
            "imaccess_state_uplink_seconds_bucket" => {
                if let Ok(bound) = label("le").parse::<f64>() {
                    let within = &mut self.business(label("business")).within;
                    *within.entry(bound.to_bits()).or_default() += value;
                }
            }
            "imaccess_state_requests_in_flight" => self.business(label("business")).in_flight += value,
            "imaccess_routing_pushes_total" => add(&mut self.pushes, label("outcome")),
            "imaccess_routing_group_pushes_total" => add(&mut self.group_pushes, label("result")),
            "imaccess_routing_routes" => *self.routes.get_or_insert(0.0) += value,
            "imaccess_ipconfig_score" => {
                let score = self.scores.entry(label("gateway")).or_default();
                match label("kind").as_str() {
                    "dynamic" => score.dynamic = value,
                    "static" => score.fixed = value,
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn gateway(&mut self) -> &mut Gateway {
        self.gateway.get_or_insert_default()
    }

    fn business(&mut self, name: String) -> &mut Business {
        self.businesses.entry(name).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_all_parts_are_found_and_labels_that_are_not_shown_are_added_up() {
        let page = "\
# TYPE imaccess_gateway_connections gauge
imaccess_gateway_connections 15
imaccess_gateway_connection_limit 100
imaccess_gateway_sessions 14
imaccess_gateway_draining 1
imaccess_gateway_received_bytes_total 1e3
imaccess_gateway_sent_bytes_total 2e3
imaccess_gateway_sent_frames_total 30
imaccess_gateway_group_deliveries_total 20
imaccess_gateway_closed_total{code=\"kicked\"} 2
imaccess_state_uplink_answers_total{business=\"echo\",code=\"ok\"} 9
imaccess_state_uplink_seconds_bucket{business=\"echo\",le=\"0.001\"} 4
imaccess_state_uplink_seconds_bucket{business=\"echo\",le=\"+Inf\"} 9
imaccess_state_uplink_seconds_sum{business=\"echo\"} 1
imaccess_state_requests_in_flight{worker=\"0\",business=\"echo\"} 2
imaccess_state_requests_in_flight{worker=\"1\",business=\"echo\"} 3
imaccess_routing_pushes_total{outcome=\"written\"} 7
imaccess_routing_group_pushes_total{result=\"sent\"} 6
imaccess_routing_routes 14
imaccess_ipconfig_score{gateway=\"gateway-0\",kind=\"dynamic\"} 1.25
imaccess_ipconfig_score{gateway=\"gateway-0\",kind=\"static\"} 85
imaccess_something_else 1
";
        let figures = Figures::parse(page).unwrap();
        let gateway = figures.gateway.unwrap();
        assert_eq!(
            (gateway.connections, gateway.sessions, gateway.draining),
            (15.0, 14.0, true)
        );
        assert_eq!((gateway.received_bytes, gateway.sent_bytes), (1e3, 2e3));
        assert_eq!((gateway.sent_frames, gateway.group_deliveries), (30.0, 20.0));
        assert_eq!(gateway.closed["kicked"], 2.0);
        let echo = &figures.businesses["echo"];
        assert_eq!((echo.answers["ok"], echo.in_flight), (9.0, 5.0));
        let within: Vec<(f64, f64)> = echo
            .within
            .iter()
            .map(|(bound, count)| (f64::from_bits(*bound), *count))
            .collect();
        assert_eq!(within, [(0.001, 4.0), (f64::INFINITY, 9.0)]);
        assert_eq!(
            (figures.pushes["written"], figures.group_pushes["sent"]),
            (7.0, 6.0)
        );
        assert_eq!(figures.routes, Some(14.0));
        let score = Score {
            dynamic: 1.25,
            fixed: 85.0,
        };
        assert_eq!(figures.scores["gateway-0"], score);
        assert!(Figures::parse("<html>").is_err());
        assert_eq!(Figures::parse("").unwrap(), Figures::default());
    }
}
