//! Metrics pages, read as a monitoring system reads them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use imaccess_common::gateway_page::exposition;

/// A page must answer while its part is busy; one that takes longer than this is a finding.
const DEADLINE: Duration = Duration::from_secs(5);

/// One part's page at one moment.
#[derive(Clone, Debug, Default)]
pub struct Page {
    samples: Vec<Sample>,
    /// The page as it was served.
    pub text: String,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Sample {
    fn has(&self, label: &str, value: &str) -> bool {
        self.labels
            .iter()
            .any(|(name, have)| name == label && have == value)
    }
}

impl Page {
    /// Scrapes `http://<address>/metrics`.
    ///
    /// # Errors
    /// When the page doesn't answer in time, or isn't in the text format.
    pub async fn scrape(address: &str) -> Result<Self> {
        let url = format!("http://{address}/metrics");
        let client = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build()?;
        let answer = client
            .get(&url)
            .send()
            .await
            .with_context(|| format!("{url} doesn't answer"))?;
        if !answer.status().is_success() {
            bail!("{url} answers {}", answer.status());
        }
        Self::parse(answer.text().await?).with_context(|| format!("{url} is no metrics page"))
    }

    /// Reads a page's text.
    ///
    /// # Errors
    /// When a line isn't in the text format.
    pub fn parse(text: String) -> Result<Self> {
        let mut samples = Vec::new();
        for sample in exposition::samples(&text) {
            let sample = sample?;
            let labels = sample
                .labels
                .iter()
                .map(|(name, value)| (name.to_owned(), value.into_owned()))
                .collect();
            samples.push(Sample {
                name: sample.name.to_owned(),
                labels,
                value: sample.value,
            });
        }
        Ok(Self { samples, text })
    }

    /// The sum of all samples with this name and these labels; 0 if there are none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted = |sample: &&Sample| {
            sample.name == name && labels.iter().all(|(label, value)| sample.has(label, value))
        };
        self.samples
            .iter()
            .filter(wanted)
            .map(|sample| sample.value)
            .sum()
    }

    /// The value of a label of the first sample with this name.
    #[must_use]
    pub fn label(&self, name: &str, label: &str) -> Option<&str> {
        let sample = self.samples.iter().find(|sample| sample.name == name)?;
        let mut labels = sample.labels.iter().filter(|(have, _)| have == label);
        labels.next().map(|(_, value)| value.as_str())
    }

    /// Whether any sample has this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.samples.iter().any(|sample| sample.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_the_labels_that_are_not_named() {
        let text = "a{x=\"1\",y=\"p\"} 2\na{x=\"1\",y=\"q\"} 3\na{x=\"2\",y=\"q\"} 4\n";
        let page = Page::parse(text.to_owned()).unwrap();
        assert!((page.sum("a", &[("x", "1")]) - 5.0).abs() < f64::EPSILON);
        assert!((page.sum("a", &[]) - 9.0).abs() < f64::EPSILON);
        assert!(page.has("a") && !page.has("b"));
        assert_eq!((page.label("a", "y"), page.label("a", "z")), (Some("p"), None));
    }
}
