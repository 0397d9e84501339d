//! A request's body: how it comes, and what JSON may be in it.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use futures_util::StreamExt;
use imaccess_proto::v1::Priority;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::problem::Problem;

/// Longest body: 10,000 devices of 36 bytes with their quotes and commas, and a payload in base64, are 480 KB; as much again for
/// text that is mostly escapes, and half as much for white space.
pub(super) const LIMIT: usize = 3 << 19;

/// How much more is read and thrown away, so that whoever sends too much can read why: an answer in the middle of a request
/// would be lost with the connection.
const DISCARD: usize = 8 << 20;

/// From the head of a request to the end of its body.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// Reads a body as `T`.
pub(super) async fn read<T: DeserializeOwned>(
    headers: &HeaderMap<HeaderValue>,
    body: Body,
) -> Result<T, Problem> {
    must_be_json(headers)?;
    let bytes = tokio::time::timeout(DEADLINE, collect(headers, body))
        .await
        .map_err(|_| Problem::too_slow())??;
    parse(&bytes)
}

fn must_be_json(headers: &HeaderMap<HeaderValue>) -> Result<(), Problem> {
    let is = |name: header::HeaderName, expected: &str| {
        let value = headers.get(name)?.to_str().unwrap_or_default();
        let essence = value.split(';').next().unwrap_or_default().trim();
        Some(essence.eq_ignore_ascii_case(expected))
    };
    if is(header::CONTENT_TYPE, "application/json") != Some(true) {
        return Err(Problem::wrong_type(
            "the body must be JSON, and say so: Content-Type: application/json",
        ));
    }
    if is(header::CONTENT_ENCODING, "identity") == Some(false) {
        return Err(Problem::wrong_type(
            "the body must not be compressed: leave Content-Encoding out",
        ));
    }
    Ok(())
}

async fn collect(headers: &HeaderMap<HeaderValue>, body: Body) -> Result<Vec<u8>, Problem> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let asks_first = headers.contains_key(header::EXPECT);
    let most = if asks_first { LIMIT } else { LIMIT + DISCARD };
    if announced.is_some_and(|length| length > most) {
        return Err(Problem::too_long());
    }
    let mut bytes = Vec::with_capacity(announced.unwrap_or(0).min(LIMIT));
    let mut come = 0;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| Problem::malformed("the body broke off".to_owned()))?;
        come += piece.len();
        if come > LIMIT + DISCARD {
            return Err(Problem::too_long());
        }
        if come <= LIMIT {
            bytes.extend_from_slice(&piece);
        }
    }
    if come > LIMIT {
        return Err(Problem::too_long());
    }
    Ok(bytes)
}

/// Parses JSON, and says of a fault where it is: by the member's name, or by line and column.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let whole = serde_path_to_error::deserialize(&mut reader).map(|Object(read)| read);
    let whole = whole.map_err(|fault| {
        let path = fault.path().to_string();
        let fault = fault.into_inner();
        let sentence = fault.to_string();
        if !fault.is_data() {
            return Problem::malformed(format!("the body is no JSON: {sentence}"));
        }
        match member(&path, &sentence) {
            Some(field) => Problem::field(&field, &sentence),
            None => Problem::malformed(format!("the body: {sentence}")),
        }
    })?;
    reader
        .end()
        .map_err(|fault| Problem::malformed(format!("the body is no JSON: {fault}")))?;
    Ok(whole)
}

/// The member that a fault is about, as `filter.platforms[0]`: where it was found, or what is missing there.
fn member(path: &str, sentence: &str) -> Option<String> {
    let missing = sentence
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split_once('`'))
        .map(|(name, _)| name);
    match (path, missing) {
        ("." | "", None) => None,
        ("." | "", Some(name)) => Some(name.to_owned()),
        (_, None) => Some(path.to_owned()),
        (_, Some(name)) => Some(format!("{path}.{name}")),
    }
}

/// A JSON object. (By itself serde would take a list of the members' values as well.)
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members))
            }
        }
        deserializer.deserialize_map(Members(PhantomData)).map(Object)
    }
}

/// A member that may be left out, but not be `null`.
pub(super) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A whole number; as JSON Schema has it, `5.0` is one.
pub(super) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    let float = number
        .as_f64()
        .filter(|float| float.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(float));
    match float {
        Some(float) => Ok(float as u32),
        None => Err(D::Error::custom(format_args!(
            "{number} is no whole number up to {}",
            u32::MAX
        ))),
    }
}

/// Bytes, as base64, padded or not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Base64(pub(super) Bytes);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Base64, D::Error> {
        const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::Indifferent);
        static BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64
            .decode(&text)
            .map_err(|fault| D::Error::custom(format_args!("is no base64 ({fault})")))?;
        Ok(Base64(bytes.into()))
    }
}

/// `normal`, `high` or `low`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Urgency(pub(super) Priority);

impl<'de> Deserialize<'de> for Urgency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Urgency, D::Error> {
        let word = String::deserialize(deserializer)?;
        match word.as_str() {
            "normal" => Ok(Urgency(Priority::Normal)),
            "high" => Ok(Urgency(Priority::High)),
            "low" => Ok(Urgency(Priority::Low)),
            _ => Err(D::Error::custom(format_args!(
                "{word:?} is no priority; it must be normal, high or low"
            ))),
        }
    }
}

#[cfg(test)]
mod tests;
