//! Devices that fail: no operation panics, whatever fails first, nothing made afterwards has content, and the status tells.

use kernels::cpu::Cpu;
use kernels::cuda::Cuda;
use kernels::{
    Backend, DcfKeys, DcfShape, DcfThresholds, Device, DpfKeys, Fault, Formula, GemmBatch, Indices, Input,
    KeyStream, Map, Message, Received, Segments, Storage, Strides, Zip,
};
use kernels_shim::{Failing, Order, Shim};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Every operation once. What each made, as far as it was read.
fn everything(d: &dyn Backend) -> Vec<Vec<u64>> {
    let mut read = vec![];
    let mut keep = |a: &Storage| read.push(d.download(a).into_owned());
    let words = |n: u64| d.upload((1..=n).collect());
    let mut a = words(64);
    let b = d.chacha12(&[7; 32], 1, 64, 60);
    d.zip(Zip::Mul, &mut a, &b);
    d.map(Map::Add(3), &mut a);
    keep(&a);
    keep(&d.zipped(Zip::Add, &a, &b));
    keep(&d.mapped(Map::Neg, &a));
    keep(&a.clone());
    keep(&d.zeros(5));
    keep(&d.reduce_segments(Zip::Add, &a, &Segments::new(vec![0, 10, 64])));
    keep(&d.gather(&a, &vec![3, 63, 0].into()));
    keep(&d.gather(&a, &Indices::grid(3, [(4, 10), (5, 2)])));
    keep(&d.scatter(&words(2), &vec![4, 1].into(), 6));
    keep(&d.scatter(&words(6), &Indices::grid(1, [(2, 10), (3, 2)]), 20));
    keep(&d.reduce_segments(Zip::Xor, &a, &Segments::even(8, 7)));
    keep(&d.slice(&a, 3..9));
    keep(&d.concat(&[&a, &b]));
    let mut message = Message::default();
    d.pack(&a, 17, &mut message);
    keep(&d.unpack(&message.into_bytes(), 17, 64));
    let mut message = Message::default();
    d.pack(&a, 64, &mut message);
    d.pack(&d.zeros(10_000), 64, &mut message);
    let received = Received::from(message.into_bytes());
    keep(&d.unpack_part(&received, 8, 17, 30));
    let mut combined = a.clone();
    d.combine_part(Zip::Xor, &mut combined, &Received::from(vec![5; 200]), 3, 17);
    keep(&combined);
    let (mut masked, mut message) = (a.clone(), Message::default());
    d.mask_and_pack(Zip::Sub, &mut masked, &b, 17, &mut message);
    d.combine_packed(Zip::Add, &mut masked, &message.into_bytes(), 17);
    let mut message = Message::default();
    d.mask_and_pack(Zip::Xor, &mut masked, &b, 64, &mut message);
    d.pack_masked(Zip::Add, masked.clone(), &b, 30, &mut message);
    drop(message.into_bytes());
    keep(&masked);
    let formula = Formula::new(2, |t| vec![t[0] * t[1] + 3, t[0] - t[1]]);
    let input = |words, at| Input { words, at };
    d.formula(&formula, &[input(&a, None), input(&b, None)], 64).iter().for_each(&mut keep);
    let by_table = input(&b, Some(vec![1, 60, 5].into()));
    d.formula(&formula, &[input(&a, Some(Indices::first(3))), by_table], 3).iter().for_each(&mut keep);
    keep(&d.chacha12(&[7; 32], 1, 20, 3));
    keep(&d.chacha12(&[7; 32], 1, (1 << 16) + 1, 3));
    keep(&d.gemm(&a, &d.pack_matrix(&b, 16, 4), 4, 16, 4));
    keep(&d.gemm_bits(&words(4), &d.pack_matrix(&b, 16, 4), 4, 16, 4));
    let made = KeyStream { key: &[3; 32], nonce: 4, piece: KeyStream::LEAST_PIECE };
    let stored = d.pack_matrix(&b, 16, 4);
    // In registers, alone and beside a stored matrix, and in panels.
    keep(&d.gemm_regenerated(&b, &made, None, [4, 16, 4]));
    keep(&d.gemm_regenerated(&b, &made, Some((&a, &stored)), [4, 16, 4]));
    keep(&d.gemm_regenerated(&b, &made, Some((&a, &d.pack_matrix(&words(16), 4, 4))), [16, 4, 4]));
    let strides = Strides { row: 4, col: 1 };
    let (m, n, k, c_row, c_len) = (4, 4, 4, 4, 20);
    let batch = GemmBatch { m, n, k, a: strides, b: strides, c_row, offsets: vec![[0, 16, 2]], c_len };
    keep(&d.gemm_batch(&a, &b, &batch));
    d.flip_bit(&mut a, 128, &words(32));
    keep(&d.bit_at(&a, 128, &words(32)));
    keep(&d.count_bits(&a, 100));
    keep(&d.rotate_bits(&a, 128, &words(32)));
    keep(&d.suffix_xor(&a, 128));
    keep(&d.random_combinations(&words(16), &words(24), 128, 4, &Segments::new(vec![0, 3, 8])));
    keep(&d.transpose_bits(&a, 100, 4, 1, 2));
    let tables = d.prepare_tables(&[(1..=32).collect(), (5..=36).collect()], 16);
    d.select(&b, &tables, 16, 2, &a, &b).iter().for_each(&mut keep);
    let shape = DcfShape::new(20, vec![0, 3]);
    let root = |i| d.chacha12(&[i; 32], 0, 8, 64);
    let (root0, root1) = (root(1), root(2));
    let keys = d.dcf_generate(&shape, &words(4), &words(4), &root0, &root1);
    [&keys.seeds, &keys.values, &keys.controls, &keys.outputs].into_iter().for_each(&mut keep);
    let DcfKeys { seeds, values, controls, outputs } = &keys;
    let keys = DcfKeys { seeds, values, controls, outputs };
    let at = DcfThresholds::new(&shape, [(0, 0), (7, 1)]);
    keep(&d.dcf_evaluate(0, &root0, &keys, &words(4), &words(4), &at));
    let keys = d.dpf_generate(300, &words(4), &root0, &root1);
    [&keys.seeds, &keys.controls, &keys.last].into_iter().for_each(&mut keep);
    let keys = DpfKeys { seeds: &keys.seeds, controls: &keys.controls, last: &keys.last };
    keep(&d.dpf_evaluate(1, 300, &root1, &keys));
    read
}

#[test]
fn no_operation_panics_or_makes_anything_up() {
    let Some(driver) = Shim::new(Order::Forward).map(Arc::new) else { return };
    let good = Arc::new(Failing::after(u64::MAX, driver.clone()));
    let want = everything(&Cuda::with_driver(good.clone()));
    assert_eq!(want, everything(&*Cpu::best()));
    let operations = good.operations();
    assert!(operations > 100, "{operations} operations");
    for n in 0..operations {
        let failing = Arc::new(Failing::after(n, driver.clone()));
        let device = Cuda::with_driver(failing.clone());
        let got = everything(&device);
        let error = device.status().expect_err("it failed");
        assert!(matches!(error.fault, Fault::Driver { code: 719, .. }), "{error}");
        // What was read before the failure is right, and everything later is zero.
        let same = got.iter().zip(&want).take_while(|(a, b)| a == b).count();
        let lengths = |all: &[Vec<u64>]| all.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(&got), lengths(&want));
        for (i, words) in got.iter().enumerate().skip(same) {
            assert!(words.iter().all(|w| *w == 0), "result {i} when operation {n} failed");
        }
        // Nothing was asked of it any more.
        assert_eq!(failing.operations(), n + 1);
        device.begin();
        assert!(device.status().is_err(), "a lost device stays lost");
    }
    assert_eq!(driver_free(&driver), 0, "memory of failed devices is given back");
}

/// Comparisons, point functions and batches take several buffers each. Whichever is refused, what they made has content or
/// none: never what lay there before.
#[test]
fn results_of_a_lack_of_memory_are_marked() {
    let Some(driver) = Shim::new(Order::Forward).map(Arc::new) else { return };
    let all = |device: &Cuda, before: &dyn Fn()| -> Vec<Storage> {
        let words = |n: u64| device.upload((1..=n).collect());
        let (a, alpha, roots) = (words(64), words(4), [words(8), words(8)]);
        let shape = DcfShape::new(20, vec![0, 3]);
        before();
        let k = device.dcf_generate(&shape, &alpha, &alpha, &roots[0], &roots[1]);
        let p = device.dpf_generate(300, &alpha, &roots[0], &roots[1]);
        let strides = Strides { row: 4, col: 1 };
        let (m, n, c_row, c_len) = (4, 4, 4, 20);
        let batch = GemmBatch { m, n, k: 4, a: strides, b: strides, c_row, offsets: vec![[0, 16, 2]], c_len };
        let c = device.gemm_batch(&a, &a, &batch);
        let DcfKeys { seeds, values, controls, outputs } = &k;
        let at = DcfThresholds::new(&shape, [(0, 0), (7, 1)]);
        let keys = DcfKeys { seeds, values, controls, outputs };
        let e = device.dcf_evaluate(0, &roots[0], &keys, &alpha, &alpha, &at);
        vec![k.seeds, k.values, k.controls, k.outputs, p.seeds, p.controls, p.last, c, e]
    };
    let whole = Cuda::with_driver(driver.clone());
    let want: Vec<_> = all(&whole, &|| ()).iter().map(|s| whole.download(s).into_owned()).collect();
    let counted = Arc::new(Failing::lacking_after(u64::MAX, driver.clone()));
    let begun = std::cell::Cell::new(0);
    all(&Cuda::with_driver(counted.clone()), &|| begun.set(counted.operations()));
    assert!(counted.operations() > begun.get() + 9);
    for n in begun.get()..counted.operations() {
        let device = Cuda::with_driver(Arc::new(Failing::lacking_after(n, driver.clone())));
        let made = all(&device, &|| ());
        assert!(device.status().is_err(), "allocation {n}");
        for (i, (made, want)) in made.iter().zip(&want).enumerate() {
            device.begin();
            let words = device.download(made).into_owned();
            let void = device.status().is_err_and(|e| e.fault == Fault::Void);
            assert!(void || &words == want, "result {i} when there was no memory for allocation {n}");
        }
    }
}

fn driver_free(driver: &Shim) -> u64 {
    let (free, total) = kernels::cuda::driver::Driver::memory(driver).expect("it has memory");
    total - free
}

#[test]
fn a_lack_of_memory_is_its_threads_own() {
    let Some(shim) = Shim::new(Order::Forward) else { return };
    let device: Device = Arc::new(Cuda::with_driver(Arc::new(shim.capacity(1000))));
    let kept = device.upload(vec![5; 50]);
    let void = device.zeros(100);
    let error = device.status().expect_err("no room for 800 bytes");
    assert_eq!(error.fault, Fault::OutOfMemory { asked: 800, free: 600 });
    assert_eq!(error.operation, "zeros");
    // Words without content have a length and are zero, and the first failure is the one that is told.
    assert_eq!((device.len(&void), device.download(&void).into_owned()), (100, vec![0; 100]));
    assert_eq!(*device.download(&kept), [0; 50]);
    assert_eq!(device.status(), Err(error));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            device.status().expect("another thread goes on");
            assert_eq!(*device.download(&device.mapped(Map::Add(1), &kept)), [6; 50]);
            device.status().expect("there was room");
            // Unless it uses what has no content.
            device.gather(&void, &Indices::first(1));
            assert_eq!(device.status().expect_err("used words without content").fault, Fault::Void);
        });
        other.join().expect("no panic");
    });
    device.begin();
    device.status().expect("a new beginning");
    assert_eq!(*device.download(&kept), [5; 50]);
    device.status().expect("still");
    device.download(&void);
    assert_eq!(device.status().expect_err("no content").fault, Fault::Void);
    device.begin();
    device.slice(&void, 0..2);
    assert_eq!(device.status().expect_err("no content").fault, Fault::Void);
}

#[test]
fn words_of_another_device_are_refused() {
    let Some(one) = kernels_shim::device(Order::Forward) else { return };
    let other = kernels_shim::device(Order::Forward).expect("there was a compiler before");
    let cpu = Cpu::best();
    let refused = |d: &Device, a: &Storage, b: &Storage| {
        let panic = catch_unwind(AssertUnwindSafe(|| drop(d.zipped(Zip::Add, a, b)))).expect_err("refused");
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string())).expect("a message")
    };
    let [a, b, c] = [&one, &other, &cpu].map(|d| d.upload(vec![1]));
    for text in [refused(&one, &a, &b), refused(&one, &c, &a), refused(&cpu, &c, &a), refused(&cpu, &b, &c)] {
        assert!(text.contains("was given words of another device"), "{text}");
    }
}
