use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::*;

const HELLO: Pinned = Pinned {
    package: "hello",
    version: "1.0",
    inside: "hello/hello.txt",
    name: "hello.txt",
    bytes: 5,
    sha256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
    download: 5,
};

/// One scene at a time: a process that another test forks while a stand-in is being written holds that file open for
/// writing, and then it cannot be run ("text file busy").
static STAGE: Mutex<()> = Mutex::new(());

/// A directory with a stand-in for Python in it.
struct Scene(PathBuf, #[allow(dead_code)] MutexGuard<'static, ()>);

impl Scene {
    fn new(name: &str, script: &str) -> Self {
        let stage = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
        let root = env::temp_dir().join(format!("catamount-fetch-{}-{name}", process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("cache")).unwrap();
        let scene = Self(root, stage);
        fs::write(scene.python(), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(scene.python(), fs::Permissions::from_mode(0o755)).unwrap();
        scene
    }

    fn python(&self) -> PathBuf {
        self.0.join("python3")
    }

    fn fetch(&self) -> (Result<PathBuf, FetchError>, Vec<FetchEvent>) {
        let mut events = Vec::new();
        let python = self.python();
        let result = fetch(&HELLO, python.to_str().unwrap(), &self.0.join("cache"), &mut |e| events.push(e));
        (result, events)
    }

    /// Names of what lies in the cache.
    fn cached(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("cache")).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// "Downloads" an empty wheel into its working directory and "unpacks" what the last argument names.
fn obliging(content: &str) -> String {
    format!(
        "case \"$1\" in
         -m) touch hello-1.0.whl ;;
         -c) for last; do :; done; printf '{content}' > \"$last\" ;;
         esac"
    )
}

#[test]
fn fetched_once_and_again_when_damaged() {
    let scene = Scene::new("happy", &obliging("hello"));
    let (path, events) = scene.fetch();
    let path = path.unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"hello");
    assert!(matches!(events[0], FetchEvent::Downloading { package: "hello", received: 0, total: 5 }));
    assert_eq!(events.last(), Some(&FetchEvent::Ready(path.clone())));
    assert_eq!(scene.cached(), ["hello.txt"]);

    let (again, events) = scene.fetch();
    assert_eq!(again.unwrap(), path);
    assert_eq!(events, [FetchEvent::Checking(path.clone()), FetchEvent::Ready(path.clone())]);

    for damage in ["hullo", "hello and more"] {
        fs::write(&path, damage).unwrap();
        let (again, events) = scene.fetch();
        assert!(matches!(events[1], FetchEvent::Damaged(_)), "{events:?}");
        assert_eq!(fs::read(again.unwrap()).unwrap(), b"hello");
    }
}

#[test]
fn many_at_once() {
    let scene = Scene::new("many", &format!("sleep 0.1\n{}", obliging("hello")));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert_eq!(fs::read(scene.fetch().0.unwrap()).unwrap(), b"hello"));
        }
    });
    assert_eq!(scene.cached(), ["hello.txt"]);
}

#[test]
fn failures_say_what_to_do_and_leave_nothing_behind() {
    let cases = [
        ("wrong", obliging("wrong"), "SHA-256"),
        ("short", obliging("hell"), "4 bytes"),
        ("nothing", "exit 0".into(), "left no wheel"),
        ("silent", "exit 3".into(), "exit status: 3"),
        (
            "noisy",
            "seq 100000 >&2; echo 'No matching distribution' >&2; exit 1".into(),
            "No matching distribution",
        ),
        ("full", "echo 'OSError: [Errno 28] No space left on device' >&2; exit 1".into(), "disk is full"),
    ];
    for (name, script, expected) in cases {
        let scene = Scene::new(name, &script);
        let error = scene.fetch().0.unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        let advice = ["--model FILE", "CATAMOUNT_CACHE"];
        assert!(advice.iter().any(|a| error.contains(a)), "{name}: {error}");
        assert!(error.lines().count() < 20, "{name}: {error}");
        assert!(scene.cached().is_empty(), "{name}");
    }
    let scene = Scene::new("absent", "");
    fs::remove_file(scene.python()).unwrap();
    assert!(matches!(scene.fetch().0, Err(FetchError::NoPython)));
}

#[test]
fn cache_directory() {
    let given = |set: &'static [(&str, &str)]| {
        cache_dir(move |name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into()))
    };
    let all = [("CATAMOUNT_CACHE", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")];
    assert_eq!(given(Box::leak(Box::new(all))), Some("/a".into()));
    assert_eq!(given(&[("XDG_CACHE_HOME", "/b"), ("HOME", "/c")]), Some("/b/catamount".into()));
    assert_eq!(given(&[("XDG_CACHE_HOME", "b"), ("HOME", "/c")]), Some("/c/.cache/catamount".into()));
    assert_eq!(given(&[("CATAMOUNT_CACHE", "")]), None);
}
