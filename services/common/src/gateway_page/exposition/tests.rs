use prometheus::{Encoder, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry, TextEncoder};
use proptest::prelude::*;

use super::*;

fn only(line: &str) -> Sample<'_> {
    let mut all = samples(line);
    let first = all.next().expect("a sample").expect("a good line");
    assert!(all.next().is_none());
    first
}

#[test]
fn every_form_of_a_line() {
    type Case = (
        &'static str,
        &'static str,
        &'static [(&'static str, &'static str)],
        f64,
        Option<i64>,
    );
    let table: [Case; 9] = [
        ("up 1", "up", &[], 1.0, None),
        ("  up\t1.5e3  ", "up", &[], 1500.0, None),
        (
            "a:b_c9 -0.25 1395066363000",
            "a:b_c9",
            &[],
            -0.25,
            Some(1_395_066_363_000),
        ),
        ("m{} 1 -5", "m", &[], 1.0, Some(-5)),
        ("m{a=\"1\",b=\"2\",} 3", "m", &[("a", "1"), ("b", "2")], 3.0, None),
        (
            "m { a = \"1\" , b=\"\" } 3",
            "m",
            &[("a", "1"), ("b", "")],
            3.0,
            None,
        ),
        (
            "m{a=\"x,y=\\\"{z}\\\"\\\\\\n\"} 3",
            "m",
            &[("a", "x,y=\"{z}\"\\\n")],
            3.0,
            None,
        ),
        ("m{le=\"+Inf\"} +Inf", "m", &[("le", "+Inf")], f64::INFINITY, None),
        (
            "m{a=\"häß € #\"}-Inf",
            "m",
            &[("a", "häß € #")],
            f64::NEG_INFINITY,
            None,
        ),
    ];
    for (line, name, labels, value, timestamp_ms) in table {
        let sample = only(line);
        assert_eq!(
            (sample.name, sample.value, sample.timestamp_ms),
            (name, value, timestamp_ms),
            "{line}"
        );
        let found: Vec<_> = sample.labels.iter().collect();
        let found: Vec<_> = found
            .iter()
            .map(|(name, value)| (*name, value.as_ref()))
            .collect();
        assert_eq!(found, labels, "{line}");
    }
    assert!(only("m NaN").value.is_nan());
    assert_eq!(
        only("m{a=\"1\",b=\"2\"} 3").labels.value("b").as_deref(),
        Some("2")
    );
    assert_eq!(only("m{a=\"1\"} 3").labels.value("c"), None);
}

#[test]
fn what_is_no_sample_is_refused_with_its_line() {
    let bad = [
        "{a=\"1\"} 1",
        "9m 1",
        "m",
        "m ",
        "m x",
        "m 1 x",
        "m 1 2 3",
        "m{",
        "m{a} 1",
        "m{a=1} 1",
        "m{a=\"1} 1",
        "m{a=\"1\" b=\"2\"} 1",
        "m{a=\"\\t\"} 1",
        "m{a=\"1\"",
        "m{a=\"1\"}",
        "m{,} 1",
        "m{=\"1\"} 1",
        "m{a:b=\"1\"} 1",
        "m-1",
        "<html>",
        "m{a=\"1\\",
        "m 1\r",
    ];
    for line in bad {
        let page = format!("# a comment\n\nup 1\n{line}\nup 2\n");
        let all: Vec<_> = samples(&page).collect();
        assert_eq!(all.len(), 3, "{line}");
        assert_eq!(all[1].as_ref().unwrap_err().line, 4, "{line}");
        assert!(all[2].is_ok(), "{line}");
    }
}

proptest! {
    #[test]
    fn anything_the_encoder_writes_reads_back(
        rows in prop::collection::btree_map(".{0,12}", prop::num::f64::ANY, 1..8),
        observed in prop::collection::vec(0.0..20.0_f64, 0..20),
    ) {
        let registry = Registry::new();
        let gauges = GaugeVec::new(Opts::new("imaccess_rows", "Two\nlines \\ one."), &["key", "other"]).unwrap();
        registry.register(Box::new(gauges.clone())).unwrap();
        for (key, value) in &rows {
            gauges.with_label_values(&[key.as_str(), "\"\\\n,={}"]).set(*value);
        }
        let times = HistogramVec::new(HistogramOpts::new("imaccess_times_seconds", "Times."), &["key"]).unwrap();
        registry.register(Box::new(times.clone())).unwrap();
        observed.iter().for_each(|value| times.with_label_values(&["k"]).observe(*value));

        let mut page = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        let read: Vec<Sample<'_>> = samples(&page).collect::<Result<_, _>>().unwrap();

        let found: Vec<_> = read.iter().filter(|sample| sample.name == "imaccess_rows").collect();
        prop_assert_eq!(found.len(), rows.len());
        for sample in found {
            let key = sample.labels.value("key").unwrap();
            let expected = rows[key.as_ref()];
            prop_assert!(sample.value == expected || (sample.value.is_nan() && expected.is_nan()));
            let other = sample.labels.value("other");
            prop_assert_eq!(other.as_deref(), Some("\"\\\n,={}"));
        }
        let count = read.iter().find(|sample| sample.name == "imaccess_times_seconds_count");
        prop_assert_eq!(count.map_or(0.0, |sample| sample.value), observed.len() as f64);
    }

    #[test]
    fn any_text_is_survived(page in "(?s).{0,200}") {
        for sample in samples(&page).flatten() {
            sample.labels.iter().for_each(drop);
        }
    }

    #[test]
    fn anything_near_a_page_is_survived(page in "[mN1{}\"\\\\n,= \t#\n.-]{0,60}") {
        for sample in samples(&page).flatten() {
            prop_assert!(!sample.name.is_empty());
            sample.labels.iter().for_each(drop);
        }
    }
}
