//! A model's passes as sections of a report: measured profiles beside the declared costs of the same program.

use super::rates::Rates;
use super::report::{Expected, Line, Section};
use models::dry::Charge;
use parties::private::PassTimes;
use protocol::profile::{Profile, summarise};
use std::collections::BTreeSet;

/// Time before the first operation and between exchanges that no operation claims.
const ELSEWHERE: &str = "(between operations)";

/// A pass and what was declared for it.
pub(super) struct Measured<'p> {
    /// What it is.
    pub(super) title: String,
    /// What runs were made, and which of them this is.
    pub(super) about: String,
    /// Where its time went.
    pub(super) times: &'p PassTimes,
    /// What was declared, item by item.
    pub(super) charges: Vec<Charge>,
}

/// The pass that the slowest party finished first.
pub(super) fn fastest(passes: &[PassTimes]) -> Option<&PassTimes> {
    passes.iter().min_by_key(|p| p.parties.iter().map(|q| q.wall).max())
}

impl Measured<'_> {
    /// The section. With `within`, only the parts of the program whose path begins so.
    pub(super) fn section(self, within: Option<&str>, rates: &Rates) -> Section {
        let parties = &self.times.parties;
        let declared: BTreeSet<&str> = self.charges.iter().map(|c| &*c.scope).collect();
        let inside = |path: &str| within.is_none_or(|w| path == w || path.starts_with(&format!("{w}/")));
        // Gates have scopes of their own below those that declare a cost.
        let part = |name: &str| match longest_prefix(name, &declared) {
            Some(scope) if inside(scope) => all_layers(scope),
            _ if within.is_some() => String::new(),
            _ => ELSEWHERE.into(),
        };
        let lines =
            summarise(parties, part).into_iter().filter(|(name, _)| !name.is_empty()).map(|(name, row)| {
                let expected =
                    (name != ELSEWHERE).then(|| expected(&self.charges, |c| all_layers(&c.scope) == name));
                let shown =
                    within.and_then(|w| name.strip_prefix(&format!("{}/", all_layers(w))).map(String::from));
                Line::new(shown.unwrap_or(name), &row, expected, rates)
            });
        let kind = |name: &str| {
            let inside = inside(longest_prefix(name, &declared).unwrap_or(name));
            if !inside {
                return String::new();
            }
            let last = name.rsplit('/').next().unwrap_or(name);
            if last.is_empty() { ELSEWHERE.into() } else { last.into() }
        };
        let mut operations: Vec<Line> = summarise(parties, kind)
            .into_iter()
            .filter(|(name, _)| !name.is_empty())
            .map(|(name, row)| Line::new(name, &row, None, rates))
            .collect();
        operations.sort_by(|a, b| b.critical_ms().total_cmp(&a.critical_ms()));
        let whole = match within {
            None => Line::whole("whole pass".into(), parties, expected(&self.charges, |_| true), rates),
            Some(scope) => {
                part_of(scope, parties, expected(&self.charges, |c| inside(&c.scope)), rates, inside)
            }
        };
        Section {
            title: self.title,
            about: self.about,
            whole: Some(whole),
            lines: lines.collect(),
            operations,
        }
    }
}

/// Everything within a scope as one line.
fn part_of(
    scope: &str,
    parties: &[Profile; 3],
    expected: Expected,
    rates: &Rates,
    inside: impl Fn(&str) -> bool,
) -> Line {
    let rows = summarise(parties, |name| if inside(name) { scope.into() } else { String::new() });
    let row = rows.into_iter().find(|(name, _)| name == scope).map(|r| r.1).unwrap_or_default();
    Line::new(scope.into(), &row, Some(expected), rates)
}

/// The cost of some of the charges together.
fn expected(charges: &[Charge], wanted: impl Fn(&Charge) -> bool) -> Expected {
    let (mut all, mut exchanges) = (Expected::default(), BTreeSet::new());
    for charge in charges.iter().filter(|c| wanted(c)) {
        let sums = all.cost.sent.iter_mut().flatten().zip(charge.sent.iter().flatten());
        sums.for_each(|(sum, bytes)| *sum += bytes);
        all.local.iter_mut().zip(&charge.local).for_each(|(sum, local)| sum.add(local));
        exchanges.extend(charge.exchange);
    }
    all.cost.exchanges = exchanges.len() as u64;
    all
}

/// `layer.3/attention` as `layer.*/attention`: all layers add up.
fn all_layers(path: &str) -> String {
    let parts = path.split('/').map(|part| match part.strip_prefix("layer.") {
        Some(number) if number.bytes().all(|b| b.is_ascii_digit()) => "layer.*",
        _ => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

/// The longest of `scopes` that a path lies in.
fn longest_prefix<'s>(path: &str, scopes: &BTreeSet<&'s str>) -> Option<&'s str> {
    let mut path = path;
    loop {
        if let Some(scope) = scopes.get(path) {
            return Some(scope);
        }
        path = &path[..path.rfind('/')?];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(all_layers("layer.13/attention/qkv"), "layer.*/attention/qkv");
        assert_eq!(all_layers("output/layer.x"), "output/layer.x");
        let scopes = BTreeSet::from(["layer.1/norm", "layer.1"]);
        assert_eq!(longest_prefix("layer.1/norm/statistic/product", &scopes), Some("layer.1/norm"));
        assert_eq!(longest_prefix("layer.1/normal", &scopes), Some("layer.1"));
        assert_eq!(longest_prefix("layer.10", &scopes), None);
    }
}
