//! What the HTTP API answers, read into figures by gateway. Pure.

use std::collections::HashMap;
use std::time::Duration;

use imaccess_common::gateway_page::GatewayPage;
use serde::Deserialize;

use super::query::FIGURE;
use crate::reading::{ReadMeans, Reading, Unread};

/// The figures' names, as the query tells them apart; the order of [`Figures`].
pub(super) const FIGURES: [&str; 7] = [
    "age",
    "rate",
    "mean_connections",
    "connections",
    "connection_limit",
    "bandwidth",
    "draining",
];
const AGE: usize = 0;
const RATE: usize = 1;
const MEAN_CONNECTIONS: usize = 2;
const CONNECTIONS: usize = 3;
const CONNECTION_LIMIT: usize = 4;
const BANDWIDTH: usize = 5;
const DRAINING: usize = 6;

/// Why an answer can't be used.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum AnswerError {
    /// The server says that it can't answer.
    #[error("Prometheus says: {0}")]
    Refused(String),
    /// It isn't an answer of the API.
    #[error("not an answer of Prometheus's API: {0}")]
    Malformed(String),
}

/// What an answer says of one gateway.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Figures([Option<f64>; 7]);

#[derive(Deserialize)]
struct Body {
    status: String,
    #[serde(default)]
    error: String,
    data: Option<Data>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Sample>),
}

#[derive(Deserialize)]
struct Sample {
    metric: HashMap<String, String>,
    value: (f64, String),
}

/// Reads an answer. Samples without the pod label or with a figure that wasn't asked for are skipped; what is
/// missing or no number is seen where a gateway is judged, not here: it is one gateway's, not the answer's.
pub(super) fn parse(body: &[u8], pod_label: &str) -> Result<HashMap<String, Figures>, AnswerError> {
    let malformed = |fault: serde_json::Error| AnswerError::Malformed(fault.to_string());
    let body: Body = serde_json::from_slice(body).map_err(malformed)?;
    if body.status != "success" {
        return Err(AnswerError::Refused(body.error));
    }
    let Some(Data::Vector(samples)) = body.data else {
        return Err(AnswerError::Malformed("there is no data".to_owned()));
    };
    let mut gateways: HashMap<String, Figures> = HashMap::new();
    for mut sample in samples {
        let figure = sample.metric.get(FIGURE);
        let Some(which) = FIGURES
            .iter()
            .position(|name| figure.is_some_and(|figure| figure == name))
        else {
            continue;
        };
        let Some(pod) = sample.metric.remove(pod_label).filter(|pod| !pod.is_empty()) else {
            continue;
        };
        let value = sample.value.1.parse().unwrap_or(f64::NAN);
        gateways.entry(pod).or_default().0[which] = Some(value);
    }
    Ok(gateways)
}

impl Figures {
    /// The reading that they make, if they are younger than `fresh_for`.
    pub(super) fn reading(&self, fresh_for: Duration) -> Result<Reading, Unread> {
        let quantity = |which: usize| match self.0[which] {
            Some(value) if value.is_finite() && value >= 0.0 => Ok(value),
            _ => Err(Unread::Malformed(FIGURES[which])),
        };
        // Rates and means reach back: of a pod that isn't scraped any more they are all there is.
        let age = self.0[AGE].ok_or(Unread::Absent)?.max(0.0);
        let age = Duration::try_from_secs_f64(age).map_err(|_| Unread::Malformed(FIGURES[AGE]))?;
        if age >= fresh_for {
            return Err(Unread::Stale(age));
        }
        let page = GatewayPage {
            connections: quantity(CONNECTIONS)?,
            connection_limit: quantity(CONNECTION_LIMIT)?,
            sent_bytes: 0.0,
            bandwidth: quantity(BANDWIDTH)?,
            draining: self.0[DRAINING].is_some_and(|value| value != 0.0),
        };
        // With a single sample there is no rate yet.
        let rate = self.0[RATE].map_or(Ok(0.0), |_| quantity(RATE))?;
        let connections =
            self.0[MEAN_CONNECTIONS].map_or(Ok(page.connections), |_| quantity(MEAN_CONNECTIONS))?;
        Ok(Reading {
            page,
            age,
            means: Some(ReadMeans { connections, rate }),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const FRESH: Duration = Duration::from_secs(3);

    fn sample(pod: &str, figure: &str, value: &str) -> Value {
        json!({ "metric": { "pod": pod, FIGURE: figure }, "value": [1_700_000_000.123, value] })
    }

    /// All of a pod's figures, with some changed or taken away.
    fn samples(pod: &str, changes: &[(&str, Option<&str>)]) -> Vec<Value> {
        let values = ["0.5", "2e7", "110", "120", "1000", "1e9", "0"];
        let all = FIGURES.iter().zip(values).filter_map(|(figure, value)| {
            let change = changes.iter().find(|(changed, _)| changed == figure);
            let value = change.map_or(Some(value), |(_, value)| *value)?;
            Some(sample(pod, figure, value))
        });
        all.collect()
    }

    fn answer(samples: &[Value]) -> Vec<u8> {
        let data = json!({ "resultType": "vector", "result": samples });
        json!({ "status": "success", "data": data, "warnings": ["one store is away"] })
            .to_string()
            .into_bytes()
    }

    fn reading(changes: &[(&str, Option<&str>)]) -> Result<Reading, Unread> {
        parse(&answer(&samples("a", changes)), "pod").unwrap()["a"].reading(FRESH)
    }

    #[test]
    fn an_answer_reads_as_figures_by_pod() {
        let both = [samples("a", &[]), samples("b", &[("draining", Some("1"))])].concat();
        let found = parse(&answer(&both), "pod").unwrap();
        let expected = Reading {
            page: GatewayPage {
                connections: 120.0,
                connection_limit: 1_000.0,
                sent_bytes: 0.0,
                bandwidth: 1e9,
                draining: false,
            },
            age: Duration::from_millis(500),
            means: Some(ReadMeans {
                connections: 110.0,
                rate: 2e7,
            }),
        };
        assert_eq!(found["a"].reading(FRESH).unwrap(), expected);
        assert!(found["b"].reading(FRESH).unwrap().page.draining);
        assert_eq!(found.len(), 2);
        assert!(parse(&answer(&[]), "pod").unwrap().is_empty());
    }

    #[test]
    fn what_is_missing_or_no_quantity_is_that_gateways_fault() {
        let means = |changes| reading(changes).unwrap().means.unwrap();
        assert_eq!(means(&[("rate", None)]).rate, 0.0, "young");
        assert_eq!(means(&[("mean_connections", None)]).connections, 120.0);
        assert!(!reading(&[("draining", None)]).unwrap().page.draining);
        assert!(matches!(reading(&[("age", None)]), Err(Unread::Absent)));
        assert!(matches!(reading(&[("age", Some("3"))]), Err(Unread::Stale(age)) if age == FRESH));
        assert_eq!(reading(&[("age", Some("-0.01"))]).unwrap().age, Duration::ZERO);
        assert!(matches!(
            reading(&[("age", Some("+Inf"))]),
            Err(Unread::Malformed("age"))
        ));
        for figure in ["connections", "connection_limit", "bandwidth"] {
            let fault = reading(&[(figure, None)]).unwrap_err();
            assert!(matches!(fault, Unread::Malformed(found) if found == figure));
        }
        for figure in [
            "connections",
            "connection_limit",
            "bandwidth",
            "rate",
            "mean_connections",
        ] {
            for value in ["NaN", "+Inf", "-Inf", "-1", "x", ""] {
                let fault = reading(&[(figure, Some(value))]).unwrap_err();
                assert!(
                    matches!(fault, Unread::Malformed(found) if found == figure),
                    "{fault}"
                );
            }
        }
    }

    #[test]
    fn samples_of_nobody_are_skipped() {
        let strange = [
            json!({ "metric": {}, "value": [1.0, "1"] }),
            json!({ "metric": { "pod": "x" }, "value": [1.0, "1"] }),
            json!({ "metric": { FIGURE: "age" }, "value": [1.0, "1"] }),
            sample("", "age", "1"),
            sample("x", "more", "1"),
        ];
        assert!(parse(&answer(&strange), "pod").unwrap().is_empty());
        let other_label = json!({ "metric": { "gw": "a", FIGURE: "age" }, "value": [1.0, "1"] });
        assert_eq!(parse(&answer(&[other_label]), "gw").unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let refusal = br#"{"status": "error", "errorType": "bad_data", "error": "parse error"}"#;
        assert_eq!(
            parse(refusal, "pod"),
            Err(AnswerError::Refused("parse error".to_owned()))
        );
        let garbage = [
            "",
            "<html>",
            "[]",
            r#"{"status": "success"}"#,
            r#"{"status": "success", "data": {"resultType": "matrix", "result": []}}"#,
            r#"{"status": "success", "data": {"resultType": "scalar", "result": [1, "1"]}}"#,
            r#"{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}}]}}"#,
            r#"{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1]}]}}"#,
        ];
        for text in garbage {
            let fault = parse(text.as_bytes(), "pod");
            assert!(
                matches!(fault, Err(AnswerError::Malformed(_))),
                "{text}: {fault:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(cut in 0..600_usize, at in 0..600_usize, byte: u8) {
            let mut body = answer(&samples("a", &[]));
            body.truncate(body.len().saturating_sub(cut));
            if let Some(place) = body.get_mut(at) {
                *place = byte;
            }
            if let Ok(found) = parse(&body, "pod") {
                for figures in found.values() {
                    let _ = figures.reading(FRESH);
                }
            }
        }
    }
}
