use std::io::Write as _;
use std::time::Duration;

use serde::Deserialize;

use super::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sample {
    name: String,
    listen: Listen,
    #[serde(with = "duration")]
    timeout: Duration,
    limit: ByteSize,
    key: Option<PathBuf>,
    targets: Vec<Listen>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Listen {
    tcp: String,
    port: u16,
}

impl Default for Sample {
    fn default() -> Sample {
        Sample {
            name: "default".to_owned(),
            listen: Listen {
                tcp: "127.0.0.1:1".to_owned(),
                port: 1,
            },
            timeout: Duration::from_secs(5),
            limit: ByteSize(65_536),
            key: None,
            targets: Vec::new(),
        }
    }
}

fn from(file: &str, environment: &[(&str, &str)], sets: &[&str]) -> Result<Sample, String> {
    let mut path = tempfile::NamedTempFile::new().unwrap();
    path.write_all(file.as_bytes()).unwrap();
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    load_from(Some(path.path()), "IMACCESS_TEST", environment, &sets).map_err(|error| {
        error
            .to_string()
            .replace(&path.path().display().to_string(), "FILE")
    })
}

#[test]
fn without_anything_there_are_the_defaults() {
    assert_eq!(
        load::<Sample>(None, "IMACCESS_TEST_UNUSED", &[]).unwrap(),
        Sample::default()
    );
    assert_eq!(from("", &[], &[]).unwrap(), Sample::default());
    assert_eq!(from("# nothing\n", &[], &[]).unwrap(), Sample::default());
}

#[test]
fn later_layers_win_and_keep_what_they_do_not_name() {
    let found = from(
        "listen: {port: 2}\ntimeout: 250ms\nlimit: 1MB\ntargets: [{tcp: a}, {tcp: b}]",
        &[
            ("IMACCESS_TEST__LISTEN__PORT", "3"),
            ("IMACCESS_TEST__KEY", "/k.pem"),
            ("IMACCESS_TEST__Timeout", "7s"),
            ("IMACCESS_TESTING__LISTEN__PORT", "99"),
            ("IMACCESS_LOG", "debug"),
        ],
        &["listen.port=4", "name=x=y", "targets.1.port=9"],
    );
    let expected = Sample {
        name: "x=y".to_owned(),
        listen: Listen {
            tcp: "127.0.0.1:1".to_owned(),
            port: 4,
        },
        timeout: Duration::from_secs(7),
        limit: ByteSize(1_000_000),
        key: Some("/k.pem".into()),
        targets: vec![
            Listen {
                tcp: "a".to_owned(),
                port: 0,
            },
            Listen {
                tcp: "b".to_owned(),
                port: 9,
            },
        ],
    };
    assert_eq!(found.unwrap(), expected);
    let replaced = from("targets: [{tcp: a}]", &[], &["targets=[]", "listen={tcp: z}"]).unwrap();
    assert_eq!(
        (
            replaced.targets.len(),
            replaced.listen.tcp.as_str(),
            replaced.listen.port
        ),
        (0, "z", 1)
    );
}

#[test]
fn errors_name_the_layer_the_key_and_the_fault() {
    type Case = (
        &'static str,
        &'static [(&'static str, &'static str)],
        &'static [&'static str],
        &'static [&'static str],
    );
    let table: [Case; 10] = [
        ("listn: {}", &[], &[], &["FILE", "`listn`", "unknown field"]),
        (
            "listen: {tpc: x}",
            &[],
            &[],
            &["FILE", "listen.tpc", "unknown field"],
        ),
        ("timeout: 5", &[], &[], &["FILE", "timeout", "unit"]),
        (
            "listen: {port: 70000}",
            &[],
            &[],
            &["FILE", "listen.port", "70000"],
        ),
        ("a: [", &[], &[], &["FILE", "no valid YAML"]),
        ("- 1", &[], &[], &["FILE", "key: value"]),
        (
            "",
            &[("IMACCESS_TEST__LIMIT", "9XB")],
            &[],
            &["IMACCESS_TEST__LIMIT", "`limit`", "9XB"],
        ),
        (
            "",
            &[],
            &["listen.port"],
            &["--set listen.port", "key.path=value"],
        ),
        (
            "",
            &[],
            &["name.deeper=1"],
            &["--set name.deeper=1", "no place for `deeper`"],
        ),
        (
            "",
            &[],
            &["listen.prot=1"],
            &["--set listen.prot=1", "listen.prot", "unknown field"],
        ),
    ];
    for (file, environment, sets, expected) in table {
        let error = from(file, environment, sets).unwrap_err();
        for part in expected {
            assert!(error.contains(part), "{error:?} should have {part:?}");
        }
    }
    let missing = load::<Sample>(Some(Path::new("/nowhere/x.yaml")), "IMACCESS_TEST", &[]).unwrap_err();
    assert!(missing.to_string().contains("/nowhere/x.yaml"), "{missing}");
}
