//! Element-wise formulas against the same operations one after the other.

use super::{Numbers, up};
use kernels::{Device, Formula, Indices, Input, Term, Words};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Around groups of words and pieces of buffers.
const LENGTHS: [usize; 12] = [0, 1, 7, 8, 31, 503, 505, 512, 513, 1024, 1537, 20_011];

/// Every operation of a formula, on buffers as operations of their own.
pub(crate) fn operations(device: &Device) {
    let mut r = Numbers(80);
    for n in LENGTHS {
        let (a, b) = (up(device, &r.words(n)), up(device, &r.words(n)));
        let c = r.word();
        let is = |name: &str, got: Words, want: Words| {
            assert_eq!(got.to_vec(), want.to_vec(), "{name}, {n} words")
        };
        let both = |f: fn([Term<'_>; 2]) -> Term<'_>| Words::formula([&a, &b], f);
        is("add", both(|[a, b]| a + b), &a + &b);
        is("sub", both(|[a, b]| a - b), &a - &b);
        is("mul", both(|[a, b]| a * b), &a * &b);
        is("xor", both(|[a, b]| a ^ b), &a ^ &b);
        is("and", both(|[a, b]| a & b), &a & &b);
        is("itself", both(|[a, _]| a * a), &a * &a);
        is("neg", Words::formula([&a], |[a]| -a), -&a);
        is("add c", Words::formula([&a], |[a]| a + c), &a + c);
        is("sub c", Words::formula([&a], |[a]| a - c), &a - c);
        is("mul c", Words::formula([&a], |[a]| a * c), &a * c);
        for s in [0, 1, 33, 63, 64, 200] {
            is("shl", Words::formula([&a], |[a]| a << s), &a << s);
            is("shr", Words::formula([&a], |[a]| a >> s), &a >> s);
        }
        for bits in [1, 7, 63, 64] {
            is("low", Words::formula([&a], |[a]| a.low(bits)), a.clone().low(bits));
            is("exp", Words::formula([&a], |[a]| a.exp(bits.min(63))), a.exp(bits.min(63)));
        }
    }
}

/// Results that are inputs, the same ones, parts of each other, and in another order than they are made in.
pub(crate) fn results(device: &Device) {
    let mut r = Numbers(81);
    for n in LENGTHS {
        let (a, b) = (up(device, &r.words(n)), up(device, &r.words(n)));
        let got = Words::formulas([&a, &b], |[a, b]| {
            let sum = a + b;
            let product = sum * b;
            [product, b, sum, sum, sum - product, -product]
        });
        let sum = &a + &b;
        let product = &sum * &b;
        let want = [product.clone(), b.clone(), sum.clone(), sum.clone(), &sum - &product, -&product];
        assert_eq!(got.map(|w| w.to_vec()), want.map(|w| w.to_vec()), "{n} words");
    }
}

/// Formulas as long as they may be, of operations and operands that look random: temporary words serve again and again.
pub(crate) fn in_any_order(device: &Device) {
    let mut r = Numbers(82);
    for round in 0..60 {
        let (n, inputs) = (1 + r.below(40), 1 + r.below(Formula::INPUTS));
        let mut words: Vec<Words> = (0..inputs).map(|_| up(device, &r.words(n))).collect();
        let given = words.clone();
        let taken: Vec<Input<'_>> = given.iter().map(Input::from).collect();
        // What is made last is used most, so that little is kept at a time.
        let mut last = vec![];
        let got = Words::formulas_of(&taken, |terms| {
            let mut terms = terms.to_vec();
            for _ in 0..Formula::STEPS - Formula::OUTPUTS {
                let first = terms.len().saturating_sub(6);
                let (i, j) = (first + r.below(terms.len() - first), first + r.below(terms.len() - first));
                let (x, y, u, v) = (terms[i], terms[j], &words[i], &words[j]);
                let (term, word) = match (r.below(8), r.below(64) as u32, r.word()) {
                    (0, ..) => (x + y, u + v),
                    (1, ..) => (x - y, u - v),
                    (2, ..) => (x * y, u * v),
                    (3, ..) => (x ^ y, u ^ v),
                    (4, ..) => (x & y, u & v),
                    (5, s, _) => (x >> s, u >> s),
                    (6, _, c) => (x + c, u + c),
                    (_, s, _) => (x.low(s + 1), u.clone().low(s + 1)),
                };
                terms.push(term);
                words.push(word);
            }
            last = words[words.len() - Formula::OUTPUTS..].to_vec();
            terms[terms.len() - Formula::OUTPUTS..].to_vec()
        });
        for (got, want) in got.iter().zip(&last) {
            assert_eq!(got.to_vec(), want.to_vec(), "round {round}");
        }
    }
}

/// Inputs that are taken at other places, by rules and tables, against the same words in buffers of their own.
pub(crate) fn places(device: &Device) {
    let mut r = Numbers(84);
    let shapes =
        [(0, 3), (3, 0), (1, 1), (1, 700), (700, 1), (3, 5), (5, 1024), (41, 37), (2, 511), (300, 300)];
    for (rows, cols) in shapes {
        let n = rows * cols;
        let wide = up(device, &r.words(7 + 2 * rows * (cols + 3)));
        let (a, by_row, by_col) =
            (up(device, &r.words(n)), up(device, &r.words(rows)), up(device, &r.words(cols)));
        let table: Indices = (0..n).map(|_| r.below(wide.len()) as u32).collect();
        let inputs = [
            a.part(0..n),
            wide.part(5..5 + n),
            by_row.for_rows(cols),
            by_col.for_cols(rows),
            wide.at(&Indices::grid(3, [(rows, cols + 3), (cols, 1)])),
            wide.at(&Indices::grid(2, [(rows, 2 * cols), (cols, 2)])),
            wide.at(&Indices::grid(1, [(rows, 1), (cols, rows)])),
            wide.at(&table),
        ];
        for (i, input) in inputs.iter().enumerate() {
            // Twice, beside a whole buffer, and as a result.
            let got = Words::formulas([input.clone(), Input::from(&a), input.clone()], |[x, a, y]| {
                [x * a + y, x, (a ^ x) >> 1u32]
            });
            let taken = input.words.gather(input.at.as_ref().expect("places"));
            let want = [&taken * &a + &taken, taken.clone(), (&a ^ &taken) >> 1u32];
            assert_eq!(got.map(|w| w.to_vec()), want.map(|w| w.to_vec()), "input {i}, {rows} x {cols}");
        }
        let zipped = Words::formula([by_row.for_rows(cols), by_col.for_cols(rows)], |[r, c]| r - c);
        let naive =
            by_row.to_vec().into_iter().flat_map(|r| by_col.to_vec().into_iter().map(move |c| (r, c)));
        assert!(zipped.to_vec().into_iter().eq(naive.map(|(r, c)| r.wrapping_sub(c))), "{rows} x {cols}");
    }
    // Nothing, from anywhere.
    let few = up(device, &[1, 2, 3]);
    assert!(Words::formula([few.part(11..11), few.part(3..3)], |[a, b]| a + b).is_empty());
}

/// Beyond a buffer, and of another length than the other inputs.
pub(crate) fn wrong_places(device: &Device) {
    let (a, b) = (up(device, &[1, 2, 3]), up(device, &[1, 2, 3, 4]));
    let refused = |inputs: [Input<'_>; 2]| {
        let formula = || drop(Words::formula(inputs, |[a, b]| a + b));
        assert!(catch_unwind(AssertUnwindSafe(formula)).is_err());
    };
    refused([(&a).into(), (&b).into()]);
    refused([(&a).into(), b.part(0..2)]);
    refused([b.part(2..5), (&a).into()]);
    refused([b.at(&vec![0, 4, 1].into()), (&a).into()]);
    refused([(&a).into(), b.at(&Indices::grid(0, [(1, 0), (3, 2)]))]);
}

/// Long enough for several threads.
pub(crate) fn large_buffers(device: &Device) {
    let mut r = Numbers(83);
    let n = 100_003;
    let (a, b, c) = (up(device, &r.words(n)), up(device, &r.words(n)), up(device, &r.words(n)));
    let [got, low] = Words::formulas([&a, &b, &c], |[a, b, c]| [(a * b + c) >> 3, (a - c).low(17)]);
    assert_eq!(got.to_vec(), ((&a * &b + &c) >> 3).to_vec());
    assert_eq!(low.to_vec(), (&a - &c).low(17).to_vec());
    let (rows, cols) = (127, 773);
    let (a, r, c) = (a.part(10..10 + rows * cols), b.slice(0..rows), c.slice(0..cols));
    let got = Words::formula([a.clone(), r.for_rows(cols), c.for_cols(rows)], |[a, r, c]| a * r + c);
    let [a, r, c] = [a.words, &r, &c].map(Words::to_vec);
    let want = (0..rows * cols).map(|i| a[10 + i].wrapping_mul(r[i / cols]).wrapping_add(c[i % cols]));
    assert!(got.to_vec().into_iter().eq(want));
}
