//! Tables stay on the device: one that is used again is not copied there again, and what was not copied whole is not kept.

use kernels::cuda::Cuda;
use kernels::{Device, Fault, Indices, Segments, Words};
use kernels_shim::{Failing, Order, Shim};
use std::sync::Arc;

fn device(failing: &Arc<Failing>) -> Device {
    Arc::new(Cuda::with_driver(failing.clone()))
}

/// Copies to the device while `f` runs.
fn uploads(driver: &Failing, f: impl FnOnce()) -> u64 {
    let before = driver.uploads();
    f();
    driver.uploads() - before
}

#[test]
fn a_table_is_copied_once_and_a_rule_never() {
    let Some(shim) = Shim::new(Order::Forward).map(Arc::new) else { return };
    let driver = Arc::new(Failing::after(u64::MAX, shim));
    let one = device(&driver);
    let a = Words::upload(&one, (0..60).collect());
    let b = Words::upload(&one, vec![1, 2, 3]);
    // So that the one plane of row i is row i itself.
    let coins = Words::upload(&one, (0..60).flat_map(|i| [i, 0]).collect());
    let (table, rule) = (Indices::from(vec![9, 3, 7]), Indices::grid(2, [(4, 10), (5, 2)]));
    let (cut, even) = (Segments::new(vec![0, 7, 60]), Segments::even(6, 10));
    let by_table = || {
        assert_eq!(a.gather(&table).to_vec(), [9, 3, 7]);
        assert_eq!(b.scatter(&table, 10).to_vec(), [0, 0, 0, 2, 0, 0, 0, 3, 0, 1]);
        assert_eq!(a.sum_segments(&cut).to_vec(), [21, 1749]);
        assert_eq!(a.random_combinations(&coins, 64, 1, &cut).to_vec(), [7, 7]);
    };
    // One of places, one of cuts; then none, nor for a copy of them.
    assert_eq!(uploads(&driver, by_table), 2);
    assert_eq!(uploads(&driver, by_table), 0);
    assert_eq!(uploads(&driver, || drop(a.gather(&table.clone()))), 0);
    let by_rule = || {
        assert_eq!(a.gather(&rule).to_vec()[..6], [2, 4, 6, 8, 10, 12]);
        assert_eq!(a.slice(0..20).scatter(&rule, 60).to_vec()[10..16], [4, 0, 5, 0, 6, 0]);
        assert_eq!(a.sum_segments(&even).to_vec(), [45, 145, 245, 345, 445, 545]);
        assert_eq!(a.random_combinations(&coins, 64, 1, &even).to_vec(), [1, 1, 1, 1, 1, 1]);
        assert_eq!(a.sum_rows(30).to_vec(), [435, 1335]);
    };
    assert_eq!(uploads(&driver, by_rule), 0);
    // Another device has a copy of its own.
    let other = Arc::new(Failing::after(u64::MAX, Arc::new(Shim::new(Order::Reverse).expect("as above"))));
    let there = Words::upload(&device(&other), (0..60).collect());
    assert_eq!(uploads(&other, || assert_eq!(there.gather(&table).to_vec(), [9, 3, 7])), 1);
    assert_eq!(uploads(&driver, || assert_eq!(a.gather(&table).to_vec(), [9, 3, 7])), 1);
}

#[test]
fn a_table_goes_with_the_last_who_holds_it() {
    let Some(shim) = Shim::new(Order::Forward).map(Arc::new) else { return };
    let free = || kernels::cuda::driver::Driver::memory(&*shim).expect("it has memory").0;
    let one: Device = Arc::new(Cuda::with_driver(shim.clone()));
    let a = Words::upload(&one, (0..60).collect());
    let before = free();
    let table: Indices = (0..60).rev().collect();
    let copy = table.clone();
    assert_eq!(a.gather(&table).to_vec()[..3], [59, 58, 57]);
    assert_eq!(before - free(), 240);
    drop(table);
    assert_eq!(before - free(), 240);
    drop(copy);
    assert_eq!(free(), before);
}

/// What a thread had no memory for is no matter of the next one that uses the table.
#[test]
fn a_table_without_content_is_not_kept() {
    let Some(shim) = Shim::new(Order::Forward).map(Arc::new) else { return };
    let (table, cut) = (Indices::from(vec![1, 0]), Segments::new(vec![0, 2, 3]));
    let operations: [&dyn Fn(&Words) -> Words; 3] =
        [&|a| a.gather(&table), &|a| a.scatter(&table, 2), &|a| a.sum_segments(&cut)];
    for operation in operations {
        for lacking in 1..3 {
            let one = device(&Arc::new(Failing::lacking_after(lacking, shim.clone())));
            let a = Words::upload(
                &one,
                if std::ptr::eq(operation, operations[2]) { vec![4, 5, 6] } else { vec![4, 5] },
            );
            operation(&a);
            assert!(matches!(one.status().expect_err("no memory").fault, Fault::OutOfMemory { .. }));
            one.begin();
            let again = operation(&a).to_vec();
            one.status().expect("there is memory now");
            assert!(again == [5, 4] || again == [9, 6], "{again:?}");
        }
    }
    let lost = device(&Arc::new(Failing::after(4, shim.clone())));
    let a = Words::upload(&lost, vec![4, 5]);
    a.gather(&table);
    assert!(lost.status().is_err());
    let next = device(&Arc::new(Failing::after(u64::MAX, shim)));
    assert_eq!(Words::upload(&next, vec![4, 5]).gather(&table).to_vec(), [5, 4]);
}
