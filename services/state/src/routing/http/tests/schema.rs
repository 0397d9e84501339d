//! Holds answers against the document: by as much of JSON Schema as the document uses. Any other keyword fails the test, and so
//! does a member that the document doesn't list.

use serde_json::Value;

use crate::routing::http::document::{DOCUMENT, resolved};
use crate::routing::http::testing::{Answer, Ask};

/// Whether the document has this answer to this request.
pub(crate) fn check(ask: &Ask, answer: &Answer) {
    let Some(operation) = operation(ask) else {
        // Of no path or another method: there is no operation, but a problem all the same.
        assert!(
            [404, 405].contains(&answer.status.as_u16()),
            "{ask:?}: {answer:?}"
        );
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        conforms(&answer.json(), problem()).unwrap();
        return;
    };
    let status = answer.status.as_str();
    let documented = resolved(&operation["responses"][status]);
    assert!(
        documented.is_object(),
        "{status} of {ask:?} isn't documented: {answer:?}"
    );
    for (name, header) in documented["headers"].as_object().into_iter().flatten() {
        let header = resolved(header);
        let given = answer.header(name);
        assert!(
            given.is_some() || header["required"] != true,
            "{name} is missing in {answer:?}"
        );
        if let Some(given) = given {
            let given = match header["schema"]["type"].as_str() {
                Some("integer") => serde_json::from_str(given).unwrap(),
                _ => Value::String(given.to_owned()),
            };
            conforms(&given, &header["schema"]).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        }
    }
    let kind = answer.header("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    let media = &documented["content"][kind];
    assert!(media.is_object(), "{kind} of {ask:?} isn't documented");
    if kind.ends_with("json") {
        conforms(&answer.json(), resolved(&media["schema"]))
            .unwrap_or_else(|fault| panic!("{ask:?}: {fault}: {}", answer.json()));
        if kind == "application/problem+json" {
            assert_eq!(answer.json()["status"], answer.status.as_u16());
        }
    }
}

fn problem() -> &'static Value {
    &DOCUMENT["components"]["schemas"]["Problem"]
}

/// The operation that a request is for.
fn operation(ask: &Ask) -> Option<&'static Value> {
    let path = ask.path.split('?').next()?;
    let matches = |template: &str| {
        let (ours, theirs) = (template.split('/'), path.split('/'));
        let fits = |(ours, theirs): (&str, &str)| ours == theirs || ours.starts_with('{');
        template.split('/').count() == path.split('/').count() && ours.zip(theirs).all(fits)
    };
    let paths = DOCUMENT["paths"].as_object()?;
    let (_, item) = paths.iter().find(|(template, _)| matches(template))?;
    item.get(ask.method.to_lowercase())
}

/// Whether `value` is as `schema` has it; what is wrong if it isn't.
pub(crate) fn conforms(value: &Value, schema: &'static Value) -> Result<(), String> {
    let target = resolved(schema);
    let Some(keywords) = target.as_object() else {
        return Err(format!("{schema} is no schema"));
    };
    for (keyword, wanted) in keywords {
        keyword_holds(keyword, wanted, value, target)
            .map_err(|fault| format!("{value} and {keyword}: {wanted}{fault}"))?;
    }
    Ok(())
}

fn keyword_holds(
    keyword: &str,
    wanted: &'static Value,
    value: &Value,
    schema: &'static Value,
) -> Result<(), String> {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let length = value.as_str().map(|text| text.chars().count() as f64);
    let items = value.as_array();
    let holds = match keyword {
        "description" | "default" | "example" | "contentEncoding" => true,
        "type" => match wanted.as_str() {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("integer") => value.is_u64(),
            _ => false,
        },
        "const" => value == wanted,
        "enum" => wanted.as_array().is_some_and(|words| words.contains(value)),
        "minimum" => number(value) >= number(wanted),
        "maximum" => number(value) <= number(wanted),
        "minLength" => length.is_none_or(|length| length >= number(wanted)),
        "maxLength" => length.is_none_or(|length| length <= number(wanted)),
        "minItems" => items.is_none_or(|items| items.len() as f64 >= number(wanted)),
        "maxItems" => items.is_none_or(|items| items.len() as f64 <= number(wanted)),
        "pattern" => follows(
            wanted.as_str().unwrap_or_default(),
            value.as_str().unwrap_or_default(),
        )?,
        "additionalProperties" => wanted == false,
        "required" => {
            let mut names = wanted.as_array().into_iter().flatten().filter_map(Value::as_str);
            names.all(|name| value.get(name).is_some())
        }
        "not" => conforms(value, wanted).is_err(),
        "items" => {
            for item in items.into_iter().flatten() {
                conforms(item, wanted)?;
            }
            true
        }
        "properties" => {
            for (name, member) in value.as_object().into_iter().flatten() {
                let documented = schema["properties"].get(name);
                conforms(member, documented.ok_or_else(|| format!(": {name} isn't there"))?)?;
            }
            true
        }
        _ => return Err(": this keyword isn't known here".to_owned()),
    };
    if holds { Ok(()) } else { Err(String::new()) }
}

/// The document's patterns, one by one: there is no library of regular expressions here.
fn follows(pattern: &str, text: &str) -> Result<bool, String> {
    use crate::routing::http::body::Base64;
    match pattern {
        "^[0-9]{1,20}$" => {
            Ok((1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()))
        }
        "^[!-~]+$" => Ok(!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())),
        _ if pattern.contains("A-Za-z0-9+/") => {
            let quoted = Value::String(text.to_owned());
            Ok(serde_json::from_value::<Base64>(quoted).is_ok())
        }
        _ => Err(": this pattern isn't known here".to_owned()),
    }
}

#[test]
fn what_is_wrong_is_found() {
    let schema = &DOCUMENT["components"]["schemas"]["MemberResults"];
    let good = serde_json::json!({"results": [{"device": "d", "outcome": "done"}]});
    assert_eq!(conforms(&good, schema), Ok(()));
    for bad in [
        serde_json::json!({}),
        serde_json::json!([]),
        serde_json::json!({"results": {}}),
        serde_json::json!({"results": [{"device": "d"}]}),
        serde_json::json!({"results": [{"device": 5, "outcome": "done"}]}),
        serde_json::json!({"results": [{"device": "d", "outcome": "written"}]}),
        serde_json::json!({"results": [], "more": 1}),
    ] {
        assert!(conforms(&bad, schema).is_err(), "{bad}");
    }
    let push = &DOCUMENT["components"]["schemas"]["PushGroup"];
    assert_eq!(conforms(&serde_json::json!({"text": "x"}), push), Ok(()));
    assert!(conforms(&serde_json::json!({"text": "x", "payload": "eA=="}), push).is_err());
}
