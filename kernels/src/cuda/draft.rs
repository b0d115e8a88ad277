//! Formulas that make their inputs themselves.
//!
//! A formula that reads what another one is about to write would have to wait for it. Both take words at the same places, so that
//! it can take that one's steps before its own, and read what that one reads.

use super::formula::Taking;
use super::wave::Span;
use crate::formula::{Change, Formula, Place, Step};
use std::sync::Arc;

/// Steps of a formula that are made again by others at most: they take time as well.
const STEPS: usize = 24;

/// A formula that is not written down yet.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) steps: Vec<Step>,
    pub(super) inputs: Vec<Taking>,
    /// Of each buffer that it reads or writes.
    pub(super) elements: usize,
}

impl Draft {
    /// What is read.
    pub(super) fn reads(&self) -> impl Iterator<Item = Span> {
        self.inputs.iter().flat_map(Taking::spans)
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        self.steps.iter().flat_map(|s| {
            let other = match s.change {
                Change::Zip(_, other) => other,
                Change::Map(_) => s.of,
            };
            [s.to, s.of, other]
        })
    }

    fn temporaries(&self) -> usize {
        let number = |place| if let Place::Temporary(t) = place { t + 1 } else { 0 };
        self.places().map(number).max().unwrap_or(0)
    }

    /// The same steps with other places.
    fn moved(&self, to: impl Fn(Place) -> Place) -> Vec<Step> {
        let moved = |s: &Step| {
            let change = match s.change {
                Change::Zip(op, other) => Change::Zip(op, to(other)),
                map => map,
            };
            Step { to: to(s.to), of: to(s.of), change }
        };
        self.steps.iter().map(moved).collect()
    }

    /// The same with input j made by `recipe` instead of read; `None` if that is too much.
    pub(super) fn making(&self, j: usize, recipe: &Recipe) -> Option<Draft> {
        let Recipe { draft: first, result } = recipe;
        if first.elements != self.elements {
            return None;
        }
        let mut inputs = self.inputs.clone();
        if let (true, [of]) = (recipe.is_copy(), &first.inputs[..]) {
            inputs[j] = *of;
            return Some(Draft { inputs, ..self.clone() });
        }
        // Its result has a temporary word that nobody else uses, and its others are gone before the next steps begin.
        let kept = self.temporaries();
        let free = |number: usize| Place::Temporary(if number < kept { number } else { number + 1 });
        let temporaries = first.temporaries();
        // Its inputs: the first in the place of the one that is not read any more.
        let mut vacant = Some(j);
        let places: Vec<usize> = (first.inputs.iter())
            .map(|input| {
                let known =
                    inputs.iter().enumerate().position(|(i, known)| Some(i) != vacant && known == input);
                known.unwrap_or_else(|| match vacant.take() {
                    Some(place) => {
                        inputs[place] = *input;
                        place
                    }
                    None => {
                        inputs.push(*input);
                        inputs.len() - 1
                    }
                })
            })
            .collect();
        if vacant.is_some() {
            // All of them were inputs already: read one of these twice.
            inputs[j] = inputs[*places.first()?];
        }
        let mut steps = first.moved(|place| match place {
            Place::Input(i) => Place::Input(places[i]),
            Place::Output(o) if o == *result => Place::Temporary(kept),
            Place::Output(o) => free(temporaries + o),
            Place::Temporary(t) => free(t),
        });
        steps.extend(
            self.moved(|place| if place == Place::Input(j) { Place::Temporary(kept) } else { place }),
        );
        let made = Draft { steps, inputs, ..*self };
        let fits = made.steps.len() <= Formula::STEPS
            && made.inputs.len() <= Formula::INPUTS
            && made.temporaries() <= Formula::TEMPORARIES;
        fits.then_some(made)
    }
}

/// How words are made: a formula's result.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    draft: Arc<Draft>,
    result: usize,
}

impl Recipe {
    /// Of each result of a formula that writes `outputs`, unless it is long.
    pub(super) fn of(draft: Draft, outputs: &[Span]) -> impl Iterator<Item = (Span, Recipe)> {
        let outputs = if draft.steps.len() <= STEPS { outputs } else { &[] };
        let draft = Arc::new(draft);
        let recipe =
            move |(result, output): (usize, &Span)| (*output, Recipe { draft: draft.clone(), result });
        outputs.iter().enumerate().map(recipe)
    }

    /// The same without results: what was one is a temporary word in the end, the second of these.
    pub(super) fn unwritten(&self) -> Option<(Draft, usize)> {
        let (kept, temporaries) = (self.draft.temporaries(), self.draft.temporaries());
        let steps = self.draft.moved(|place| match place {
            Place::Output(o) if o == self.result => Place::Temporary(kept),
            Place::Output(o) => Place::Temporary(temporaries + 1 + o),
            other => other,
        });
        let made = Draft { steps, inputs: self.draft.inputs.clone(), ..*self.draft };
        (made.temporaries() <= Formula::TEMPORARIES).then_some((made, kept))
    }

    /// Whether it only takes words from other places.
    pub(super) fn is_copy(&self) -> bool {
        self.draft.steps == [super::formula::COPY]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Map, Zip};
    use std::collections::HashMap;

    fn buffer(number: u64) -> Span {
        let buffer = [number << 8, (number << 8) + 80];
        Span { buffer, words: buffer }
    }

    fn taking(number: u64) -> Taking {
        Taking::contiguous(buffer(number))
    }

    /// What a formula makes of a word of each buffer, which is its number.
    fn results(draft: &Draft) -> Vec<u64> {
        let mut words: HashMap<String, u64> = HashMap::new();
        for (i, input) in draft.inputs.iter().enumerate() {
            words.insert(format!("{:?}", Place::Input(i)), input.in_order().expect("in order").words[0] >> 8);
        }
        for s in &draft.steps {
            let word = |place: Place| words[&format!("{place:?}")];
            let made = match s.change {
                Change::Zip(Zip::Mul, other) => word(s.of) * word(other),
                Change::Zip(_, other) => word(s.of) + word(other),
                Change::Map(Map::Add(c)) => word(s.of) + c,
                Change::Map(_) => unreachable!("additions only"),
            };
            words.insert(format!("{:?}", s.to), made);
        }
        (0..).map_while(|o| words.get(&format!("{:?}", Place::Output(o))).copied()).collect()
    }

    /// Of a formula's steps on words of these buffers.
    fn draft(
        buffers: &[u64],
        f: impl for<'d> FnOnce(&[crate::formula::Term<'d>]) -> Vec<crate::formula::Term<'d>>,
    ) -> Draft {
        let formula = Formula::new(buffers.len(), f);
        let inputs = buffers.iter().map(|b| taking(*b)).collect();
        Draft { steps: formula.steps().to_vec(), inputs, elements: 10 }
    }

    fn recipes(draft: &Draft, outputs: &[u64]) -> Vec<(Span, Recipe)> {
        Recipe::of(draft.clone(), &outputs.iter().map(|o| buffer(*o)).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn a_formula_makes_its_inputs() {
        // 20 = 2·3 + 5, 21 = (2·3 + 3)·2.
        let first = draft(&[2, 3], |t| vec![t[0] * t[1] + 5, (t[0] * t[1] + t[1]) * t[0]]);
        let made = recipes(&first, &[20, 21]);
        assert_eq!(made.len(), 2);
        // Other words than are in these buffers, so that it shows which are used.
        let second = draft(&[7, 20, 3], |t| {
            let p = t[0] * t[1];
            vec![p * t[1] + (t[2] + t[0]) * p, p + t[2]]
        });
        assert_eq!(results(&first), [11, 18]);
        let want = |twenty: u64| vec![7 * twenty * twenty + 10 * 7 * twenty, 7 * twenty + 3];
        for (recipe, word) in made.iter().zip([11, 18]) {
            let both = second.making(1, &recipe.1).expect("it fits");
            assert_eq!(results(&both), want(word));
            // The input that both have is read once, the one that is made not at all.
            assert_eq!(both.inputs, [taking(7), taking(2), taking(3)]);
        }
        // And once more: 2 is made of 30.
        let (_, recipe) = &recipes(&draft(&[30], |t| vec![t[0] + 1]), &[2])[0];
        let all = second.making(1, &made[0].1).and_then(|both| both.making(1, recipe)).expect("it fits");
        assert_eq!(results(&all), want(31 * 3 + 5));
        // All that it reads is read already.
        let (_, recipe) = &recipes(&draft(&[3], |t| vec![t[0] * t[0]]), &[7])[0];
        let both = second.making(0, recipe).expect("it fits");
        assert_eq!(results(&both), [9 * 20 * 20 + 12 * 9 * 20, 9 * 20 + 3]);
    }

    #[test]
    fn what_cannot_be_made_again_is_not() {
        let second = draft(&[20, 7], |t| vec![t[0] + t[1]]);
        let made = |first: &Draft| recipes(first, &[20]).first().and_then(|(_, r)| second.making(0, r));
        let first = draft(&[2], |t| vec![t[0] + 1]);
        assert!(made(&first).is_some());
        // Another number of elements.
        assert!(made(&Draft { elements: 9, ..first.clone() }).is_none());
        // Too many steps, or too many temporary words, or inputs.
        assert!(made(&draft(&[2], |t| vec![(0..25).fold(t[0], |a, i| a + (i + 1))])).is_none());
        let many = draft(&(30..50).collect::<Vec<_>>(), |t| vec![t.iter().skip(1).fold(t[0], |a, b| a + *b)]);
        assert!(made(&many).is_none());
    }

    #[test]
    fn copies_are_read_where_they_come_from() {
        let packed = Taking::contiguous(buffer(3)).of_message(5, 11);
        let copy = Draft { steps: vec![crate::cuda::formula::COPY], inputs: vec![packed], elements: 10 };
        let second = draft(&[20, 7], |t| vec![t[0] + t[1]]);
        let (_, recipe) = &recipes(&copy, &[20])[0];
        let direct = second.making(0, recipe).expect("a copy");
        assert_eq!((direct.inputs, direct.steps), (vec![packed, taking(7)], second.steps.clone()));
    }
}
