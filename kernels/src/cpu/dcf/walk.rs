//! Evaluation of comparison functions: one walk down the trees of up to [`NODES`] keys, for all points of each.
//!
//! Points of a key that share a prefix share a node. On each level every node moves down to the child with its leading point,
//! in its own lane, and where other points go to the other child, that one gets a new lane. When these happen is known from
//! the points before the walk begins. At the depth of a stop its leaders leave, and answer for its points. A tree has few
//! nodes on most levels, so those of several trees fill the lanes together.

use super::super::lanes::{Answers, Lanes, NODES, Node, Nodes, Plane, Step};
use super::super::par;
use super::SMALL;
use crate::buffer;
use crate::comparison::{DcfKeys, DcfShape, DcfThresholds};
use std::cell::RefCell;
use std::ops::Range;

/// What belongs to one key each: a root of two words, the number from which thresholds are subtracted, and a share.
pub(in super::super) struct Inputs<'a> {
    pub(in super::super) root: &'a [u64],
    pub(in super::super) base: &'a [u64],
    pub(in super::super) constant: &'a [u64],
}

pub(in super::super) fn evaluate(
    lanes: &dyn Lanes,
    party: u8,
    inputs: Inputs<'_>,
    keys: &DcfKeys<&[u64]>,
    thresholds: &DcfThresholds,
) -> Vec<u64> {
    let (n, shape) = (inputs.base.len(), thresholds.shape());
    let (levels, outputs) = (shape.levels(), shape.outputs());
    assert!(party < 2, "evaluator {party}");
    assert!(
        inputs.root.len() == 2 * n && inputs.constant.len() == n,
        "a root of two words and a constant for each key"
    );
    assert!(
        keys.seeds.len() == n * levels * 2
            && keys.values.len() == n * levels
            && keys.controls.len() == n * levels
            && keys.outputs.len() == n * outputs,
        "correction words of {n} keys of {shape:?}"
    );
    let mut out = buffer::unwritten(n * thresholds.len());
    if out.is_empty() {
        return out;
    }
    let m = thresholds.len();
    let threads = if out.len() * levels < SMALL { 1 } else { rayon::current_num_threads() };
    // As many walks for each thread.
    let together = n.div_ceil(n.div_ceil(NODES).next_multiple_of(threads));
    let batch = Batch { lanes, party, inputs, keys, thresholds };
    par::chunks_if(threads > 1, &mut out, together * m, |i, out| {
        WALK.with_borrow_mut(|walk| {
            walk.fit(shape, m);
            walk.run(&batch, i * together..i * together + out.len() / m, out);
        });
    });
    out
}

thread_local! {
    /// Kept by each thread: fresh memory for a walk takes longer than the walks of a few keys.
    static WALK: RefCell<Walk> = RefCell::new(Walk::new(0));
}

/// What is evaluated.
struct Batch<'a> {
    lanes: &'a dyn Lanes,
    party: u8,
    inputs: Inputs<'a>,
    keys: &'a DcfKeys<&'a [u64]>,
    thresholds: &'a DcfThresholds,
}

impl Batch<'_> {
    fn root(&self, key: usize) -> Node {
        let (Inputs { root, constant, .. }, party) = (&self.inputs, self.party);
        let mut node = Node::root([root[2 * key], root[2 * key + 1]], party);
        node.value = if party == 0 { constant[key] } else { constant[key].wrapping_neg() };
        node
    }

    /// What corrects tree `tree` on each level and at each stop, that of key `key`.
    fn corrections(&self, key: usize, tree: usize, steps: &mut [Step], stops: &mut [Stop]) {
        let (shape, keys) = (self.thresholds.shape(), self.keys);
        let (levels, outputs) = (shape.levels(), shape.outputs());
        let own = key * levels..(key + 1) * levels;
        let seeds = keys.seeds[2 * own.start..2 * own.end].as_chunks::<2>().0;
        let words = seeds.iter().zip(&keys.values[own.clone()]).zip(&keys.controls[own]);
        for (step, ((seed, value), control)) in steps.iter_mut().zip(words) {
            for (i, plane) in step.seed.iter_mut().enumerate() {
                plane[tree] = (seed[i / 2] >> (32 * (i % 2))) as u32;
            }
            (step.value[tree], step.control[tree]) = (*value, *control as u32);
        }
        let words = keys.outputs[key * outputs..(key + 1) * outputs].as_chunks().0;
        for (stop, words) in stops.iter_mut().zip(words) {
            let words: &[u64; DcfShape::LAST] = words;
            stop.iter_mut().zip(words).for_each(|(stop, word)| stop[tree] = *word);
        }
    }
}

/// The trees' output corrections at a stop.
type Stop = [[u64; NODES]; DcfShape::LAST];

/// Nodes that are expanded together.
const TOGETHER: usize = 2 * NODES;

/// None of the points.
const NONE: u32 = u32::MAX;

/// Where the points of up to [`NODES`] trees get nodes of their own.
///
/// A node is led by the first of its points: it is compared most closely, so it goes deepest. A leader is *born* on the
/// level on which it has a node of its own, next to that of its *parent*. Each array has a row for each point, with what all
/// trees have there, and in it a point is known by its number in all trees.
pub(in super::super) struct Plan {
    /// The points, and above their bits whether they stay as they are compared.
    x: Vec<[u64; NODES]>,
    /// The leader of the node that answers for each point, its own number for a leader.
    host: Vec<Plane>,
    /// The leaders born on each level, and their parents.
    births: [Vec<[u32; 2]>; 64],
    /// The leaders of the nodes on the way to the point before, a row for each level.
    way: [Plane; 64],
}

impl Plan {
    fn new(points: usize) -> Plan {
        Plan {
            x: vec![[0; NODES]; points],
            host: vec![[0; NODES]; points],
            births: [const { vec![] }; 64],
            way: [[0; NODES]; 64],
        }
    }

    /// Finds all leaders, for `count` trees with these bases; there must be some for all [`NODES`].
    ///
    /// Points descend, except that those which wrap around lie above the first one. So of all points before, the one
    /// before or the first shares the longest prefix.
    #[inline(always)]
    pub(in super::super) fn make(&mut self, thresholds: &DcfThresholds, base: &[u64; NODES], count: usize) {
        let shape = thresholds.shape();
        let (bits, mask) = (shape.bits(), (1 << shape.bits()) - 1);
        for (x, tau) in self.x.iter_mut().zip(thresholds.list()) {
            *x = base.map(|base| base.wrapping_sub(*tau));
        }
        let (first, mut before) = (self.x[0], self.x[0]);
        let roots: Plane = std::array::from_fn(|tree| tree as u32);
        self.births.iter_mut().for_each(Vec::clear);
        self.host[0] = roots;
        self.way[..=shape.levels()].fill(roots);
        for stop in 0..shape.stops().len() {
            let (depth, points) = (shape.depth(stop), thresholds.at_stop(stop));
            for i in points.start.max(1)..points.end {
                let (x, mut born, mut nearest, mut from) = (self.x[i], [0; NODES], [0; NODES], [0; NODES]);
                for tree in 0..NODES {
                    let (near, far) = ((x[tree] ^ before[tree]) & mask, (x[tree] ^ first[tree]) & mask);
                    // The same point has no node of its own on any level.
                    born[tree] = (u64::from(bits) + u64::from(near.min(far).leading_zeros()) - 63) as u32;
                    nearest[tree] = u32::from(near <= far).wrapping_neg();
                    from[tree] = born[tree] & nearest[tree];
                }
                before = x;
                let own: Plane = std::array::from_fn(|tree| (i * NODES + tree) as u32);
                // On levels above all these, ways do not change.
                let from = from.into_iter().min().expect("there are trees");
                for level in from..=depth {
                    let way = &mut self.way[level as usize];
                    for tree in 0..NODES {
                        let new = u32::from(born[tree] <= level).wrapping_neg();
                        let shared = way[tree] & nearest[tree] | roots[tree] & !nearest[tree];
                        way[tree] = own[tree] & new | shared & !new;
                    }
                }
                self.host[i] = self.way[depth as usize];
                for tree in (0..count).filter(|tree| born[*tree] <= depth) {
                    let born = born[tree] as usize;
                    self.births[born].push([own[tree], self.way[born - 1][tree]]);
                }
            }
        }
    }
}

/// The walk of up to [`NODES`] keys.
struct Walk {
    points: usize,
    plan: Plan,
    steps: Vec<Step>,
    stops: Vec<Stop>,
    /// Of leaders, by their numbers.
    slot: Vec<u32>,
    nodes: Nodes,
    /// For the slot of a parent its child, and the slots of parents, a bit each.
    child: Vec<u32>,
    split: Vec<u32>,
    /// Those that answer at a stop.
    leaving: Nodes,
    answers: Answers,
}

impl Walk {
    fn new(points: usize) -> Walk {
        let all = points * NODES;
        Walk {
            points,
            plan: Plan::new(points),
            steps: vec![],
            stops: vec![],
            slot: vec![0; all],
            nodes: Nodes::new(all),
            child: vec![0; all],
            split: vec![0; all.div_ceil(TOGETHER)],
            leaving: Nodes::new(all),
            answers: std::array::from_fn(|_| vec![0; all + NODES]),
        }
    }

    /// Makes room for so many points of each tree.
    fn fit(&mut self, shape: &DcfShape, points: usize) {
        if self.points < points {
            *self = Walk::new(points);
        }
        self.steps.resize_with(shape.levels(), Step::default);
        self.stops.resize_with(shape.stops().len(), Stop::default);
    }

    /// Shares of `keys` at all points, key after key.
    fn run(&mut self, batch: &Batch<'_>, keys: Range<usize>, out: &mut [u64]) {
        let (thresholds, count) = (batch.thresholds, keys.len());
        let shape = thresholds.shape();
        let mut base = [batch.inputs.base[keys.start]; NODES];
        base[..count].copy_from_slice(&batch.inputs.base[keys.clone()]);
        batch.lanes.plan(&mut self.plan, thresholds, &base, count);
        self.nodes.len = 0;
        for (tree, key) in keys.enumerate() {
            (self.nodes.path[tree], self.slot[tree]) = (self.plan.x[0][tree], tree as u32);
            self.nodes.push(batch.root(key), tree as u32);
            batch.corrections(key, tree, &mut self.steps, &mut self.stops);
        }
        let mut level = 0;
        // From the coarsest stop on: it is the least deep.
        for i in (0..shape.stops().len()).rev() {
            while level < shape.depth(i) {
                self.step(batch.lanes, level, shape.bits() - 1 - level);
                level += 1;
            }
            if !thresholds.at_stop(i).is_empty() {
                self.answer(batch, i, out);
            }
        }
    }

    /// One level down, by the points' `bit`: a node moves to the child with its leader, and other children are appended.
    fn step(&mut self, lanes: &dyn Lanes, level: u32, bit: u32) {
        let step = &mut self.steps[level as usize];
        step.bit = bit;
        let x = self.plan.x.as_flattened();
        let groups = self.nodes.len.div_ceil(TOGETHER);
        self.split[..groups].fill(0);
        for [child, parent] in &self.plan.births[level as usize + 1] {
            let slot = self.slot[*parent as usize] as usize;
            self.split[slot / TOGETHER] |= 1 << (slot % TOGETHER);
            self.child[slot] = *child;
        }
        // Whole planes are written: the last group first, before anything is appended.
        let len = self.nodes.len;
        for group in (0..groups).rev() {
            let (at, mut split) = (group * TOGETHER, self.split[group]);
            let mut born = self.nodes.len;
            lanes.advance(&mut self.nodes, at, TOGETHER.min(len - at), split, step);
            while split != 0 {
                let i = self.child[at + split.trailing_zeros() as usize];
                (self.nodes.path[born], self.nodes.leader[born]) = (x[i as usize], i);
                self.slot[i as usize] = born as u32;
                born += 1;
                split &= split - 1;
            }
        }
    }

    /// Shares at the points of a stop.
    fn answer(&mut self, batch: &Batch<'_>, stop: usize, out: &mut [u64]) {
        let (thresholds, lanes) = (batch.thresholds, batch.lanes);
        let (points, shape) = (thresholds.at_stop(stop), thresholds.shape());
        let first = (points.start * NODES) as u32;
        lanes.part(&mut self.nodes, first, &mut self.leaving);
        for nodes in [&self.nodes, &self.leaving] {
            let slots = (0..).zip(&nodes.leader[..nodes.len]);
            slots.for_each(|(slot, &leader)| self.slot[leader as usize] = slot);
        }
        // A node that goes on may answer for a point as well: a copy of it does. Its points lie together.
        let mut copied = [(NONE, 0); NODES];
        let count = out.len() / thresholds.len();
        for host in &mut self.plan.host[points.clone()] {
            for (host, copied) in host[..count].iter_mut().zip(&mut copied) {
                let from = *host;
                if from < first && copied.0 != from {
                    *copied = (from, self.leaving.len as u32);
                    self.leaving.push(self.nodes.node(self.slot[from as usize] as usize), from);
                }
                // From here on the slot of the node that answers.
                *host = if from < first { copied.1 } else { self.slot[from as usize] };
            }
        }
        let len = self.leaving.len;
        for at in (0..len).step_by(TOGETHER) {
            lanes.answers(&self.leaving, at, TOGETHER.min(len - at), &self.stops[stop], &mut self.answers);
        }
        let (stop, party) = (shape.stops()[stop], u64::from(batch.party));
        let mask = (1 << shape.bits()) - 1;
        for (tree, out) in out.chunks_exact_mut(thresholds.len()).enumerate() {
            let all = self.plan.x[points.clone()].iter().zip(&self.plan.host[points.clone()]);
            for (out, (x, slot)) in out[points.clone()].iter_mut().zip(all) {
                let answer =
                    self.answers[((x[tree] & mask) >> stop) as usize % DcfShape::LAST][slot[tree] as usize];
                let stays = x[tree] >> shape.bits() & 1;
                // All ones where the sum is negated: the second party's sums are, and those of 1 − v.
                let minus = (party ^ stays ^ 1).wrapping_neg();
                *out = (answer ^ minus).wrapping_sub(minus).wrapping_add((1 - stays) & (1 - party));
            }
        }
    }
}
