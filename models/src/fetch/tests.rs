use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::*;

use super::packages::Registry;

const HELLO_SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

const HELLO: Package = Package {
    registry: Registry::PyPi,
    name: "hello",
    version: "1.0",
    download: 5,
    what: "the greeting",
    instead: ", or pass `--model FILE`",
    folder: "",
    files: &[Pinned { inside: Some("hello/hello.txt"), name: "hello.txt", bytes: 5, sha256: HELLO_SHA256 }],
    ingredients: &[],
    convert: None,
};

/// A folder with a file from the package, and one made of an ingredient.
const FOLDER: Package = Package {
    registry: Registry::Npm,
    instead: "",
    folder: "folder",
    files: &[
        Pinned { inside: Some("package/a"), name: "deep/a", bytes: 5, sha256: HELLO_SHA256 },
        // "hello, made"
        Pinned { inside: None, name: "b", bytes: 11, sha256: MADE_SHA256 },
    ],
    ingredients: &[Pinned { inside: Some("package/c"), name: "c", bytes: 5, sha256: HELLO_SHA256 }],
    convert: Some(|folder| {
        let c = fs::read_to_string(folder.join("c")).map_err(|e| e.to_string())?;
        fs::write(folder.join("b"), format!("{c}, made")).map_err(|e| e.to_string())
    }),
    ..HELLO
};
const MADE_SHA256: &str = "7094b3b0afa887de441a98df76ebd05c10ba8ffd05ec88f4b28298c14ceb977c";

/// One scene at a time: a process that another test forks while a stand-in is being written holds that file open for
/// writing, and then it cannot be run ("text file busy").
static STAGE: Mutex<()> = Mutex::new(());

/// A directory with a stand-in for Python, which is npm too, in it.
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
        self.fetch_package(&HELLO)
    }

    fn fetch_package(&self, package: &Package) -> (Result<PathBuf, FetchError>, Vec<FetchEvent>) {
        let mut events = Vec::new();
        let python = self.python();
        let python = python.to_str().unwrap();
        let clients = Clients { python, npm: python };
        let result = fetch(package, &clients, &self.0.join("cache"), &mut |e| events.push(e));
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

/// "Downloads" an empty archive into its working directory and "unpacks" the files that are asked for.
fn obliging(content: &str) -> String {
    format!(
        "case \"$1\" in
         -m) touch hello-1.0.whl ;;
         pack) touch hello-1.0.tgz ;;
         -c) shift 3; while [ $# -gt 0 ]; do printf '{content}' > \"$2\"; shift 2; done ;;
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
        ("nothing", "exit 0".into(), "left no whl"),
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
    assert!(matches!(scene.fetch().0, Err(FetchError::NoPython { .. })));
    assert!(matches!(scene.fetch_package(&FOLDER).0, Err(FetchError::NoNpm { .. })));
}

#[test]
fn folders_heal() {
    let scene = Scene::new("folder", &obliging("hello"));
    let (folder, events) = scene.fetch_package(&FOLDER);
    let folder = folder.unwrap();
    assert!(matches!(events[0], FetchEvent::Downloading { .. }));
    let files = || ["deep/a", "b"].map(|name| fs::read_to_string(folder.join(name)).unwrap());
    assert_eq!(files(), ["hello", "hello, made"]);
    assert_eq!(scene.cached(), ["folder"]);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "the ingredient is not kept");

    let damages: [fn(&Path); 3] = [
        |folder| fs::write(folder.join("b"), "hello, mead").unwrap(),
        |folder| fs::remove_file(folder.join("b")).unwrap(),
        |folder| fs::remove_dir_all(folder.join("deep")).unwrap(),
    ];
    for damage in damages {
        damage(&folder);
        let (again, events) = scene.fetch_package(&FOLDER);
        assert_eq!(again.unwrap(), folder);
        assert!(matches!(events[1], FetchEvent::Damaged(_)), "{events:?}");
        assert_eq!(files(), ["hello", "hello, made"]);
    }
    let (_, events) = scene.fetch_package(&FOLDER);
    assert_eq!(events, [FetchEvent::Checking(folder.clone()), FetchEvent::Ready(folder)]);
}

#[test]
fn ingredients_are_checked_before_the_conversion() {
    let scene = Scene::new("ingredient", &obliging("jello"));
    let error = scene.fetch_package(&Package { convert: Some(|_| panic!("converted")), ..FOLDER }).0;
    assert!(matches!(error, Err(FetchError::Mismatch { .. })));
    drop(scene);
    let scene = Scene::new("conversion", &obliging("hello"));
    let error = scene.fetch_package(&Package { convert: Some(|_| Err("no".into())), ..FOLDER }).0;
    assert_eq!(error.unwrap_err().to_string(), "cannot convert the greeting: no");
    assert!(scene.cached().is_empty());
    // Nothing is made: what is missing is said.
    let error = scene.fetch_package(&Package { convert: Some(|_| Ok(())), ..FOLDER }).0;
    assert!(error.unwrap_err().to_string().contains("b: it is missing"));
}

#[test]
fn archives_of_both_kinds_are_unpacked() {
    let scene = Scene::new("archives", &obliging("unused"));
    let make = "import io, sys, tarfile, zipfile
with zipfile.ZipFile('a.whl', 'w') as z: z.writestr('package/a', 'zipped')
with tarfile.open('a.tgz', 'w:gz') as t:
    i = tarfile.TarInfo('package/a'); i.size = 6; t.addfile(i, io.BytesIO(b'tarred'))";
    match process::Command::new("python3").args(["-c", make]).current_dir(&scene.0).status() {
        Ok(status) => assert!(status.success()),
        Err(error) => {
            let _ =
                io::Write::write_all(&mut io::stderr(), format!("\nSKIPPED: python3: {error}\n").as_bytes());
            return;
        }
    }
    let clients = Clients { python: "python3", npm: "npm" };
    let files = &[Pinned { inside: Some("package/a"), name: "a", bytes: 6, sha256: "" }];
    let package = Package { files, ..HELLO };
    for (archive, content) in [("a.whl", "zipped"), ("a.tgz", "tarred")] {
        clients.unpack(&package, &scene.0, &scene.0.join(archive), &scene.0).unwrap();
        assert_eq!(fs::read_to_string(scene.0.join("a")).unwrap(), content);
    }
    let files = &[Pinned { inside: Some("package/b"), name: "b", bytes: 6, sha256: "" }];
    let package = Package { files, ..HELLO };
    let error = clients.unpack(&package, &scene.0, &scene.0.join("a.tgz"), &scene.0).unwrap_err();
    assert!(error.to_string().contains("package/b"), "{error}");
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
