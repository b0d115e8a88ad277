//! Gates that break the rule must not pass.

use super::EVALUATORS;
use super::common::{self, Case, all, flat, solve_views};
use kernels::Ring;
use protocol::gates::product;
use protocol::{Cx, Group, Item, KeyId, Purpose, Shape};

fn bits_item(cx: &Cx, name: &str, purpose: Purpose, n: usize, bits: u32) -> Item {
    Item { op: cx.op(name), purpose, index: 0, n, bits, group: Group::Add }
}

fn mutant(seed: u64, program: common::Program<'_>) -> [Result<u32, String>; 2] {
    let ring = Ring::new(3);
    let case = Case { seed, ring, inputs: &[(1, 0)], inner: &flat, program };
    EVALUATORS.map(|party| case.views(party, &all(ring, 1), 2, |_, _| ()))
}

#[test]
fn mutant_second_message_under_the_same_pad() {
    let verdict = mutant(2_000_000, &|cx, x| {
        Box::pin(async move {
            let (x, n) = (&x[0], x[0].len());
            let z = product::multiply(&cx, x, x)?;
            let (a, b) =
                (bits_item(&cx, "a", Purpose::Result, n, 3), bits_item(&cx, "b", Purpose::Result, n, 3));
            let (pads, _unused) = (cx.pads(&a), cx.pads(&b));
            cx.swap(a, z.half.clone(), &pads).await?;
            cx.swap(b, product::halves(&cx, x).half, &pads).await?;
            Ok(vec![])
        })
    });
    for v in verdict {
        assert!(v.unwrap_err().contains("received twice"));
    }
}

#[test]
fn mutant_sign_of_a_look_up_opened() {
    let verdict = mutant(2_100_000, &|cx, x| {
        Box::pin(async move {
            let (x, n) = (&x[0], x[0].len());
            // A dealt secret function of λ, as σ is, whose shares are exchanged in the clear.
            let dealt =
                cx.deal(bits_item(&cx, "sigma", Purpose::Theta, n, 3), || cx.reduce(&x.lambda & 1))?;
            let item = bits_item(&cx, "open", Purpose::Result, n, 3);
            let zeros = |_| kernels::Words::zeros(cx.device(), n);
            let pads = cx.pads(&item);
            let pads = protocol::Pads { p1: pads.p1.map(zeros), p2: pads.p2.map(zeros) };
            cx.swap(item, dealt, &pads).await?;
            Ok(vec![])
        })
    });
    for v in verdict {
        assert!(v.unwrap_err().contains("received twice"));
    }
}

#[test]
fn mutant_pad_that_the_receiver_knows() {
    let [p1, p2] = mutant(2_200_000, &|cx, x| {
        Box::pin(async move {
            let (x, n) = (&x[0], x[0].len());
            let known = cx.draw(KeyId::K02, &bits_item(&cx, "known to P2", Purpose::Bit, n, 3));
            let item = bits_item(&cx, "deal", Purpose::Theta, n, 3);
            cx.deal_beside_pad(item, |pad| pad + &x.lambda - known.expect("dealer"))?;
            Ok(vec![])
        })
    });
    // P1 receives nothing (but the mutant draws a mask that masks nothing), P2 receives λ under its own stream.
    assert!(p1.unwrap_err().contains("0 bits received"));
    assert!(p2.unwrap_err().contains("received twice"));
}

#[test]
fn mutant_message_that_depends_on_a_later_pad() {
    // Uses the pad of the first message in the content of the second, which is fine, and the pad of the second in
    // the content of the first, which is not: the two messages then determine the secret.
    let verdict = mutant(2_300_000, &|cx, x| {
        Box::pin(async move {
            let (x, n) = (&x[0], x[0].len());
            let (a, b) =
                (bits_item(&cx, "a", Purpose::Result, n, 3), bits_item(&cx, "b", Purpose::Result, n, 3));
            let (pa, pb) = (cx.pads(&a), cx.pads(&b));
            let own = |p: &protocol::Pads| if cx.is_p1() { p.p1.clone() } else { p.p2.clone() };
            let half = product::halves(&cx, x).half;
            let first = half.clone().map(|h| h + own(&pb).expect("own"));
            cx.swap(a, first, &pa).await?;
            let second = half.map(|h| h + own(&pa).expect("own"));
            cx.swap(b, second, &pb).await?;
            Ok(vec![])
        })
    });
    for v in verdict {
        assert!(v.unwrap_err().contains("received twice"));
    }
}

#[test]
fn mutant_comparison_with_one_mask_for_two_thresholds() {
    // The masked bits of two thresholds under one pad: their sum is a function of the value alone.
    let ring = Ring::new(3);
    let program: common::Program<'_> = &|cx, x| {
        Box::pin(async move {
            let n = x[0].len();
            let half = product::halves(&cx, &x[0]).half;
            let (a, b) = (
                bits_item(&cx, "first", Purpose::Carry, n, 1),
                bits_item(&cx, "second", Purpose::Carry, n, 1),
            );
            let (pads, _unused) = (cx.pads(&a), cx.pads(&b));
            let bit = |s: u32| half.clone().map(|h| (h >> s) & 1);
            cx.swap(a, bit(0), &pads).await?;
            cx.swap(b, bit(1), &pads).await?;
            Ok(vec![])
        })
    };
    let column = (Shape::new(1, 1), 0);
    let case = Case { seed: 2_400_000, ring, inputs: &[(1, 0)], inner: &flat, program };
    for party in EVALUATORS {
        assert!(case.views(party, &all(ring, 1), 1, |_, _| ()).is_err());
        let solved = solve_views(2_410_000, ring, party, &[column], &all(ring, 1), &[], program);
        assert!(solved.unwrap_err().contains("no masks give this transcript"));
    }
}
