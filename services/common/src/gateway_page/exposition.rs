//! A parser of the Prometheus text format (version 0.0.4): text in, samples out, nothing allocated per line.
//!
//! `HELP`, `TYPE` and other comments are skipped. A line is checked whole before its sample is handed out, so label
//! access can't fail later. Quoted metric names (the UTF-8 extension) are not accepted: our pages have none.

use std::borrow::Cow;

/// One line of a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'a> {
    /// The metric's name, for histograms with its suffix.
    pub name: &'a str,
    /// Its labels.
    pub labels: Labels<'a>,
    /// Its value: any float, NaN and the infinities included.
    pub value: f64,
    /// Its time in Unix milliseconds, if the page gives one.
    pub timestamp_ms: Option<i64>,
}

/// The labels of a sample, unescaped when read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Labels<'a> {
    /// What stands between the braces; already checked.
    text: &'a str,
}

/// A line that is no sample.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct ParseError {
    /// The line's number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: &'static str,
}

/// The samples of a page in order; an error for each line that is none.
pub fn samples(page: &str) -> impl Iterator<Item = Result<Sample<'_>, ParseError>> {
    page.split('\n').enumerate().filter_map(|(index, line)| {
        let line = trim_start(line);
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        Some(sample(line).map_err(|fault| ParseError {
            line: index + 1,
            fault,
        }))
    })
}

impl<'a> Labels<'a> {
    /// Name and value of each label, in the page's order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> + use<'a> {
        let mut rest = self.text;
        std::iter::from_fn(move || {
            let (label, after) = label(rest).ok().flatten()?;
            rest = after;
            Some((label.name, unescape(label.raw_value)))
        })
    }

    /// The value of the label `name`.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<Cow<'a, str>> {
        self.iter()
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }
}

fn sample(line: &str) -> Result<Sample<'_>, &'static str> {
    let (name, rest) = split_name(line, true);
    if name.is_empty() {
        return Err("it doesn't begin with a metric name");
    }
    let rest = trim_start(rest);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None if rest.len() == line.len() - name.len() => return Err("no blank after the name"),
        None => (Labels::default(), rest),
    };
    let mut fields = rest.split([' ', '\t']).filter(|field| !field.is_empty());
    let value = fields
        .next()
        .ok_or("no value")?
        .parse()
        .map_err(|_| "the value is no number")?;
    let timestamp_ms = match fields.next() {
        Some(field) => Some(field.parse().map_err(|_| "the timestamp is no whole number")?),
        None => None,
    };
    if fields.next().is_some() {
        return Err("something follows the timestamp");
    }
    Ok(Sample {
        name,
        labels,
        value,
        timestamp_ms,
    })
}

/// Checks the labels up to the closing brace; gives them and what follows.
fn labels(inside: &str) -> Result<(Labels<'_>, &str), &'static str> {
    let mut rest = inside;
    while let Some((_, after)) = label(rest)? {
        rest = after;
    }
    let end = trim_start(rest);
    let after = end.strip_prefix('}').ok_or("the labels don't end with }")?;
    Ok((
        Labels {
            text: &inside[..inside.len() - end.len()],
        },
        after,
    ))
}

struct Label<'a> {
    name: &'a str,
    /// Between the quotes, escapes and all.
    raw_value: &'a str,
}

/// The next label and what follows it and its comma; none before a closing brace or at the end.
fn label(text: &str) -> Result<Option<(Label<'_>, &str)>, &'static str> {
    let text = trim_start(text);
    if text.is_empty() || text.starts_with('}') {
        return Ok(None);
    }
    let (name, rest) = split_name(text, false);
    if name.is_empty() {
        return Err("a label has no name");
    }
    let rest = trim_start(rest)
        .strip_prefix('=')
        .ok_or("no = after a label's name")?;
    let quoted = trim_start(rest)
        .strip_prefix('"')
        .ok_or("a label's value isn't quoted")?;
    let end = closing_quote(quoted)?;
    let rest = trim_start(&quoted[end + 1..]);
    let after = match rest.strip_prefix(',') {
        Some(after) => after,
        None if rest.is_empty() || rest.starts_with('}') => rest,
        None => return Err("no comma between labels"),
    };
    Ok(Some((
        Label {
            name,
            raw_value: &quoted[..end],
        },
        after,
    )))
}

/// Where the quote that ends a label's value stands; `\\`, `\"` and `\n` are the only escapes.
fn closing_quote(quoted: &str) -> Result<usize, &'static str> {
    let bytes = quoted.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return Ok(at),
            b'\\' if matches!(bytes.get(at + 1), Some(b'\\' | b'"' | b'n')) => at += 2,
            b'\\' => return Err("a label's value has an unknown escape"),
            _ => at += 1,
        }
    }
    Err("a label's value doesn't end")
}

fn unescape(raw: &str) -> Cow<'_, str> {
    if !raw.contains('\\') {
        return Cow::Borrowed(raw);
    }
    let mut text = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => text.extend(
                chars
                    .next()
                    .map(|escaped| if escaped == 'n' { '\n' } else { escaped }),
            ),
            plain => text.push(plain),
        }
    }
    Cow::Owned(text)
}

/// Splits the identifier off the front; metric names may have colons, label names may not.
fn split_name(text: &str, colons: bool) -> (&str, &str) {
    let allowed = |index: usize, byte: u8| {
        byte.is_ascii_alphabetic()
            || byte == b'_'
            || (colons && byte == b':')
            || (index > 0 && byte.is_ascii_digit())
    };
    let end = text
        .bytes()
        .enumerate()
        .position(|(index, byte)| !allowed(index, byte))
        .unwrap_or(text.len());
    text.split_at(end)
}

fn trim_start(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

#[cfg(test)]
mod tests;
