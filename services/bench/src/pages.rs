//! What the parts' metrics pages say.

use anyhow::Context;
use imaccess_common::gateway_page::exposition;

/// The pages of some parts, of about one moment.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    /// Each with the kind of its part.
    pages: Vec<(String, String)>,
}

impl Pages {
    /// Adds a part's page.
    ///
    /// # Errors
    /// When it isn't in the text format.
    pub(crate) fn add(&mut self, part: &str, page: Vec<u8>) -> anyhow::Result<()> {
        let text = String::from_utf8(page).with_context(|| format!("the page of {part} is no text"))?;
        for sample in exposition::samples(&text) {
            sample.with_context(|| format!("the page of {part}"))?;
        }
        self.pages.push((part.to_owned(), text));
        Ok(())
    }

    /// A counter, added up over all parts of a kind and over the labels that aren't named; `None` if nobody has it.
    pub(crate) fn sum(&self, part: &str, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        let texts = self.pages.iter().filter(|(kind, _)| kind == part);
        let samples = texts.flat_map(|(_, text)| exposition::samples(text).filter_map(Result::ok));
        let wanted = samples.filter(|sample| {
            let mut labels = labels.iter();
            sample.name == name
                && labels.all(|(label, value)| sample.labels.value(label).as_deref() == Some(*value))
        });
        wanted
            .map(|sample| sample.value as u64)
            .fold(None, |sum: Option<u64>, value| Some(sum.unwrap_or(0) + value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_added_up_over_parts_and_other_labels() {
        let mut pages = Pages::default();
        pages
            .add(
                "gateway",
                b"a{r=\"x\",s=\"1\"} 2\na{r=\"x\",s=\"2\"} 3\nb 9\n".to_vec(),
            )
            .unwrap();
        pages
            .add("gateway", b"a{r=\"x\"} 10\na{r=\"y\"} 100\n".to_vec())
            .unwrap();
        pages.add("state", b"a{r=\"x\"} 1000\n".to_vec()).unwrap();
        assert_eq!(pages.sum("gateway", "a", &[("r", "x")]), Some(15));
        assert_eq!(pages.sum("gateway", "a", &[]), Some(115));
        assert_eq!(pages.sum("gateway", "a", &[("r", "z")]), None);
        assert_eq!(pages.sum("state", "b", &[]), None);
        assert!(pages.add("state", b"<html>".to_vec()).is_err());
    }
}
