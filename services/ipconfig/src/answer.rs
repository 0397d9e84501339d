//! Every answer there will be until the next ranking, written in advance: a query looks one up and copies it.
//!
//! An answer is JSON with the endpoints last, so that the first `k` gateways are a prefix of the text for the most
//! there can be, and a token can be appended.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;

use crate::rank::{Candidate, order_from, rank, spread};
use crate::targets::GatewayTarget;

/// Gateways in an answer when the client doesn't say.
pub(crate) const DEFAULT_K: usize = 5;
/// Gateways in an answer at most.
pub(crate) const MAX_K: usize = 20;
/// How finely the clients of one round are spread over the gateways. At 10,000 clients a second one slot is 156.
const SLOTS: usize = 64;
/// What ends an answer without and before a token.
const END: &[u8] = b"]}";

/// One ranking, ready to be handed out.
#[derive(Debug)]
pub(crate) struct Answers {
    /// Queries answered with this ranking: the slots take turns by it.
    asked: AtomicUsize,
    slots: Vec<Arc<Text>>,
}

/// The answer of a slot.
#[derive(Debug)]
struct Text {
    /// The gateway in the first place.
    first: Arc<GatewayTarget>,
    /// The answer for [`DEFAULT_K`], whole.
    default: Bytes,
    /// The answer for [`MAX_K`], without its end.
    longest: Bytes,
    /// Where in it each gateway's endpoints end.
    ends: Vec<usize>,
}

/// What all answers of a ranking have in common.
#[derive(Debug, Serialize)]
pub(crate) struct Head<'a> {
    /// Rises with each ranking.
    pub(crate) version: u64,
    /// The cluster that answers.
    pub(crate) cluster: &'a str,
    /// For how long a client may use the answer again.
    pub(crate) ttl_s: u32,
    /// How long it should wait when nothing in it worked.
    pub(crate) retry_after_s: u32,
}

#[derive(Serialize)]
struct Endpoint<'a> {
    name: &'a str,
    cluster: &'a str,
    protocol: &'a str,
    host: &'a str,
    port: u16,
    server_name: Option<&'a str>,
}

impl Answers {
    /// Before anything is known: no answer.
    pub(crate) fn none() -> Answers {
        Answers {
            asked: AtomicUsize::new(0),
            slots: Vec::new(),
        }
    }

    /// Ranks `candidates` and writes the answers, for `expected` clients until the next time.
    pub(crate) fn new<'t>(
        head: &Head<'_>,
        candidates: &mut [Candidate],
        expected: u64,
        target: impl Fn(usize) -> &'t Arc<GatewayTarget>,
    ) -> Answers {
        rank(candidates, head.version);
        let mut written: HashMap<usize, Arc<Text>> = HashMap::new();
        let mut write = |first: usize| {
            let order = order_from(candidates, first)
                .take(MAX_K)
                .map(|position| target(candidates[position].index));
            Arc::clone(
                written
                    .entry(first)
                    .or_insert_with(|| Arc::new(Text::new(head, order))),
            )
        };
        let slots = spread(candidates, SLOTS, expected)
            .into_iter()
            .map(&mut write)
            .collect();
        Answers {
            asked: AtomicUsize::new(0),
            slots,
        }
    }

    /// The next answer with `k` gateways; none when no gateway is known.
    pub(crate) fn next(&self, k: usize) -> Option<Bytes> {
        let text = self.next_text()?;
        if k == DEFAULT_K {
            return Some(text.default.clone());
        }
        let gateways = text.prefix(k);
        let mut body = BytesMut::with_capacity(gateways.len() + END.len());
        body.put_slice(gateways);
        body.put_slice(END);
        Some(body.freeze())
    }

    /// The next answer with `k` gateways and a token (which JSON needs no escapes for).
    pub(crate) fn next_with_token(&self, k: usize, token: &str) -> Option<Bytes> {
        let gateways = self.next_text()?.prefix(k);
        let mut body = BytesMut::with_capacity(gateways.len() + token.len() + 16);
        body.put_slice(gateways);
        body.put_slice(b"],\"token\":\"");
        body.put_slice(token.as_bytes());
        body.put_slice(b"\"}");
        Some(body.freeze())
    }

    /// Whether there is anything to answer.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How many clients were sent to each gateway first, summed by slot.
    pub(crate) fn sent(&self) -> impl Iterator<Item = (&str, u64)> {
        let asked = self.asked.load(Ordering::Relaxed) as u64;
        let slots = self.slots.len() as u64;
        self.slots.iter().zip(0..).map(move |(text, slot)| {
            // Slot 0 is asked 1st, (slots + 1)th, …
            (text.first.name.as_str(), (asked + slots - 1 - slot) / slots)
        })
    }

    fn next_text(&self) -> Option<&Text> {
        let turn = self.asked.fetch_add(1, Ordering::Relaxed);
        let slot = turn.checked_rem(self.slots.len())?;
        Some(&self.slots[slot])
    }
}

impl Text {
    fn new<'t>(head: &Head<'_>, gateways: impl Iterator<Item = &'t Arc<GatewayTarget>>) -> Text {
        let mut json = serde_json::to_vec(head).expect("numbers and strings are JSON");
        json.pop();
        json.extend_from_slice(b",\"endpoints\":[");
        let mut ends = Vec::with_capacity(MAX_K);
        let mut first = None;
        for gateway in gateways {
            for endpoint in &gateway.endpoints {
                if json.last() == Some(&b'}') {
                    json.push(b',');
                }
                let endpoint = Endpoint {
                    name: &gateway.name,
                    cluster: head.cluster,
                    protocol: &endpoint.protocol,
                    host: &endpoint.host,
                    port: endpoint.port,
                    server_name: endpoint.server_name.as_deref(),
                };
                serde_json::to_writer(&mut json, &endpoint).expect("numbers and strings are JSON");
            }
            ends.push(json.len());
            first.get_or_insert(gateway);
        }
        let longest = Bytes::from(json);
        let first = Arc::clone(first.expect("a slot has a first gateway"));
        let mut text = Text {
            first,
            default: Bytes::new(),
            longest,
            ends,
        };
        text.default = [text.prefix(DEFAULT_K), END].concat().into();
        text
    }

    fn prefix(&self, k: usize) -> &[u8] {
        let last = k.clamp(1, self.ends.len()) - 1;
        &self.longest[..self.ends[last]]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::targets::EndpointTarget;

    fn targets(count: usize, protocols: &[&str]) -> Vec<Arc<GatewayTarget>> {
        let endpoint = |at: usize, protocol: &&str| EndpointTarget {
            protocol: (*protocol).to_owned(),
            host: format!("10.0.0.{at}"),
            port: 7_000,
            server_name: (*protocol == "tls").then(|| "x.example".to_owned()),
        };
        (0..count)
            .map(|at| {
                let endpoints = protocols.iter().map(|protocol| endpoint(at, protocol)).collect();
                Arc::new(GatewayTarget {
                    name: format!("g{at}"),
                    metrics: "h:1".to_owned(),
                    endpoints,
                    draining: false,
                })
            })
            .collect()
    }

    fn answers(targets: &[Arc<GatewayTarget>], remaining: impl Fn(usize) -> i64) -> Answers {
        let head = Head {
            version: 0,
            cluster: "c\"1",
            ttl_s: 60,
            retry_after_s: 2,
        };
        let mut candidates: Vec<_> = (0..targets.len())
            .map(|index| Candidate {
                index,
                dynamic: 1,
                remaining: remaining(index),
            })
            .collect();
        Answers::new(&head, &mut candidates, 0, |index| &targets[index])
    }

    fn read(body: &Bytes) -> (Value, Vec<String>) {
        let value: Value = serde_json::from_slice(body).unwrap();
        let name = |endpoint: &Value| endpoint["name"].as_str().unwrap().to_owned();
        let names = value["endpoints"].as_array().unwrap().iter().map(name).collect();
        (value, names)
    }

    #[test]
    fn an_answer_has_exactly_the_promised_fields() {
        let targets = targets(1, &["tcp", "tls"]);
        let (value, _) = read(&answers(&targets, |_| 9).next(DEFAULT_K).unwrap());
        let endpoint = |protocol, server_name| {
            serde_json::json!({
                "name": "g0", "cluster": "c\"1", "protocol": protocol, "host": "10.0.0.0", "port": 7000,
                "server_name": server_name,
            })
        };
        let expected = serde_json::json!({
            "version": 0, "cluster": "c\"1", "ttl_s": 60, "retry_after_s": 2,
            "endpoints": [endpoint("tcp", Value::Null), endpoint("tls", Value::from("x.example"))],
        });
        assert_eq!(value, expected);
        let (with_token, _) = read(&answers(&targets, |_| 9).next_with_token(5, "a.b.c").unwrap());
        assert_eq!(with_token["token"], "a.b.c");
        assert_eq!(with_token["endpoints"], expected["endpoints"]);
    }

    #[test]
    fn k_counts_gateways() {
        let targets = targets(30, &["tcp", "ws"]);
        // Far apart, so that the first place is always the same.
        let answers = answers(&targets, |index| 1_000_000 - 1_000 * index as i64);
        for (k, expected) in [(1, 1), (2, 2), (DEFAULT_K, 5), (MAX_K, 20), (99, 20), (0, 1)] {
            let (_, names) = read(&answers.next(k).unwrap());
            let wanted: Vec<_> = (0..expected)
                .flat_map(|at| [format!("g{at}"), format!("g{at}")])
                .collect();
            assert_eq!(names, wanted, "k = {k}");
            assert_eq!(
                read(&answers.next_with_token(k, "t").unwrap()).1,
                wanted,
                "k = {k}"
            );
        }
    }

    #[test]
    fn equals_are_first_equally_often_and_it_is_counted() {
        let targets = targets(4, &["tcp"]);
        let answers = answers(&targets, |_| 1_000);
        let mut firsts: HashMap<String, u64> = HashMap::new();
        let mut seconds: HashMap<String, u64> = HashMap::new();
        for _ in 0..103 {
            let (_, names) = read(&answers.next(DEFAULT_K).unwrap());
            assert_eq!(names.len(), 4);
            *firsts.entry(names[0].clone()).or_default() += 1;
            *seconds.entry(names[1].clone()).or_default() += 1;
        }
        assert!(
            firsts
                .values()
                .chain(seconds.values())
                .all(|count| (25..=26).contains(count)),
            "{firsts:?}"
        );
        let mut counted: HashMap<String, u64> = HashMap::new();
        answers
            .sent()
            .for_each(|(name, count)| *counted.entry(name.to_owned()).or_default() += count);
        assert_eq!(counted, firsts);
    }

    #[test]
    fn without_gateways_there_is_no_answer() {
        assert!(Answers::none().is_empty());
        assert_eq!(Answers::none().next(5), None);
        let nobody = answers(&[], |_| 0);
        assert_eq!(nobody.next_with_token(5, "t"), None);
        assert_eq!(nobody.sent().count(), 0);
    }
}
