//! Measures of a model's outputs. Those that can be undefined (no values, one class only, not a
//! number) give `None` then.

use std::cmp::Ordering;

/// Area under the ROC curve: the probability that a positive example scores higher than a negative one,
/// where equal scores count half (Mann and Whitney's U divided by the number of pairs).
///
/// `None` if a class is empty or a score is no number. O(n log n).
///
/// # Panics
/// The slices differ in length.
pub fn auc(scores: &[f64], labels: &[bool]) -> Option<f64> {
    let order = descending(scores, labels)?;
    let positives = labels.iter().filter(|&&label| label).count();
    let pairs = positives as f64 * (labels.len() - positives) as f64;
    let (mut above, mut wins) = (0.0, 0.0);
    for equal in order.chunk_by(|a, b| a.0 == b.0) {
        let here = equal.iter().filter(|(_, label)| *label).count() as f64;
        wins += (equal.len() as f64 - here) * (above + here / 2.0);
        above += here;
    }
    (pairs > 0.0).then(|| wins / pairs)
}

/// A threshold and how well it separates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BestThreshold {
    /// Scores from here on are called positive; infinite if none should be.
    pub threshold: f64,
    /// Fraction of examples that are called rightly.
    pub accuracy: f64,
}

/// The threshold with the highest accuracy on these same examples: an optimistic figure, as it is chosen
/// by looking. Of equally good ones the highest.
///
/// `None` if there are no examples or a score is no number. O(n log n).
///
/// # Panics
/// The slices differ in length.
pub fn best_threshold_accuracy(scores: &[f64], labels: &[bool]) -> Option<BestThreshold> {
    let order = descending(scores, labels)?;
    if order.is_empty() {
        return None;
    }
    // With nothing called positive, the negatives are right.
    let mut right = labels.iter().filter(|&&label| !label).count();
    let (mut best, mut threshold) = (right, f64::INFINITY);
    for equal in order.chunk_by(|a, b| a.0 == b.0) {
        let positives = equal.iter().filter(|(_, label)| *label).count();
        // Cannot underflow: the negatives of all chunks together were counted before.
        right = right + positives - (equal.len() - positives);
        if right > best {
            (best, threshold) = (right, equal[0].0);
        }
    }
    Some(BestThreshold { threshold, accuracy: best as f64 / labels.len() as f64 })
}

/// Scores with labels, the highest first; `None` if one is no number.
fn descending(scores: &[f64], labels: &[bool]) -> Option<Vec<(f64, bool)>> {
    assert_eq!(scores.len(), labels.len(), "a label for each score");
    let mut order: Vec<_> = scores.iter().copied().zip(labels.iter().copied()).collect();
    if scores.iter().any(|score| score.is_nan()) {
        return None;
    }
    order.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal));
    Some(order)
}

/// Fraction of places at which two sequences are equal; `None` if they are empty.
///
/// # Panics
/// They differ in length.
pub fn agreement<T: PartialEq>(a: &[T], b: &[T]) -> Option<f64> {
    assert_eq!(a.len(), b.len(), "sequences of one length");
    let equal = a.iter().zip(b).filter(|(x, y)| x == y).count();
    (!a.is_empty()).then(|| equal as f64 / a.len() as f64)
}

/// exp(−mean) of natural log-probabilities; `None` if there are none.
pub fn perplexity(log_probs: &[f64]) -> Option<f64> {
    let mean = log_probs.iter().sum::<f64>() / log_probs.len() as f64;
    (!log_probs.is_empty()).then(|| (-mean).exp())
}

/// log softmax(logits) at a token, in double precision: l_t − max − ln Σ exp(l − max).
///
/// `None` if there is no such token, or a logit is infinite or no number.
pub fn log_softmax_at<T: Copy + Into<f64>>(logits: &[T], token: usize) -> Option<f64> {
    let at: f64 = (*logits.get(token)?).into();
    let logits = || logits.iter().map(|&logit| logit.into());
    if !logits().all(f64::is_finite) {
        return None;
    }
    let max = logits().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits().map(|logit| (logit - max).exp()).sum();
    Some(at - max - sum.ln())
}

/// Cosine of the angle between two vectors; `None` if one is zero or their product is no number.
///
/// # Panics
/// They differ in length.
pub fn cosine<T: Copy + Into<f64>>(a: &[T], b: &[T]) -> Option<f64> {
    let product = |a: &[T], b: &[T]| a.iter().zip(b).map(|(&x, &y)| x.into() * y.into()).sum::<f64>();
    assert_eq!(a.len(), b.len(), "vectors of one length");
    let cosine = product(a, b) / (product(a, a).sqrt() * product(b, b).sqrt());
    (!cosine.is_nan()).then_some(cosine)
}

/// The largest |aᵢ − bᵢ|, 0 for empty sequences; not a number if one of the differences is none.
///
/// # Panics
/// They differ in length.
pub fn max_difference<T: Copy + Into<f64>>(a: &[T], b: &[T]) -> f64 {
    assert_eq!(a.len(), b.len(), "sequences of one length");
    let differences = a.iter().zip(b).map(|(&x, &y)| (x.into() - y.into()).abs());
    // `f64::max` would drop what is no number.
    differences.fold(0.0, |max, d| if d > max || d.is_nan() { d } else { max })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: [bool; 4] = [true, false, true, false];

    #[test]
    fn auc_counts_pairs() {
        assert_eq!(auc(&[0.9, 0.1, 0.8, 0.2], &LABELS), Some(1.0));
        assert_eq!(auc(&[0.1, 0.9, 0.2, 0.8], &LABELS), Some(0.0));
        // Of the pairs (0.9, 0.6), (0.9, 0.2), (0.4, 0.6), (0.4, 0.2) the third is wrong.
        assert_eq!(auc(&[0.9, 0.6, 0.4, 0.2], &LABELS), Some(0.75));
        // (0.5, 0.5) twice a half, (0.9, 0.5) twice right.
        assert_eq!(auc(&[0.9, 0.5, 0.5, 0.5], &LABELS), Some(0.75));
        assert_eq!(auc(&[0.5; 4], &LABELS), Some(0.5));
        assert_eq!(auc(&[f64::INFINITY, 0.0, -0.0, f64::NEG_INFINITY], &LABELS), Some(0.875));
        assert_eq!(auc(&[0.5; 2], &[true, true]), None);
        assert_eq!(auc(&[], &[]), None);
        assert_eq!(auc(&[f64::NAN, 0.0, 1.0, 2.0], &LABELS), None);
    }

    #[test]
    fn best_threshold() {
        let best = |scores: &[f64], labels: &[bool]| best_threshold_accuracy(scores, labels);
        let found = |threshold, accuracy| Some(BestThreshold { threshold, accuracy });
        assert_eq!(best(&[0.9, 0.1, 0.8, 0.2], &LABELS), found(0.8, 1.0));
        // From 0.9 on: + − + − is right thrice; so is from 0.4 on, which is lower.
        assert_eq!(best(&[0.9, 0.6, 0.4, 0.2], &LABELS), found(0.9, 0.75));
        assert_eq!(best(&[0.1, 0.9, 0.2, 0.8], &LABELS), found(f64::INFINITY, 0.5));
        // Equal scores cannot be told apart.
        assert_eq!(best(&[0.5, 0.5, 0.5], &[true, true, false]), found(0.5, 2.0 / 3.0));
        assert_eq!(best(&[], &[]), None);
        assert_eq!(best(&[f64::NAN], &[true]), None);
    }

    #[test]
    fn agreement_is_a_fraction() {
        assert_eq!(agreement(&[1, 2, 3, 4], &[1, 2, 0, 0]), Some(0.5));
        assert_eq!(agreement::<u32>(&[], &[]), None);
    }

    #[test]
    fn log_probabilities() {
        // softmax(0, ln 3) = (1/4, 3/4).
        let logits = [0.0, 3f64.ln()];
        let log_probs: Vec<f64> = (0..2).map(|t| log_softmax_at(&logits, t).unwrap()).collect();
        assert!((log_probs[0] - 0.25f64.ln()).abs() < 1e-15, "{log_probs:?}");
        assert!((log_probs[1] - 0.75f64.ln()).abs() < 1e-15, "{log_probs:?}");
        // exp(−(ln 1/4 + ln 3/4) / 2) = 4 / √3.
        assert!((perplexity(&log_probs).unwrap() - 4.0 / 3f64.sqrt()).abs() < 1e-14);
        // Of n equal tokens each has probability 1/n, however large the logits.
        assert!((log_softmax_at(&[3e38f32; 8], 5).unwrap() + 8f64.ln()).abs() < 1e-15);
        assert_eq!(log_softmax_at(&[0.0, 1.0], 2), None);
        assert_eq!(log_softmax_at(&[0.0, f64::NAN], 0), None);
        assert_eq!(log_softmax_at(&[0.0, f64::INFINITY], 0), None);
        assert_eq!(perplexity(&[]), None);
    }

    #[test]
    fn vectors() {
        assert_eq!(cosine(&[3.0f32, 4.0], &[4.0, 3.0]), Some(0.96));
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 2.0]), Some(0.0));
        assert_eq!(cosine(&[2.0, 0.0], &[-1.0, 0.0]), Some(-1.0));
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), None);
        assert_eq!(max_difference(&[1.0, 2.0, 3.0], &[1.5, 0.0, 3.0]), 2.0);
        assert_eq!(max_difference::<f32>(&[], &[]), 0.0);
        assert!(max_difference(&[f64::NAN, 1.0], &[0.0, 3.0]).is_nan());
    }
}
