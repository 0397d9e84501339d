//! What a request's address says: the business, the group, and how many members.

use axum::http::Uri;
use bytes::Bytes;

use super::endpoint::Endpoint;
use super::problem::Problem;

/// Members that are named where nobody says how many.
const MEMBERS: u32 = 1_000;

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) business: u32,
    /// Empty where the path has none.
    pub(super) group: Bytes,
    /// Of `?limit=`, where that may stand.
    pub(super) limit: u32,
}

/// Reads the address of a request that the router brought to `endpoint`.
pub(super) fn read(endpoint: Endpoint, uri: &Uri) -> Result<Place, Problem> {
    // "", "v1", "businesses", business, "groups", group, …
    let mut segments = uri.path().split('/').skip(3);
    let business = decoded("business", segments.next().unwrap_or_default())?;
    let business = number("business", &business)?;
    let has_group = endpoint.path().contains("{group}");
    let group = match segments.nth(1).filter(|_| has_group) {
        Some(segment) => decoded("group", segment)?,
        None => Vec::new(),
    };
    Ok(Place {
        business,
        group: group.into(),
        limit: limit(endpoint, uri.query().unwrap_or_default())?,
    })
}

/// The one query parameter there is. Others are refused: a misspelt one would be ignored in silence.
fn limit(endpoint: Endpoint, query: &str) -> Result<u32, Problem> {
    let mut limit = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name != "limit" || endpoint != Endpoint::ListMembers {
            return Err(Problem::field(name, "there is no such query parameter here"));
        }
        let value = decoded("limit", value)?;
        if limit.replace(number("limit", &value)?).is_some() {
            return Err(Problem::field("limit", "is given twice"));
        }
    }
    Ok(limit.unwrap_or(MEMBERS))
}

fn number(field: &str, digits: &[u8]) -> Result<u32, Problem> {
    let all_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| all_digits)
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| {
            let given = String::from_utf8_lossy(digits);
            Problem::field(field, &format!("{given:?} is no whole number up to {}", u32::MAX))
        })
}

/// The bytes of a part of the address in which each may stand as `%` and two hexadecimal digits.
fn decoded(field: &str, part: &str) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        match digit().zip(digit()) {
            Some((high, low)) => bytes.push((high << 4 | low) as u8),
            None => {
                let what = "a '%' must be followed by two hexadecimal digits; '%' itself is %25";
                return Err(Problem::field(field, what));
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(endpoint: Endpoint, uri: &str) -> Result<Place, Problem> {
        read(endpoint, &uri.parse().unwrap())
    }

    #[test]
    fn groups_are_bytes() {
        for (segment, bytes) in [
            ("room", &b"room"[..]),
            ("a%2Fb", b"a/b"),
            ("%00%ff%25", b"\0\xff%"),
            ("%2e%2E", b".."),
            ("a+b", b"a+b"),
        ] {
            let found = place(
                Endpoint::PushGroup,
                &format!("/v1/businesses/7/groups/{segment}/push"),
            )
            .unwrap();
            assert_eq!((found.business, &found.group[..]), (7, bytes), "{segment}");
        }
        let none = place(Endpoint::Kick, "/v1/businesses/4294967295/kick").unwrap();
        assert_eq!((none.business, none.group.len()), (u32::MAX, 0));
        assert_eq!(
            place(Endpoint::Kick, "/v1/businesses/%37/kick").unwrap().business,
            7
        );
    }

    #[test]
    fn what_is_no_number_is_named() {
        for business in [
            "",
            "x",
            "-1",
            "+1",
            "1.0",
            "4294967296",
            "1%20",
            "%",
            "%g0",
            "%ff",
        ] {
            let refused = place(Endpoint::Kick, &format!("/v1/businesses/{business}/kick")).unwrap_err();
            assert_eq!(refused.status().as_u16(), 400, "{business}");
            assert_eq!(refused.code(), "invalid_argument");
        }
        assert!(place(Endpoint::PushGroup, "/v1/businesses/1/groups/%4/push").is_err());
    }

    #[test]
    fn the_limit_is_the_only_parameter() {
        let members = |query: &str| {
            place(
                Endpoint::ListMembers,
                &format!("/v1/businesses/1/groups/g/members{query}"),
            )
            .map(|place| place.limit)
        };
        assert_eq!(members(""), Ok(MEMBERS));
        assert_eq!(members("?"), Ok(MEMBERS));
        assert_eq!(members("?limit=0"), Ok(0));
        assert_eq!(members("?limit=%31&"), Ok(1));
        for bad in [
            "?limit",
            "?limit=",
            "?limit=x",
            "?limit=1&limit=2",
            "?limt=1",
            "?limit=-1",
        ] {
            assert!(members(bad).is_err(), "{bad}");
        }
        assert!(place(Endpoint::Kick, "/v1/businesses/1/kick?limit=1").is_err());
    }
}
