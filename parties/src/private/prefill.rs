//! How prompts go through the model: in passes of a bounded number of tokens, the last tokens of all of them in the last
//! pass, from where answers go on side by side.

use super::{Pass, Turn};

/// Tokens of prompts that go through the model at once, where parties allow as many.
const PREFILL: usize = 128;

/// How prompts of these lengths are read: for each pass, how many tokens of each prompt it takes. `limit` is the most tokens
/// of a pass that the parties allow (`limits.max_context_tokens`). More prompts than that end in a longer pass, which
/// parties refuse.
pub fn prompt_passes(lengths: &[usize], limit: usize) -> Vec<Vec<usize>> {
    let most = limit.clamp(1, PREFILL);
    let mut rest = lengths.to_vec();
    let mut passes = vec![];
    // As long as not all that is left fits into one pass: full ones, in the order of the prompts.
    while rest.iter().sum::<usize>() > most && rest.iter().any(|&r| r > 1) {
        let mut room = most;
        let take = |rest: &mut usize| {
            let now = room.min(rest.saturating_sub(1));
            room -= now;
            *rest -= now;
            now
        };
        passes.push(rest.iter_mut().map(take).collect());
    }
    passes.push(rest);
    passes
}

/// Which tokens of which prompt go into which pass.
pub(super) fn passes(prompts: &[Vec<u32>], limit: usize) -> Vec<Vec<Turn<'_>>> {
    let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
    let mut rest: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let mut passes = vec![];
    for counts in prompt_passes(&lengths, limit) {
        let mut turns = vec![];
        for (sequence, (rest, count)) in rest.iter_mut().zip(counts).enumerate().filter(|(_, (_, n))| *n > 0)
        {
            let (tokens, later) = rest.split_at(count);
            *rest = later;
            turns.push(Turn { sequence, pass: Pass { tokens, segment: None }, drafted: 0 });
        }
        passes.push(turns);
    }
    passes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sequence and tokens of each turn, pass by pass; whatever happens, prompts are read in order and end together.
    fn lengths(prompts: &[usize]) -> Vec<Vec<(usize, usize)>> {
        lengths_within(prompts, 4096)
    }

    /// The same at parties that allow so many tokens in a pass.
    fn lengths_within(prompts: &[usize], limit: usize) -> Vec<Vec<(usize, usize)>> {
        let prompts: Vec<Vec<u32>> = prompts.iter().map(|&n| (0..n as u32).collect()).collect();
        let passes = passes(&prompts, limit);
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

    #[test]
    fn no_pass_has_more_tokens_than_the_parties_allow() {
        assert_eq!(lengths_within(&[25], 10), [[(0, 10)], [(0, 10)], [(0, 5)]]);
        assert_eq!(lengths_within(&[7, 1, 9], 6), [vec![(0, 6)], vec![(2, 6)], vec![(0, 1), (1, 1), (2, 3)]]);
        for limit in 3..140 {
            let passes = lengths_within(&[100, 30, 200], limit);
            let tokens = passes.iter().map(|p| p.iter().map(|(_, n)| n).sum::<usize>());
            assert!(tokens.clone().max() <= Some(limit.min(128)), "{limit}: {passes:?}");
            assert_eq!(passes.len(), 330usize.div_ceil(limit.min(128)), "{limit}: all are full but the last");
        }
    }
}
