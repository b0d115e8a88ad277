//! How prompts go through the model: in passes of a bounded number of tokens, the last tokens of all of them in the last
//! pass, from where answers go on side by side.

use super::{Pass, Turn};

/// Tokens of prompts that go through the model at once.
const PREFILL: usize = 128;

/// Passes that one prompt of so many tokens takes.
pub fn prompt_passes(tokens: usize) -> usize {
    tokens.div_ceil(PREFILL)
}

/// Which tokens of which prompt go into which pass.
pub(super) fn passes(prompts: &[Vec<u32>]) -> Vec<Vec<Turn<'_>>> {
    let mut rest: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let mut passes = vec![];
    // As long as not all that is left fits into one pass: full ones, in the order of the prompts.
    while rest.iter().map(|r| r.len()).sum::<usize>() > PREFILL && rest.iter().any(|r| r.len() > 1) {
        let (mut room, mut taken) = (PREFILL, vec![]);
        for rest in &mut rest {
            let (now, later) = rest.split_at(room.min(rest.len().saturating_sub(1)));
            room -= now.len();
            *rest = later;
            taken.push(now);
        }
        passes.push(turns(&taken));
    }
    passes.push(turns(&rest));
    passes
}

fn turns<'p>(tokens: &[&'p [u32]]) -> Vec<Turn<'p>> {
    let all = tokens.iter().enumerate().filter(|(_, tokens)| !tokens.is_empty());
    let turn = |(sequence, tokens): (usize, &&'p [u32])| Turn {
        sequence,
        pass: Pass { tokens, segment: None },
        drafted: 0,
    };
    all.map(turn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sequence and tokens of each turn, pass by pass; whatever happens, prompts are read in order and end together.
    fn lengths(prompts: &[usize]) -> Vec<Vec<(usize, usize)>> {
        let prompts: Vec<Vec<u32>> = prompts.iter().map(|&n| (0..n as u32).collect()).collect();
        let passes = passes(&prompts);
        for (i, prompt) in prompts.iter().enumerate() {
            let turns = passes.iter().flatten().filter(|t| t.sequence == i);
            assert_eq!(&turns.flat_map(|t| t.pass.tokens.to_vec()).collect::<Vec<_>>(), prompt);
        }
        assert_eq!(passes.last().unwrap().len(), prompts.len(), "all end in the last pass");
        assert!(passes.iter().all(|p| p.is_sorted_by(|a, b| a.sequence < b.sequence)));
        let length = |t: &Turn<'_>| (t.sequence, t.pass.tokens.len());
        passes.iter().map(|p| p.iter().map(length).collect()).collect()
    }

    #[test]
    fn prompts_are_read_in_full_passes_and_end_together() {
        assert_eq!(lengths(&[1]), [[(0, 1)]]);
        assert_eq!(lengths(&[128]), [[(0, 128)]]);
        assert_eq!(lengths(&[129]), [[(0, 128)], [(0, 1)]]);
        assert_eq!(lengths(&[300]), [[(0, 128)], [(0, 128)], [(0, 44)]]);
        assert_eq!(lengths(&[5, 1, 9]), [[(0, 5), (1, 1), (2, 9)]]);
        assert_eq!(
            lengths(&[100, 1, 200]),
            [vec![(0, 99), (2, 29)], vec![(2, 128)], vec![(0, 1), (1, 1), (2, 43)]]
        );
        // More prompts than fit into a pass.
        assert_eq!(lengths(&[2; 130]).iter().map(Vec::len).collect::<Vec<_>>(), [128, 2, 130]);
    }
}
