//! The document as a page: made of it once, with nothing that has to be loaded from anywhere.

use std::fmt::Write;
use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::document::{DOCUMENT, resolved};

static PAGE: LazyLock<String> = LazyLock::new(page);

/// Nothing may be loaded or run; the page's own style is all it has.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

const STYLE: &str = "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222;background:#fff}\
code,pre{font:14px/1.4 monospace;background:#f4f4f4}pre{padding:.6em;overflow:auto}code{padding:0 .2em}\
table{border-collapse:collapse;width:100%;margin:.5em 0}td,th{border:1px solid #ccc;padding:.3em .5em;text-align:left;\
vertical-align:top}h2{margin-top:2.5em;border-top:1px solid #ccc;padding-top:1em}h4{margin-bottom:.2em}.m{font-weight:bold}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}code,pre{background:#2a2a2a}a{color:#8cf}}";

pub(super) fn response() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, PAGE.as_str()).into_response()
}

fn page() -> String {
    let document = &*DOCUMENT;
    let title = escaped(text(&document["info"]["title"]));
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style></head><body><h1>{title}</h1>"
    );
    paragraphs(&mut page, text(&document["info"]["description"]));
    page.push_str("<p>For programs: <a href=\"/openapi.json\">openapi.json</a></p><ul>");
    for (path, method, operation) in operations() {
        let (id, summary) = (
            text(&operation["operationId"]),
            escaped(text(&operation["summary"])),
        );
        line(
            &mut page,
            format_args!(
                "<li><a href=\"#{id}\">{summary}</a>: <code>{} {}</code></li>",
                method.to_uppercase(),
                escaped(path)
            ),
        );
    }
    page.push_str("</ul>");
    for (path, method, operation) in operations() {
        section(&mut page, path, method, operation);
    }
    page.push_str("<h2>Who may call</h2>");
    for (name, scheme) in members(&document["components"]["securitySchemes"]) {
        line(&mut page, format_args!("<h4>{}</h4>", escaped(name)));
        paragraphs(&mut page, text(&scheme["description"]));
    }
    page.push_str("</body></html>");
    page
}

/// Path, method and operation of each, in the order of the document's tags.
fn operations() -> Vec<(&'static str, &'static str, &'static Value)> {
    let of_path = |(path, item): (&'static str, &'static Value)| {
        let operations = members(item).filter(|(name, _)| *name != "parameters");
        operations.map(move |(method, operation)| (path, method, operation))
    };
    let mut operations: Vec<_> = members(&DOCUMENT["paths"]).flat_map(of_path).collect();
    operations.sort_by_key(|(_, _, operation)| {
        list(&DOCUMENT["tags"]).position(|tag| tag["name"] == operation["tags"][0])
    });
    operations
}

fn section(page: &mut String, path: &'static str, method: &str, operation: &'static Value) {
    let summary = escaped(text(&operation["summary"]));
    let (id, method) = (text(&operation["operationId"]), method.to_uppercase());
    line(
        page,
        format_args!(
            "<h2 id=\"{id}\">{summary}</h2><p class=\"m\"><code>{method} {}</code></p>",
            escaped(path)
        ),
    );
    paragraphs(page, text(&operation["description"]));
    let shared = list(&DOCUMENT["paths"][path]["parameters"]);
    let parameters: Vec<_> = shared
        .chain(list(&operation["parameters"]))
        .map(resolved)
        .collect();
    if !parameters.is_empty() {
        page.push_str("<h4>Parameters</h4><table><tr><th>name<th>in<th>type<th></tr>");
        for parameter in parameters {
            line(
                page,
                format_args!(
                    "<tr><td><code>{}</code><td>{}<td>{}<td>{}</tr>",
                    escaped(text(&parameter["name"])),
                    escaped(text(&parameter["in"])),
                    kind(&parameter["schema"]),
                    escaped(text(&parameter["description"])),
                ),
            );
        }
        page.push_str("</table>");
    }
    let body = &operation["requestBody"]["content"]["application/json"];
    if body.is_object() {
        page.push_str("<h4>Body</h4>");
        object(page, "", resolved(&body["schema"]));
        example(page, body);
    }
    page.push_str("<h4>Answers</h4><table><tr><th>status<th></tr>");
    for (status, answer) in members(&operation["responses"]) {
        let description = escaped(text(&resolved(answer)["description"]));
        line(page, format_args!("<tr><td>{status}<td>{description}</tr>"));
    }
    page.push_str("</table>");
    let answer = &operation["responses"]["200"]["content"]["application/json"];
    if answer["example"].is_object() {
        object(page, "", resolved(&answer["schema"]));
        example(page, answer);
    }
}

/// A table of an object's members, and below it those of the objects in them.
fn object(page: &mut String, within: &str, schema: &'static Value) {
    let required: Vec<&str> = list(&schema["required"]).map(text).collect();
    page.push_str("<table><tr><th>member<th>type<th></tr>");
    let mut inner = Vec::new();
    for (name, member) in members(&schema["properties"]) {
        let target = resolved(member);
        let items = resolved(&target["items"]);
        for (mark, object) in [("", target), ("[]", items)] {
            if object["properties"].is_object() {
                inner.push((format!("{within}{name}{mark}."), object));
            }
        }
        let description = [member, target]
            .map(|schema| text(&schema["description"]))
            .into_iter()
            .find(|description| !description.is_empty());
        let must = if required.contains(&name) { " (always)" } else { "" };
        line(
            page,
            format_args!(
                "<tr><td><code>{}{}</code><td>{}{must}<td>{}</tr>",
                escaped(within),
                escaped(name),
                kind(target),
                escaped(description.unwrap_or_default()),
            ),
        );
    }
    page.push_str("</table>");
    for (within, schema) in inner {
        object(page, &within, schema);
    }
}

/// A schema in a few words.
fn kind(schema: &'static Value) -> String {
    let words: Vec<&str> = list(&schema["enum"]).map(text).collect();
    let kind = text(&schema["type"]);
    if !words.is_empty() {
        return escaped(&words.join(", "));
    }
    match (kind, &schema["minimum"], &schema["maximum"]) {
        ("integer", Value::Number(least), Value::Number(most)) => format!("integer, {least} to {most}"),
        ("array", ..) => format!("list of {}", kind_of_items(schema)),
        _ => escaped(kind),
    }
}

fn kind_of_items(schema: &'static Value) -> String {
    kind(resolved(&schema["items"]))
}

fn example(page: &mut String, media: &Value) {
    if let Ok(shown) = serde_json::to_string_pretty(&media["example"]) {
        line(page, format_args!("<pre>{}</pre>", escaped(&shown)));
    }
}

fn paragraphs(page: &mut String, description: &str) {
    for paragraph in description.split("\n\n").filter(|text| !text.trim().is_empty()) {
        line(page, format_args!("<p>{}</p>", escaped(paragraph)));
    }
}

fn line(page: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string can't fail.
    let _ = page.write_fmt(arguments);
    page.push('\n');
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let members = value.as_object().into_iter().flatten();
    members.map(|(name, member)| (name.as_str(), member))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// As text of a page; what stands between backquotes as code.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut in_code = false;
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '`' => {
                in_code = !in_code;
                safe.push_str(if in_code { "<code>" } else { "</code>" });
            }
            other => safe.push(other),
        }
    }
    if in_code {
        safe.push_str("</code>");
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_operation_and_loads_nothing() {
        let page = page();
        for (path, method, operation) in operations() {
            let heading = format!("{} {path}", method.to_uppercase());
            assert!(page.contains(&heading), "{heading}");
            let id = format!("id=\"{}\"", text(&operation["operationId"]));
            assert!(page.contains(&id), "{id}");
        }
        for member in ["filter.version_from", "results[].outcome", "Idempotency-Key"] {
            assert!(page.contains(member), "{member}");
        }
        for loaded in ["<script", "src=", "url(", "http://", "https://"] {
            assert!(!page.contains(loaded), "{loaded}");
        }
    }

    #[test]
    fn text_stays_text() {
        assert_eq!(escaped("<b> & `x`"), "&lt;b&gt; &amp; <code>x</code>");
        assert_eq!(escaped("`x"), "<code>x</code>");
    }
}
