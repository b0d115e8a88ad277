//! Choosing a token from output scores: on the client's machine, or told to the parties.

use models::shared::Choice;

/// How a token is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Sampling {
    /// The highest score.
    #[default]
    Greedy,
    /// At random by softmax(scores / temperature), among the likeliest tokens that together reach `top_p`.
    Random {
        /// Above 0.
        temperature: f32,
        /// In (0, 1].
        top_p: f32,
        /// Among so many of the likeliest tokens; all for 0.
        top_k: u32,
    },
}

impl Sampling {
    /// From a person's settings: temperature 0 is greedy.
    ///
    /// # Errors
    /// Impossible settings.
    pub fn new(temperature: f32, top_p: f32, top_k: u32) -> Result<Sampling, String> {
        if !(0.0..=100.0).contains(&temperature) {
            return Err(format!("a temperature of {temperature}; choose 0 (greedy) to 100"));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(format!("top-p of {top_p}; choose more than 0 and at most 1"));
        }
        Ok(if temperature == 0.0 { Sampling::Greedy } else { Sampling::Random { temperature, top_p, top_k } })
    }

    /// A token.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub fn choose(&self, logits: &[f32]) -> Result<u32, String> {
        match *self {
            Sampling::Greedy => Ok(greedy(logits)),
            Sampling::Random { temperature, top_p, top_k } => {
                let mut bytes = [0; 8];
                getrandom::fill(&mut bytes).map_err(|e| e.to_string())?;
                let uniform = (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64;
                Ok(pick(logits, temperature, top_p, top_k, uniform))
            }
        }
    }

    /// The same choice for the parties to make on shares: greedy, or among the `top_k` likeliest.
    ///
    /// # Errors
    /// They cannot.
    pub fn by_the_parties(&self) -> Result<Choice, String> {
        match *self {
            Sampling::Greedy => Ok(Choice::Greedy),
            Sampling::Random { top_p, .. } if top_p < 1.0 => {
                Err("by top-p; use --top-k, or let the client choose (--reveal logits)".into())
            }
            Sampling::Random { temperature, top_k, .. } => Ok(Choice::Sample { temperature, top_k }),
        }
    }
}

fn greedy(logits: &[f32]) -> u32 {
    logits
        .iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)))
        .map_or(0, |(i, _)| i as u32)
}

fn pick(logits: &[f32], temperature: f32, top_p: f32, top_k: u32, uniform: f64) -> u32 {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_unstable_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if top_k > 0 {
        order.truncate(top_k as usize);
    }
    let Some(&best) = order.first() else { return 0 };
    let weight = |i: usize| (f64::from(logits[i] - logits[best]) / f64::from(temperature)).exp();
    let total: f64 = order.iter().map(|&i| weight(i)).sum();
    let (mut kept, mut mass) = (0, 0.0);
    for &i in &order {
        kept += 1;
        mass += weight(i);
        if mass >= f64::from(top_p) * total {
            break;
        }
    }
    let mut left = uniform * mass;
    for &i in &order[..kept] {
        left -= weight(i);
        if left < 0.0 {
            return i as u32;
        }
    }
    order[kept - 1] as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_the_highest() {
        assert_eq!(greedy(&[1.0, 3.0, 2.0, 3.0]), 1);
        assert_eq!(Sampling::new(0.0, 1.0, 0).unwrap(), Sampling::Greedy);
    }

    #[test]
    fn random_choice_follows_the_distribution() {
        let logits = [0.0f32, 2f32.ln(), 4f32.ln(), 1f32.ln()];
        let count = |top_p, top_k| {
            let mut counts = [0; 4];
            (0..8000).for_each(|i| {
                counts[pick(&logits, 1.0, top_p, top_k, (f64::from(i) + 0.5) / 8000.0) as usize] += 1
            });
            counts
        };
        assert_eq!(count(1.0, 0), [1000, 2000, 4000, 1000]);
        // The two likeliest hold 6 of 8 parts.
        assert_eq!(count(0.7, 0), [0, 2667, 5333, 0], "top-p keeps the likeliest");
        assert_eq!(count(1.0, 2), [0, 2667, 5333, 0], "top-k keeps the likeliest");
        assert_eq!(pick(&logits, 1e-3, 1.0, 0, 0.999), 2, "cold is greedy");
    }

    #[test]
    fn impossible_settings_are_refused() {
        assert!(Sampling::new(-1.0, 1.0, 0).is_err());
        assert!(Sampling::new(f32::NAN, 1.0, 0).is_err());
        assert!(Sampling::new(1.0, 0.0, 0).is_err());
        assert!(Sampling::new(1.0, 1.5, 0).is_err());
    }
}
