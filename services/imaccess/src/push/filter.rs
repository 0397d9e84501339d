//! `--filter`: which devices a broadcast is for, as people write it.

use std::str::FromStr;

use imaccess_proto::v1::DeviceFilter;

/// `app=shop,platform=ios|android,version=1.2..2.0`: all that is given must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Filter(pub(super) DeviceFilter);

/// What is wrong with one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FilterError(String);

impl std::fmt::Display for FilterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}; a filter reads app=NAME,platform=NAME|NAME,version=FROM..TO, and any of the three may be left out",
            self.0
        )
    }
}

impl std::error::Error for FilterError {}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let mut filter = DeviceFilter::default();
        let mut seen: Vec<&str> = Vec::new();
        for condition in text.split(',') {
            let (key, value) = condition
                .split_once('=')
                .ok_or_else(|| FilterError(format!("{condition:?} has no =")))
                .map(|(key, value)| (key.trim(), value.trim()))?;
            if seen.contains(&key) {
                return Err(FilterError(format!("{key} is given twice")));
            }
            seen.push(key);
            if value.is_empty() {
                return Err(FilterError(format!("{key} has no value")));
            }
            match key {
                "app" => value.clone_into(&mut filter.app),
                "platform" => {
                    filter.platforms = value.split('|').map(|name| name.trim().to_owned()).collect();
                    if filter.platforms.iter().any(String::is_empty) {
                        return Err(FilterError(format!("{value:?} has an empty platform")));
                    }
                }
                "version" => (filter.version_from, filter.version_to) = versions(value)?,
                _ => return Err(FilterError(format!("{key:?} is nothing to filter by"))),
            }
        }
        Ok(Self(filter))
    }
}

/// Both ends are included; either may be left out, and one version alone is both.
fn versions(range: &str) -> Result<(String, String), FilterError> {
    let (from, to) = range.split_once("..").unwrap_or((range, range));
    let bound = |text: &str| {
        let text = text.trim();
        let numbers = text
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        if text.is_empty() || numbers {
            Ok(text.to_owned())
        } else {
            Err(FilterError(format!("{text:?} is no version such as 1.10")))
        }
    };
    let range = (bound(from)?, bound(to)?);
    if range.0.is_empty() && range.1.is_empty() {
        return Err(FilterError("the version has no bound".to_owned()));
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_are_read() {
        let read = |text: &str| text.parse::<Filter>().unwrap().0;
        let whole = read("app=shop, platform=ios|android,version=1.2..2.0");
        assert_eq!((whole.app.as_str(), whole.platforms.len()), ("shop", 2));
        assert_eq!(
            (whole.version_from.as_str(), whole.version_to.as_str()),
            ("1.2", "2.0")
        );
        let bounds = |text: &str| {
            let filter = read(text);
            (filter.version_from, filter.version_to)
        };
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(bounds("version=1.2.."), pair("1.2", ""));
        assert_eq!(bounds("version=..2"), pair("", "2"));
        assert_eq!(bounds("version=1.10"), pair("1.10", "1.10"));
    }

    #[test]
    fn what_is_wrong_is_said_with_how_it_should_read() {
        for (text, part) in [
            ("", "has no ="),
            ("ios", "has no ="),
            ("app=", "app has no value"),
            ("app=a,app=b", "given twice"),
            ("os=ios", "\"os\" is nothing"),
            ("platform=ios|", "empty platform"),
            ("version=..", "no bound"),
            ("version=1.x..2", "no version"),
        ] {
            let fault = text.parse::<Filter>().unwrap_err().to_string();
            assert!(
                fault.contains(part) && fault.contains("platform=NAME|NAME"),
                "{text}: {fault}"
            );
        }
    }
}
