use super::*;
use crate::backend::Zip;
use crate::cpu::scalar::Scalar;

const N: usize = LONG + 77;

fn words(seed: u64) -> HostWords {
    Buffer::ours((0..N as u64).map(|i| (i + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect()).into()
}

fn with(op: Zip, a: &HostWords, b: &HostWords) -> HostWords {
    let inputs = vec![(a.clone(), None), (b.clone(), None)];
    call(&Scalar, in_turn(&[Change::Zip(op, Place::Input(1))]), inputs, N).remove(0)
}

fn is_made(words: &HostWords) -> bool {
    words.0.made.get().is_some()
}

/// Inputs, results that are written, and temporary words of what makes these.
fn fused(words: &HostWords, packed: bool) -> [usize; 3] {
    let Origin::Result(root) = &words.0.origin else { panic!("no result") };
    let calls = pending_below(root);
    let locked: Vec<_> = calls.iter().map(|c| c.lock()).collect();
    let pending: Vec<&Pending> = locked.iter().filter_map(|p| p.as_ref()).collect();
    let fused = Fused::new(&pending, packed.then_some(words));
    [fused.inputs.len(), fused.outputs.len(), fused.temporaries]
}

#[test]
fn only_what_somebody_has_is_written() {
    let (a, b) = (words(1), words(2));
    let sum = with(Zip::Add, &a, &b);
    let product = with(Zip::Mul, &sum, &a);
    let end = with(Zip::Xor, &product, &sum);
    assert_eq!(fused(&end, false), [2, 3, 0]);
    drop(product);
    assert_eq!(fused(&end, false), [2, 2, 1]);
    assert_eq!(fused(&end, true), [2, 1, 2]);
    let other = with(Zip::Sub, &sum, &b);
    drop(sum);
    // A call that is not evaluated has it as well.
    assert_eq!(fused(&end, false), [2, 2, 1]);
    assert!(!is_made(&end) && !is_made(&other));
    let want = |i: usize| {
        let (x, y) = (a.words(&Scalar)[i], b.words(&Scalar)[i]);
        let sum = x.wrapping_add(y);
        (sum.wrapping_mul(x) ^ sum, x)
    };
    assert!((0..N).all(|i| (end.words(&Scalar)[i], other.words(&Scalar)[i]) == want(i)));
    assert!(matches!(&end.0.origin, Origin::Result(call) if call.lock().is_none() && end.calls() == 0));
}

#[test]
fn what_is_packed_is_unpacked_only_for_who_needs_all_of_it() {
    let (a, mut bytes) = (words(3), vec![]);
    pack(&Scalar, a.clone(), 13, &mut bytes);
    let part = HostWords::packed(N, Packed::Part { message: Arc::new(bytes.clone()), at: 0, bits: 13 });
    let twice = with(Zip::Add, &part, &part);
    let mut out = vec![7];
    pack(&Scalar, with(Zip::Sub, &twice, &part), 13, &mut out);
    assert!(out[1..] == bytes && !is_made(&part) && is_made(&twice));
    assert!(part.words(&Scalar).iter().zip(a.words(&Scalar)).all(|(p, a)| *p == a & 0x1fff));
    assert!(twice.words(&Scalar).iter().zip(part.words(&Scalar)).all(|(t, p)| *t == 2 * p));
    // Packed and kept.
    let (sum, mut both) = (with(Zip::Add, &a, &twice), vec![]);
    pack(&Scalar, sum.clone(), 64, &mut both);
    assert!(is_made(&sum));
    assert!(both.as_chunks().0.iter().zip(sum.words(&Scalar)).all(|(b, w)| u64::from_le_bytes(*b) == *w));
    assert_eq!(both.len(), 8 * N);
}

#[test]
fn words_of_several_owners_are_changed_for_one() {
    let mut a = words(4);
    let (other, later) = (a.clone(), with(Zip::Add, &a, &a));
    a.words_mut(&Scalar)[5] += 1;
    assert_eq!(a.words(&Scalar)[5], other.words(&Scalar)[5] + 1);
    assert_eq!(later.words(&Scalar)[5], other.words(&Scalar)[5].wrapping_mul(2));
}

#[test]
fn chains_are_as_long_as_they_like() {
    let one = words(5);
    let mut sum = one.clone();
    for _ in 0..2000 {
        sum = with(Zip::Add, &sum, &one);
        assert!(sum.calls() <= CALLS);
    }
    assert_eq!(sum.words(&Scalar)[9], one.words(&Scalar)[9].wrapping_mul(2001));
}

/// Threads that need parts of the same at the same time.
#[test]
fn threads_make_words_together() {
    for seed in 0..60 {
        let (a, b) = (words(seed), words(seed + 1));
        let base = with(Zip::Mul, &a, &b);
        let ends: Vec<_> = [Zip::Add, Zip::Sub, Zip::Xor, Zip::Mul]
            .iter()
            .map(|op| with(*op, &with(*op, &base, &a), &base))
            .collect();
        let keep = if seed % 2 == 0 { Some(base) } else { None };
        std::thread::scope(|s| {
            for end in &ends {
                s.spawn(|| assert_eq!(end.words(&Scalar).len(), N));
            }
            let keep = &keep;
            s.spawn(move || keep.as_ref().map(|base| assert_eq!(base.words(&Scalar).len(), N)));
        });
        let (x, y) = (a.words(&Scalar)[77], b.words(&Scalar)[77]);
        let base = x.wrapping_mul(y);
        let want = [
            base.wrapping_add(x).wrapping_add(base),
            0u64.wrapping_sub(x),
            x,
            base.wrapping_mul(x).wrapping_mul(base),
        ];
        assert!(ends.iter().zip(want).all(|(end, want)| end.words(&Scalar)[77] == want));
    }
}

/// At once, not when somebody needs the words.
#[test]
fn wrong_places_and_widths_are_refused() {
    let refused = |f: &dyn Fn()| {
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).expect_err("a panic");
        panic.downcast_ref::<String>().cloned().unwrap_or_default()
    };
    let a = words(6);
    let places = |first| Some(Indices::grid(first, [(1, 0), (N, 1)]));
    let copy = || in_turn(&[Change::Map(crate::backend::Map::Add(0))]);
    assert_eq!(call(&Scalar, copy(), vec![(a.clone(), places(0))], N).len(), 1);
    let beyond = refused(&|| _ = call(&Scalar, copy(), vec![(a.clone(), places(1))], N));
    assert_eq!(beyond, format!("place {N} of {N} words"));
    let device = crate::cpu::Cpu::best();
    let long = crate::Words::zeros(&device, N);
    for bits in [0, 65] {
        let out = || crate::Message::default();
        let masked = |put: &dyn Fn(&mut crate::Message)| refused(&|| put(&mut out()));
        for said in [
            masked(&|out| (&long + &long).pack_into(bits, out)),
            masked(&|out| long.clone().pack_masked(Zip::Sub, &long, bits, out)),
            masked(&|out| _ = long.clone().mask_and_pack(Zip::Sub, &long, bits, out)),
        ] {
            assert_eq!(said, format!("width of {bits} bits"));
        }
    }
}
