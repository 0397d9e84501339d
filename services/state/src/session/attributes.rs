//! What clients said of their platforms and versions at login, each different pair kept once, and which of them a filter lets
//! through. A session costs two bytes (in its [`Identity`](super::record::Identity)).

use std::cmp::Ordering;
use std::collections::HashMap;

use imaccess_proto::v1::DeviceFilter;

/// Most different pairs: a fleet has hundreds. A session beyond them has none, and is counted as unknown when a filter asks.
const MOST: usize = 4_096;

/// By number; 0 stands for nothing known.
#[derive(Debug, Default)]
pub struct Attributes {
    table: Vec<Pair>,
    numbers: HashMap<Box<str>, u16>,
    free: Vec<u16>,
}

#[derive(Debug, Default)]
struct Pair {
    /// Platform, a zero byte, version: also how the gateway keeps it.
    text: Box<str>,
    sessions: u32,
}

impl Attributes {
    /// One session more has these; its number.
    pub fn enter(&mut self, platform: &str, version: &str) -> u16 {
        if (platform.is_empty() && version.is_empty()) || platform.contains('\0') {
            return 0;
        }
        self.enter_text(&format!("{platform}\0{version}"))
    }

    /// The same, as [`text`](Attributes::text) gave it.
    pub fn enter_text(&mut self, text: &str) -> u16 {
        if text.is_empty() {
            return 0;
        }
        if let Some(&number) = self.numbers.get(text) {
            self.table[usize::from(number) - 1].sessions += 1;
            return number;
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.table.len() < MOST => {
                self.table.push(Pair::default());
                self.table.len() as u16
            }
            None => return 0,
        };
        self.table[usize::from(number) - 1] = Pair {
            text: text.into(),
            sessions: 1,
        };
        self.numbers.insert(text.into(), number);
        number
    }

    /// A session that had this number is gone.
    pub fn leave(&mut self, number: u16) {
        let Some(pair) = usize::from(number)
            .checked_sub(1)
            .and_then(|place| self.table.get_mut(place))
        else {
            return;
        };
        pair.sessions -= 1;
        if pair.sessions == 0 {
            let text = std::mem::take(&mut pair.text);
            self.numbers.remove(&text);
            self.free.push(number);
        }
    }

    /// What a number stands for, in one text; empty for 0.
    #[must_use]
    pub fn text(&self, number: u16) -> &str {
        usize::from(number)
            .checked_sub(1)
            .and_then(|place| self.table.get(place))
            .map_or("", |pair| &pair.text)
    }

    /// How many different ones there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// What a filter says to each number; 0 included.
    fn judge(&self, filter: &Filter<'_>) -> Vec<Passes> {
        let known = self.table.iter().map(|pair| {
            let (platform, version) = pair.text.split_once('\0').unwrap_or_default();
            filter.pair(platform, version)
        });
        let unknown = if filter.asks_for_attributes() {
            Passes::Unknown
        } else {
            Passes::Yes
        };
        std::iter::once(unknown).chain(known).collect()
    }
}

/// What a filter says to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passes {
    /// It gets the push.
    Yes,
    /// It doesn't.
    No,
    /// It doesn't, because what is asked for isn't known of it.
    Unknown,
}

/// A filter with what each platform and version comes to, ready for many sessions.
#[derive(Debug)]
pub struct Judged<'a> {
    app: &'a str,
    by_number: Vec<Passes>,
}

impl<'a> Judged<'a> {
    /// Of a filter, for sessions with these attributes.
    #[must_use]
    pub fn new(filter: &'a DeviceFilter, attributes: &Attributes) -> Self {
        let by_number = attributes.judge(&Filter {
            platforms: &filter.platforms,
            from: Version::parse(&filter.version_from),
            to: Version::parse(&filter.version_to),
        });
        Self {
            app: &filter.app,
            by_number,
        }
    }

    /// What it says to a session of this app with these attributes.
    #[must_use]
    pub fn passes(&self, app: &str, number: u16) -> Passes {
        if !self.app.is_empty() && self.app != app {
            return Passes::No;
        }
        self.by_number
            .get(usize::from(number))
            .copied()
            .unwrap_or(Passes::No)
    }
}

struct Filter<'a> {
    platforms: &'a [String],
    from: Option<Version>,
    to: Option<Version>,
}

impl Filter<'_> {
    fn asks_for_attributes(&self) -> bool {
        !self.platforms.is_empty() || self.from.is_some() || self.to.is_some()
    }

    fn pair(&self, platform: &str, version: &str) -> Passes {
        if !self.platforms.is_empty() {
            if platform.is_empty() {
                return Passes::Unknown;
            }
            if !self.platforms.iter().any(|wanted| wanted == platform) {
                return Passes::No;
            }
        }
        if self.from.is_none() && self.to.is_none() {
            return Passes::Yes;
        }
        let Some(version) = Version::parse(version) else {
            return Passes::Unknown;
        };
        let above = self.from.as_ref().is_none_or(|from| *from <= version);
        let below = self.to.as_ref().is_none_or(|to| version <= *to);
        if above && below { Passes::Yes } else { Passes::No }
    }
}

/// Numbers between dots, compared one by one; what is missing is 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(Vec<u64>);

impl Version {
    /// Reads one, up to its first `-` or `+`. `None` for what isn't numbers between dots.
    #[must_use]
    pub fn parse(text: &str) -> Option<Version> {
        let numbers = text.split(['-', '+']).next()?;
        let mut parsed: Vec<u64> = numbers
            .split('.')
            .map(|number| {
                let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
                digits.then(|| number.parse().ok()).flatten()
            })
            .collect::<Option<_>>()?;
        while parsed.last() == Some(&0) {
            parsed.pop();
        }
        Some(Version(parsed))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let version = |text| Version::parse(text).unwrap();
        assert!(version("1.10") > version("1.9"));
        assert_eq!(version("1"), version("1.0.0"));
        assert!(version("1.2.3-beta+7") < version("1.2.4"));
        assert_eq!(version("1.2-rc1"), version("1.2"));
        for text in [
            "",
            "x",
            "1.",
            ".1",
            "1..2",
            "-1",
            "v1",
            "1.99999999999999999999999",
        ] {
            assert_eq!(Version::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_pair_lives_as_long_as_a_session_has_it() {
        let mut attributes = Attributes::default();
        let ios = attributes.enter("ios", "1.2");
        assert_eq!(attributes.enter("ios", "1.2"), ios);
        let web = attributes.enter("web", "");
        assert_eq!(
            (attributes.text(ios), attributes.text(web)),
            ("ios\x001.2", "web\0")
        );
        assert_eq!((attributes.enter("", ""), attributes.enter("a\0b", "")), (0, 0));
        attributes.leave(ios);
        assert_eq!(attributes.text(ios), "ios\x001.2");
        attributes.leave(ios);
        attributes.leave(0);
        assert_eq!((attributes.text(ios), attributes.len()), ("", 1));
        assert_eq!(attributes.enter_text("tv\x001"), ios, "numbers are used again");
    }

    #[test]
    fn filters() {
        let mut attributes = Attributes::default();
        let numbers = [
            0,
            attributes.enter("ios", "1.9"),
            attributes.enter("android", "1.10"),
            attributes.enter("web", "next"),
            attributes.enter("", "2.0"),
        ];
        let filter = |app: &str, platforms: &[&str], from: &str, to: &str| DeviceFilter {
            app: app.to_owned(),
            platforms: platforms.iter().map(|&name| name.to_owned()).collect(),
            version_from: from.to_owned(),
            version_to: to.to_owned(),
        };
        use Passes::{No, Unknown, Yes};
        let cases = [
            (filter("", &[], "", ""), [Yes; 5]),
            (filter("app", &[], "", ""), [Yes; 5]),
            (filter("other", &["ios"], "1", ""), [No; 5]),
            (
                filter("", &["ios", "web"], "", ""),
                [Unknown, Yes, No, Yes, Unknown],
            ),
            (filter("", &[], "1.9.1", ""), [Unknown, No, Yes, Unknown, Yes]),
            (filter("", &[], "", "1.9"), [Unknown, Yes, No, Unknown, No]),
            (
                filter("", &["android"], "1.0", "1.10.0"),
                [Unknown, No, Yes, No, Unknown],
            ),
        ];
        for (filter, expected) in cases {
            let judged = Judged::new(&filter, &attributes);
            assert_eq!(
                numbers.map(|number| judged.passes("app", number)),
                expected,
                "{filter:?}"
            );
        }
    }
}
