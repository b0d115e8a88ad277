//! What a program says where there is no device, or no usable one: a sentence with a remedy, and no panic. Each case is a
//! process of its own, with another library in the driver's place.

use kernels::Map;
use kernels_shim::Seen;
use std::path::Path;
use std::process::Command;

const ASKED: &str = "CATAMOUNT_TEST_DEVICE";

/// The other process: opens a device, computes with it, and says what happened.
#[test]
fn other_process() {
    let Ok(index) = std::env::var(ASKED) else { return };
    match kernels::cuda::open(index.parse().expect("a number")) {
        Err(e) => println!("<none: {e}>"),
        Ok(device) => {
            println!("<{}, {:?}>", device.name(), device.memory());
            // Several pieces of pinned memory, and a part of one.
            let words: Vec<u64> = (0..1_234_567).collect();
            let sum = device.mapped(Map::Add(1), &device.upload(words));
            let right = device.download(&sum).iter().zip(1..).all(|(a, b)| *a == b);
            let second = device.memory();
            println!("<right: {right}, {:?}, {second:?}>", device.status().map_err(|e| e.to_string()));
        }
    }
}

/// The other process again: small uploads, more than there are places for.
#[test]
fn other_process_uploads() {
    let Ok(index) = std::env::var(ASKED) else { return };
    let device = kernels::cuda::open(index.parse().expect("a number")).expect("a device");
    let seen = || Seen::now().expect("the library of the tests");
    let before = seen();
    // Rows of different length, all small; the longest are as long as a place.
    let row = |i: u64| {
        (0..if i % 50 == 7 { 8192 } else { i % 30 + 1 }).map(|j| 1_000_003 * i + j).collect::<Vec<_>>()
    };
    let upload = |i: u64| device.upload(row(i));
    let mut all: Vec<_> = (0..64).map(upload).collect();
    println!("<waits for 64: {}>", seen().waits - before.waits);
    all.push(upload(64));
    println!("<for one more: {}>", seen().waits - before.waits);
    all.extend((65..200).map(upload));
    // A large one, which has other places, in between.
    let large = device.upload((0..100_000).collect());
    all.extend((200..300).map(upload));
    let right = (0..).zip(&all).all(|(i, words)| *device.download(words) == row(i));
    let large_right = device.download(&large).iter().copied().eq(0..100_000);
    println!("<right: {right}, {large_right}, {:?}>", device.status().map_err(|e| e.to_string()));
    drop((all, large, device));
    println!("<left: {} pinned, {} unwiped, of {}>", seen().pinned, seen().unwiped, before.pinned);
}

/// What it says, with libraries from `folder` and answers as in `fake`.
fn said(folder: &Path, fake: &str, index: usize) -> String {
    said_by("other_process", folder, fake, index)
}

fn said_by(test: &str, folder: &Path, fake: &str, index: usize) -> String {
    let run = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(ASKED, index.to_string())
        .env("LD_LIBRARY_PATH", folder)
        .env("CATAMOUNT_FAKE_CUDA", fake)
        .output()
        .expect("it runs");
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && !err.contains("panicked"), "{fake}: {out}{err}");
    out.split('<')
        .skip(1)
        .filter_map(|part| part.split_once('>'))
        .map(|(text, _)| text.to_owned() + "\n")
        .collect()
}

#[test]
fn a_missing_device_is_explained() {
    let Some(folder) = kernels_shim::driver_folder() else { return };
    let cases = [
        ("init=100", 0, "none: the NVIDIA driver sees no device", "CUDA_VISIBLE_DEVICES"),
        ("count=0", 0, "none: the NVIDIA driver sees no device", "--device cpu"),
        ("init=34", 0, "a stub of the toolkit", "driver 580"),
        ("init=35", 0, "cannot be used (error 35)", "update it to 580"),
        ("init=803", 0, "cannot be used (error 803)", "restart the machine"),
        ("count=2", 2, "no CUDA device 2: this machine has 2", "numbered from 0"),
        ("major=7", 0, "CUDA device 0 has compute capability 7.0", "8.0 or newer"),
        ("retain=2", 0, "CUDA device 0 cannot be used, error 2 while opening it", "nvidia-smi"),
        ("module=222", 0, "cannot be used (error 222)", "update it to 580"),
        ("module=209", 0, "error 209 while loading the kernels", "--device cpu"),
    ];
    for (fake, index, what, remedy) in cases {
        let said = said(&folder, fake, index);
        assert!(said.contains(what) && said.contains(remedy), "{fake}: {said}");
    }
}

/// A library that is none of NVIDIA's, and none at all.
#[test]
fn a_library_without_functions_is_explained() {
    let empty = std::env::temp_dir().join(format!("catamount-no-driver-{}", std::process::id()));
    std::fs::create_dir_all(&empty).expect("a folder");
    let real = said(&empty, "", 0);
    if !real.starts_with("none: no NVIDIA driver on this machine") {
        eprintln!("there is a driver here, so its lack is not tested: {real}");
    }
    let source = empty.join("empty.c");
    std::fs::write(&source, "int cuInit(unsigned f) { return 0; }\n").expect("a file");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(empty.join("libcuda.so"))
        .arg(&source)
        .status();
    match built {
        Ok(status) if status.success() => {
            let said = said(&empty, "", 0);
            assert!(said.contains("not a usable NVIDIA driver (it has no cuDeviceGetCount)"), "{said}");
        }
        other => eprintln!("SKIPPED: no C compiler ({other:?})"),
    }
    std::fs::remove_dir_all(&empty).expect("our own folder");
}

#[test]
fn a_device_computes_and_its_failures_show() {
    let Some(folder) = kernels_shim::driver_folder() else { return };
    let good = said(&folder, "", 0);
    assert!(good.starts_with("cuda:0 (fake, 4 GiB), Some((4294967296, 4294967296))"), "{good}");
    // One buffer is gone into `mapped`'s result, the other given back once the stream comes to it.
    assert!(good.contains("right: true, Ok(()), Some("), "{good}");
    for operation in 1..7 {
        let lost = said(&folder, &format!("fail={operation}"), 0);
        assert!(
            lost.contains("right: false") && lost.contains("driver error 719 (launch failed)"),
            "{operation}: {lost}"
        );
    }
    let full = said(&folder, "memory=12000000", 0);
    assert!(full.contains("map: out of memory, 9876536 bytes asked and 2123464 free"), "{full}");
}

/// Small uploads do not wait until their places are used again, what goes through them is right, and when the device is
/// closed its pinned memory is wiped and given back. A device that fails on the way says so.
#[test]
fn small_uploads_do_not_wait() {
    let Some(folder) = kernels_shim::driver_folder() else { return };
    let said = said_by("other_process_uploads", &folder, "", 0);
    for what in
        ["waits for 64: 0", "for one more: 1", "right: true, true, Ok(())", "left: 0 pinned, 0 unwiped"]
    {
        assert!(said.contains(what), "{what:?} is missing from: {said}");
    }
    // Four pieces of 4 MiB and 64 places of 64 KiB: no more, whatever is uploaded.
    assert!(said.contains(&format!("of {}", 20 << 20)), "{said}");
    for operation in [1, 30, 65, 200] {
        let said = said_by("other_process_uploads", &folder, &format!("fail={operation}"), 0);
        for what in ["waits for 64: 0", "right: false", "driver error 719", "left: 0 pinned, 0 unwiped"] {
            assert!(said.contains(what), "{operation}: {what:?} is missing from: {said}");
        }
    }
}
