//! Which version of a model answers a request that names none: one that is set, drawn by weights, or the newest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A model's traffic rule. Without any part of it the newest uploaded version serves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// Serves where no weights are set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Shares of the requests, by version; they need not add up to anything.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
}

/// Where a request carries the key, such as a user's name, whose requests all go to one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sticky {
    /// A header.
    Header(String),
    /// A field of a JSON body or of a form, or a parameter of the query.
    Field(String),
}

/// A version that gets a copy of the requests; its answers are recorded and go to nobody.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shadow {
    pub version: String,
    /// Share of the requests that are copied, from 0 to 1.
    #[serde(default = "everything")]
    pub fraction: f64,
}

fn everything() -> f64 {
    1.0
}

impl Traffic {
    /// Checks the rule by itself, and that each version in it is one of those that may take traffic.
    ///
    /// # Errors
    /// A version that is not there, or numbers that are no shares.
    pub fn check(&self, id: &str, versions: &[&str]) -> Result<()> {
        for version in self.named() {
            if !versions.contains(&version) {
                return Err(Error::invalid_input(format!(
                    "model {id} has no version {version:?} that could take traffic; versions: {}",
                    versions.join(", ")
                )));
            }
        }
        let sum: f64 = self.weights.values().sum();
        let are_shares = self.weights.values().all(|&weight| weight >= 0.0) && sum.is_finite();
        if !are_shares || (!self.weights.is_empty() && sum <= 0.0) {
            return Err(Error::invalid_input(
                "weights are numbers from 0 on, at least one of them above it, such as {\"1\": 90, \"2\": 10}",
            ));
        }
        if let Some(shadow) = &self.shadow
            && !(0.0..=1.0).contains(&shadow.fraction)
        {
            return Err(Error::invalid_input("the shadow's fraction is from 0 to 1"));
        }
        match &self.sticky {
            Some(Sticky::Header(name) | Sticky::Field(name)) if name.is_empty() => {
                Err(Error::invalid_input("sticky names no header or field, such as {\"header\": \"x-user-id\"}"))
            }
            _ => Ok(()),
        }
    }

    /// Where a request carries the key that decides on its version; `None` where no key does.
    pub(super) fn sticky_by_weights(&self) -> Option<&Sticky> {
        self.sticky.as_ref().filter(|_| !self.weights.is_empty())
    }

    /// The versions that the rule names, a weight of nothing included.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        let shadow = self.shadow.as_ref().map(|shadow| &shadow.version);
        self.default.iter().chain(self.weights.keys()).chain(shadow).map(String::as_str)
    }

    /// What the rule has a version do, such as `weights`; `None` where it could be removed without anybody noticing.
    pub fn role_of(&self, version: &str) -> Option<&'static str> {
        if self.default.as_deref() == Some(version) {
            Some("default")
        } else if self.weights.get(version).is_some_and(|&weight| weight > 0.0) {
            Some("weights")
        } else if self.shadow.as_ref().is_some_and(|shadow| shadow.version == version) {
            Some("shadow")
        } else {
            None
        }
    }

    /// The rule without a version.
    pub fn without(mut self, version: &str) -> Traffic {
        self.weights.remove(version);
        self.default = self.default.filter(|default| default != version);
        self.shadow = self.shadow.filter(|shadow| shadow.version != version);
        self
    }

    /// The version that `point`, from 0 to 1, falls on, of those that can take traffic now.
    pub fn draw(&self, point: f64, can_serve: impl Fn(&str) -> bool) -> Option<&str> {
        let shares: Vec<(&str, f64)> = self
            .weights
            .iter()
            .map(|(version, &weight)| (version.as_str(), weight))
            .filter(|&(version, weight)| weight > 0.0 && can_serve(version))
            .collect();
        let mut left = point * shares.iter().map(|(_, weight)| weight).sum::<f64>();
        // Rounding may leave a crumb past the last share.
        let drawn = shares.iter().find(|(_, weight)| {
            left -= weight;
            left < 0.0
        });
        drawn.or(shares.last()).map(|(version, _)| *version)
    }
}

/// Where a key falls, from 0 to 1: the same on every host and after every start. Each model has a lot of its own, so that
/// whoever got the new version of one does not get the new version of all.
pub(super) fn point_of(id: &str, key: &str) -> f64 {
    let hash = Sha256::new().chain_update(id).chain_update([0]).chain_update(key).finalize();
    let (first, _) = hash.split_at(8);
    let number = first.iter().fold(0u64, |number, &byte| number << 8 | u64::from(byte));
    // The 53 bits that a float holds, so that it stays below 1.
    (number >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn weights(weights: &[(&str, f64)]) -> Traffic {
        let weights = weights.iter().map(|(version, weight)| ((*version).to_owned(), *weight)).collect();
        Traffic { weights, ..Traffic::default() }
    }

    #[test]
    fn drawn_fractions_are_the_weights() {
        let rule = weights(&[("1", 90.0), ("2", 9.5), ("3", 0.5), ("4", 0.0)]);
        let mut drawn = BTreeMap::new();
        for _ in 0..100_000 {
            *drawn.entry(rule.draw(fastrand::f64(), |_| true).unwrap()).or_insert(0.0) += 1.0;
        }
        for (version, expected) in [("1", 0.9), ("2", 0.095), ("3", 0.005)] {
            let fraction: f64 = drawn[version] / 100_000.0;
            assert!((fraction - expected).abs() < 0.01, "{drawn:?}");
        }
        assert!(!drawn.contains_key("4"));
    }

    #[test]
    fn keys_fall_evenly_and_always_on_the_same_version() {
        let rule = weights(&[("1", 3.0), ("2", 1.0)]);
        let of = |user: usize| rule.draw(point_of("iris", &format!("user-{user}")), |_| true).unwrap();
        let second = (0..100_000).filter(|&user| of(user) == "2").count();
        assert!((second as f64 / 100_000.0 - 0.25).abs() < 0.01, "{second}");
        assert!((0..100).all(|user| of(user) == of(user)));
    }

    #[test]
    fn a_larger_share_takes_nobody_from_the_version_that_grows() {
        let (before, after) = (weights(&[("1", 90.0), ("2", 10.0)]), weights(&[("1", 50.0), ("2", 50.0)]));
        for user in 0..1_000 {
            let point = point_of("iris", &user.to_string());
            if before.draw(point, |_| true) == Some("2") {
                assert_eq!(after.draw(point, |_| true), Some("2"));
            }
        }
    }

    #[test]
    fn what_cannot_serve_leaves_its_share_to_the_others() {
        let rule = weights(&[("1", 1.0), ("2", 1.0)]);
        assert!((0..100).all(|_| rule.draw(fastrand::f64(), |version| version == "2") == Some("2")));
        assert_eq!(rule.draw(0.5, |_| false), None);
        assert_eq!(rule.draw(1.0, |_| true), Some("2"));
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_refused() {
        let versions = ["1", "2"];
        weights(&[("1", 1.0), ("2", 0.0)]).check("iris", &versions).unwrap();
        let shadow =
            |fraction| Traffic { shadow: Some(Shadow { version: "2".to_owned(), fraction }), ..Traffic::default() };
        shadow(0.5).check("iris", &versions).unwrap();
        let refused = [
            weights(&[("3", 1.0)]),
            weights(&[("1", -1.0), ("2", 2.0)]),
            weights(&[("1", 0.0)]),
            weights(&[("1", f64::INFINITY)]),
            weights(&[("1", f64::NAN)]),
            shadow(1.5),
            Traffic { default: Some("9".to_owned()), ..Traffic::default() },
            Traffic { sticky: Some(Sticky::Header(String::new())), ..Traffic::default() },
        ];
        for rule in refused {
            assert!(rule.check("iris", &versions).is_err(), "{rule:?}");
        }
    }
}
