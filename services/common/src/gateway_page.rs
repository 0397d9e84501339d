//! The contract between a gateway's metrics page and ipconfig, which scrapes it: names, meanings, and the parser.

pub mod exposition;

/// Gauge: live connections.
pub const CONNECTIONS: &str = "imaccess_gateway_connections";
/// Gauge: connections it accepts at most; remaining connections are the static score.
pub const CONNECTION_LIMIT: &str = "imaccess_gateway_connection_limit";
/// Counter: bytes written to clients; its rate is the measured outbound bandwidth.
pub const SENT_BYTES: &str = "imaccess_gateway_sent_bytes_total";
/// Gauge: declared outbound capacity in bytes per second; less the measured rate it is the dynamic score.
pub const BANDWIDTH: &str = "imaccess_gateway_bandwidth_bytes_per_second";
/// Gauge: 1 while the gateway takes no new clients because it is going away, else 0.
pub const DRAINING: &str = "imaccess_gateway_draining";

/// The five figures of one page.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GatewayPage {
    /// [`CONNECTIONS`].
    pub connections: f64,
    /// [`CONNECTION_LIMIT`].
    pub connection_limit: f64,
    /// [`SENT_BYTES`], summed over its labels if it has any.
    pub sent_bytes: f64,
    /// [`BANDWIDTH`].
    pub bandwidth: f64,
    /// [`DRAINING`]; a page without it is not draining.
    pub draining: bool,
}

/// Why a page is not a gateway's.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PageError {
    /// It isn't in the text format.
    #[error("not a Prometheus page")]
    Malformed(#[from] exposition::ParseError),
    /// A figure that the ranking needs isn't there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A figure is negative, infinite or not a number.
    #[error("{0} is {1}, which is no quantity")]
    NotAQuantity(&'static str, f64),
}

impl GatewayPage {
    /// Reads a whole page. Samples with the same name and different labels (protocols, shards) are added up.
    pub fn parse(text: &str) -> Result<GatewayPage, PageError> {
        const NAMES: [&str; 5] = [CONNECTIONS, CONNECTION_LIMIT, SENT_BYTES, BANDWIDTH, DRAINING];
        let mut sums: [Option<f64>; 5] = [None; 5];
        for sample in exposition::samples(text) {
            let sample = sample?;
            if let Some(which) = NAMES.iter().position(|name| *name == sample.name) {
                *sums[which].get_or_insert(0.0) += sample.value;
            }
        }
        let quantity = |which: usize| {
            let value = sums[which].ok_or(PageError::Missing(NAMES[which]))?;
            if value.is_finite() && value >= 0.0 {
                Ok(value)
            } else {
                Err(PageError::NotAQuantity(NAMES[which], value))
            }
        };
        Ok(GatewayPage {
            connections: quantity(0)?,
            connection_limit: quantity(1)?,
            sent_bytes: quantity(2)?,
            bandwidth: quantity(3)?,
            draining: sums[4].is_some_and(|value| value != 0.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# HELP imaccess_gateway_connections Live connections.
# TYPE imaccess_gateway_connections gauge
imaccess_gateway_connections{protocol=\"tcp\"} 10
imaccess_gateway_connections{protocol=\"ws\"} 5
imaccess_gateway_connection_limit 100
imaccess_gateway_sent_bytes_total 1e6
imaccess_gateway_bandwidth_bytes_per_second 1.25e8
";

    #[test]
    fn a_page_reads_as_its_figures() {
        let page = GatewayPage::parse(PAGE).unwrap();
        let expected = GatewayPage {
            connections: 15.0,
            connection_limit: 100.0,
            sent_bytes: 1e6,
            bandwidth: 1.25e8,
            draining: false,
        };
        assert_eq!(page, expected);
        assert!(
            GatewayPage::parse(&format!("{PAGE}{DRAINING} 1\n"))
                .unwrap()
                .draining
        );
        assert!(
            !GatewayPage::parse(&format!("{PAGE}{DRAINING} 0\n"))
                .unwrap()
                .draining
        );
    }

    #[test]
    fn what_is_missing_or_no_quantity_is_named() {
        assert_eq!(GatewayPage::parse(""), Err(PageError::Missing(CONNECTIONS)));
        for name in [CONNECTION_LIMIT, SENT_BYTES, BANDWIDTH] {
            let without: String = PAGE
                .lines()
                .filter(|line| !line.starts_with(name))
                .map(|l| format!("{l}\n"))
                .collect();
            assert_eq!(GatewayPage::parse(&without), Err(PageError::Missing(name)));
            for value in ["NaN", "-1", "+Inf"] {
                let fault = GatewayPage::parse(&format!("{without}{name} {value}\n"));
                assert!(
                    matches!(fault, Err(PageError::NotAQuantity(found, _)) if found == name),
                    "{fault:?}"
                );
            }
        }
        assert!(matches!(
            GatewayPage::parse("<html>"),
            Err(PageError::Malformed(_))
        ));
    }
}
