//! On which terms this node serves, as its configuration says it: prices as `NAME=IN/OUT`, labels as
//! `KEY=VALUE`.

use std::{collections::BTreeMap, sync::Arc};

use polymath_types::{ErrorKind, ExpertCard, ExpertId, Failure, Terms};

use crate::{Inner, config::Config};

fn bad(message: String) -> Failure {
    Failure::new(ErrorKind::Config, message)
}

/// `chef=0.5/1.5`: the expert's name, and credits for 1,000 tokens of prompt and answer.
fn price(text: &str) -> Result<(&str, Terms), Failure> {
    let parsed = text.split_once('=').and_then(|(name, prices)| {
        let (price_in, price_out) = prices.split_once('/')?;
        let terms = Terms {
            price_in: millionths(price_in)?,
            price_out: millionths(price_out)?,
            ..Terms::default()
        };
        Some((name.trim(), terms)).filter(|(name, _)| !name.is_empty())
    });
    parsed.ok_or_else(|| {
        bad(format!(
            "prices = [\"{text}\"]: use EXPERT=IN/OUT, credits for 1,000 tokens of prompt and answer from 0 to 1000000, such as chef=0.5/1.5"
        ))
    })
}

/// `0.5/1.5`, or one number for both ways, in millionths.
pub(crate) fn price_each_way(text: &str) -> Result<(u64, u64), Failure> {
    let (price_in, price_out) = text.split_once('/').unwrap_or((text, text));
    let parsed = millionths(price_in).zip(millionths(price_out));
    parsed.ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        bad(format!(
            "the price '{shown}' cannot be read: use IN/OUT, credits for 1,000 tokens of prompt and answer from 0 to 1000000, such as 0.5/1.5"
        ))
    })
}

/// Credits in millionths, rounded.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)] // 0 to 10^12
fn millionths(credits: &str) -> Option<u64> {
    let credits: f64 = credits.trim().parse().ok()?;
    let millionths = (credits * Terms::CREDIT as f64).round();
    (0.0..=Terms::HIGHEST_PRICE as f64)
        .contains(&millionths)
        .then_some(millionths as u64)
}

/// `office=berlin`.
fn label(text: &str) -> Result<(String, String), Failure> {
    let parsed = text.split_once('=').map(|(k, v)| (k.trim(), v.trim()));
    let parsed = parsed.filter(|(key, value)| polymath_catalog::is_label(key, value));
    let (key, value) = parsed.ok_or_else(|| {
        bad(format!(
            "labels = [\"{text}\"]: use KEY=VALUE such as office=berlin, a key of at most 32 bytes without commas and a value of at most 64, of characters that can be seen"
        ))
    })?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Inner {
    /// On which terms these experts are served, by the settings and by their own definitions.
    pub(crate) fn terms_of(&self, cards: &[Arc<ExpertCard>]) -> BTreeMap<ExpertId, Terms> {
        let mut terms = self.config.terms_of(cards.iter().map(AsRef::as_ref));
        for (id, terms) in &mut terms {
            if let Some((price_in, price_out)) = self.service.hosted.manner(id).price {
                (terms.price_in, terms.price_out) = (price_in, price_out);
            }
        }
        terms
    }
}

impl Config {
    /// What this node is called by its operator.
    pub(crate) fn labels(&self) -> Result<BTreeMap<String, String>, Failure> {
        let labels: Result<BTreeMap<_, _>, _> = self.labels.iter().map(|l| label(l)).collect();
        let labels = labels?;
        let most = polymath_catalog::CatalogLimits::LABELS;
        if labels.len() > most {
            return Err(bad(format!(
                "{} labels are set: a node has at most {most}",
                labels.len()
            )));
        }
        Ok(labels)
    }

    /// On which terms an expert of this name is served.
    fn terms(&self, name: &str) -> Result<Terms, Failure> {
        let mut terms = Terms::default();
        for text in &self.prices {
            let (of, stated) = price(text)?;
            if of == name {
                terms = stated;
            }
        }
        terms.concurrency = u32::try_from(self.limits.concurrent).unwrap_or(u32::MAX);
        Ok(terms)
    }

    /// Names with a price that none of these experts has: they would be served for nothing.
    pub(crate) fn priced_in_vain<'a>(&'a self, hosted: &[&str]) -> Vec<&'a str> {
        let named = self.prices.iter().filter_map(|text| price(text).ok());
        let named = named.map(|(name, _)| name);
        named.filter(|name| !hosted.contains(name)).collect()
    }

    /// Whether all that is said of terms can be read.
    pub(crate) fn check_terms(&self) -> Result<(), Failure> {
        self.labels()?;
        self.terms("").map(drop)
    }

    /// On which terms these experts are served. The configuration was checked when it was read.
    pub(crate) fn terms_of<'a>(
        &self,
        cards: impl IntoIterator<Item = &'a ExpertCard>,
    ) -> BTreeMap<ExpertId, Terms> {
        let terms = cards.into_iter();
        let terms = terms.map(|card| (card.id(), self.terms(&card.name).unwrap_or_default()));
        terms.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(prices: &[&str], labels: &[&str]) -> Config {
        let owned = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect();
        Config {
            prices: owned(prices),
            labels: owned(labels),
            ..Config::default()
        }
    }

    #[test]
    fn prices_are_credits_and_the_last_one_of_a_name_counts() {
        let config = config(
            &[
                "chef=9/9",
                "smollm2-1.7b=0.000001/1000000",
                "chef = 0.5 / 1.5",
            ],
            &[],
        );
        assert!(config.check_terms().is_ok());
        let chef = config.terms("chef").unwrap();
        assert_eq!((chef.price_in, chef.price_out), (500_000, 1_500_000));
        let small = config.terms("smollm2-1.7b").unwrap();
        assert_eq!((small.price_in, small.price_out), (1, Terms::HIGHEST_PRICE));
        assert_eq!(config.terms("poet").unwrap(), Terms::default());
        assert_eq!(config.priced_in_vain(&["chef"]), ["smollm2-1.7b"]);
    }

    #[test]
    fn what_is_no_price_or_label_is_named_with_an_example() {
        for price in [
            "chef",
            "chef=1",
            "=1/2",
            "chef=-1/2",
            "chef=NaN/1",
            "chef=1/1000001",
            "chef=a/b",
        ] {
            let error = config(&[price], &[]).check_terms().unwrap_err().to_string();
            assert!(
                error.contains(price) && error.contains("chef=0.5/1.5"),
                "{error}"
            );
        }
        for label in ["office", "=berlin", "office=", "a=b=c"] {
            let error = config(&[], &[label]).check_terms().unwrap_err().to_string();
            assert!(error.contains("office=berlin"), "{error}");
        }
        assert_eq!(
            config(&[], &["office = berlin"]).labels().unwrap()["office"],
            "berlin"
        );
    }
}
