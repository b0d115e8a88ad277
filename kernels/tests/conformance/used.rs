//! Buffers that serve again: nothing of their last use gets into a result.

use super::{Numbers, up};
use kernels::{Device, Indices, KeyStream, Matrix, Words};

type Operation = fn(&Words, &Words) -> Words;

/// Words of an input: results are long enough to take a used buffer.
const N: usize = 1 << 14;

/// Each operation in used buffers, against the same in those of a new thread, which are zero.
pub(crate) fn buffers(device: &Device) {
    let operations: [(&str, Operation); 19] = [
        ("zip", |a, b| a + b),
        ("map", |a, _| a >> 3u32),
        ("formula", |a, b| Words::formula([a, b], |[a, b]| (a * b + 1).low(40))),
        ("unpack", |a, _| {
            let mut message = vec![];
            a.pack(23, &mut message);
            Words::unpack(a.device(), &message, 23, N)
        }),
        ("gather rows", |a, _| a.gather(&Indices::grid(3, [(100, 160), (90, 1)]))),
        ("gather columns", |a, _| a.gather(&Indices::grid(3, [(90, 1), (100, 160)]))),
        ("repeat", |a, _| a.gather(&Indices::grid(3, [(100, 1), (90, 0)]))),
        ("gather", |a, _| a.gather(&(0..9001u32).map(|i| i * 7 % 9001).collect())),
        ("scatter", |a, _| a.scatter(&Indices::grid(1, [(N, 2), (1, 1)]), 2 * N)),
        ("sums", |a, _| a.sum_rows(2)),
        ("bit at", |a, b| a.bit_at(64, b)),
        ("count bits", |a, _| a.count_bits(64)),
        ("rotate bits", |a, b| a.rotate_bits(128, &b.slice(0..N / 2))),
        ("suffix xor", |a, _| a.suffix_xor(100)),
        ("transpose bits", |a, _| a.transpose_bits(50, 64, 3, 30)),
        ("product", |a, b| Matrix::new(&b.slice(0..64 * 65), 65, 64).apply(a)),
        ("low product", |a, b| Matrix::new(&b.slice(0..256 * 130), 130, 256).apply_low(a, 52)),
        ("product of bits", |a, b| {
            Matrix::new(&b.slice(0..128 * 130), 130, 128).apply_bits(&a.slice(0..N / 8))
        }),
        ("regenerated product", |a, _| {
            a.by_stream(&KeyStream { key: &[3; 32], nonce: 5, piece: 1 << 10 }, 67, 64)
        }),
    ];
    let mut r = Numbers(90);
    let (a, b) = (up(device, &r.words(N)), up(device, &r.words(256 * 130)));
    for (name, operation) in operations {
        let result = || {
            let b = if name.contains("product") { b.clone() } else { b.slice(0..N) };
            operation(&a, &b).to_vec()
        };
        let want = std::thread::scope(|s| s.spawn(result).join().expect("a result"));
        for _ in 0..2 {
            let used = (13..18).flat_map(|log| [1 << log; 3]);
            drop(used.map(|n| Words::chacha12(device, &[9; 32], 0, n, 64)).collect::<Vec<_>>());
            assert!(result() == want, "{name}");
        }
    }
}
