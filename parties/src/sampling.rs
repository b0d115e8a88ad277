//! Choosing a token from output scores, on the client's machine.

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
    },
}

impl Sampling {
    /// From a person's settings: temperature 0 is greedy.
    ///
    /// # Errors
    /// Impossible settings.
    pub fn new(temperature: f32, top_p: f32) -> Result<Sampling, String> {
        if !(0.0..=100.0).contains(&temperature) {
            return Err(format!("a temperature of {temperature}; choose 0 (greedy) to 100"));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(format!("top-p of {top_p}; choose more than 0 and at most 1"));
        }
        Ok(if temperature == 0.0 { Sampling::Greedy } else { Sampling::Random { temperature, top_p } })
    }

    /// A token.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub fn choose(&self, logits: &[f32]) -> Result<u32, String> {
        match *self {
            Sampling::Greedy => Ok(greedy(logits)),
            Sampling::Random { temperature, top_p } => {
                let mut bytes = [0; 8];
                getrandom::fill(&mut bytes).map_err(|e| e.to_string())?;
                let uniform = (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64;
                Ok(pick(logits, temperature, top_p, uniform))
            }
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

fn pick(logits: &[f32], temperature: f32, top_p: f32, uniform: f64) -> u32 {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_unstable_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
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
        assert_eq!(Sampling::new(0.0, 1.0).unwrap(), Sampling::Greedy);
    }

    #[test]
    fn random_choice_follows_the_distribution() {
        let logits = [0.0f32, 2f32.ln(), 4f32.ln(), 1f32.ln()];
        let count = |top_p| {
            let mut counts = [0; 4];
            (0..8000)
                .for_each(|i| counts[pick(&logits, 1.0, top_p, (f64::from(i) + 0.5) / 8000.0) as usize] += 1);
            counts
        };
        assert_eq!(count(1.0), [1000, 2000, 4000, 1000]);
        // The two likeliest hold 6 of 8 parts.
        assert_eq!(count(0.7), [0, 2667, 5333, 0].map(|v| v), "top-p keeps the likeliest");
        assert_eq!(pick(&logits, 1e-3, 1.0, 0.999), 2, "cold is greedy");
    }

    #[test]
    fn impossible_settings_are_refused() {
        assert!(Sampling::new(-1.0, 1.0).is_err());
        assert!(Sampling::new(f32::NAN, 1.0).is_err());
        assert!(Sampling::new(1.0, 0.0).is_err());
        assert!(Sampling::new(1.0, 1.5).is_err());
    }
}
