use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::*;

const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub on this machine with one model.
struct Server {
    endpoint: String,
    /// Content of each file, and what it is called by.
    files: Mutex<HashMap<String, (Vec<u8>, String)>>,
    sha: Mutex<String>,
    requests: AtomicUsize,
}

impl Server {
    fn start(files: &[(&str, &[u8])]) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let files = files.iter().map(|(name, bytes)| {
            let hash: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
            // Small files go by a number of another kind.
            let etag = if name.ends_with("json") { hash[..40].to_owned() } else { hash };
            ((*name).to_owned(), (bytes.to_vec(), etag))
        });
        let server = Arc::new(Self {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            files: Mutex::new(files.collect()),
            sha: Mutex::new(SHA.into()),
            requests: AtomicUsize::new(0),
        });
        let shared = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = shared.clone();
                thread::spawn(move || server.serve(stream));
            }
        });
        server
    }

    /// Answers one request.
    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        let first = lines.next()?.ok()?;
        let mut from = None;
        for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                let (start, end) = range.split_once('-')?;
                from = Some((start.parse::<usize>().ok()?, end.parse::<usize>().ok()));
            }
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        let path = first.split(' ').nth(1)?.to_owned();
        let files = self.files.lock().ok()?;
        let (status, extra, body) = if path == "/api/models/org/name/revision/main" {
            let names: Vec<_> = files.keys().map(|name| json!({"rfilename": name})).collect();
            let info = json!({"sha": *self.sha.lock().ok()?, "siblings": names}).to_string();
            ("200 OK", String::new(), info.into_bytes())
        } else if let Some((bytes, etag)) =
            path.strip_prefix(&format!("/org/name/resolve/{SHA}/")).and_then(|name| files.get(name))
        {
            let (start, end) = from?;
            let end = end.map_or(bytes.len(), |end| end + 1);
            let extra = format!(
                "ETag: \"{etag}\"\r\nX-Repo-Commit: {SHA}\r\nContent-Range: bytes {start}-{}/{}\r\n",
                end - 1,
                bytes.len()
            );
            ("206 Partial Content", extra, bytes[start..end].to_vec())
        } else {
            ("404 Not Found", String::new(), Vec::new())
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{extra}Connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).ok()
    }
}

/// A cache of its own, removed with the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(env::temp_dir().join(format!("catamount-hub-{}-{number}", std::process::id())))
    }

    fn hub(&self, endpoint: &str) -> Hub {
        let patience = Duration::from_secs(10);
        Hub { endpoint: endpoint.to_owned(), cache: Cache::new(self.0.join("hub")), patience }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn quiet(hub: &Hub, id: &str) -> Result<PathBuf, HubError> {
    hub.download(id, &mut |_| {})
}

#[test]
fn names() {
    for id in ["org/name", "sentence-transformers/all-MiniLM-L6-v2", "Qwen/Qwen2.5-0.5B_x"] {
        assert!(is_model_id(id), "{id}");
    }
    let long = format!("org/{}", "a".repeat(97));
    for text in [
        "gpt2",
        "org/",
        "/name",
        "a/b/c",
        "../name",
        "org/..",
        "org/.x",
        "./x",
        "org/a b",
        "org/a?b",
        "org/a--b",
        "org/a..b",
        "C:\\x",
        "",
        "/",
        "org/na\u{ef}ve",
        &long,
    ] {
        assert!(!is_model_id(text), "{text}");
        assert!(matches!(quiet(&Place::new().hub("http://127.0.0.1:9"), text), Err(HubError::Id(_))));
    }
}

#[test]
fn a_model_is_fetched_once() {
    let server = Server::start(&[
        ("config.json", b"{\"a\": 1}"),
        ("tokenizer.json", b"{}"),
        ("1_Pooling/config.json", b"[]"),
        ("model.safetensors", &[7; 300_000]),
        ("pytorch_model.bin", b"not wanted"),
        ("README.md", b"not wanted"),
    ]);
    let place = Place::new();
    let hub = place.hub(&server.endpoint);
    let mut events = Vec::new();
    let folder = hub.download("org/name", &mut |event| events.push(event)).unwrap();
    assert_eq!(fs::read(folder.join("config.json")).unwrap(), b"{\"a\": 1}");
    assert_eq!(fs::read(folder.join("1_Pooling/config.json")).unwrap(), b"[]");
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), [7; 300_000]);
    assert!(!folder.join("pytorch_model.bin").exists() && !folder.join("README.md").exists());
    assert_eq!(events[0], HubEvent::Asking { endpoint: server.endpoint.clone() });
    let (received, total) = (300_000, 300_000);
    assert!(events.contains(&HubEvent::Downloading { file: "model.safetensors".into(), received, total }));
    assert_eq!(events.last(), Some(&HubEvent::Ready(folder.clone())));

    // The second time nothing is asked.
    let requests = server.requests.load(Ordering::Relaxed);
    assert_eq!(quiet(&hub, "org/name").unwrap(), folder);
    assert_eq!(quiet(&place.hub("http://127.0.0.1:9"), "org/name").unwrap(), folder);
    assert_eq!(server.requests.load(Ordering::Relaxed), requests);
    // A file that is gone is fetched again, and only that one: two requests for it, one for the list.
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    assert_eq!(quiet(&hub, "org/name").unwrap(), folder);
    assert_eq!(server.requests.load(Ordering::Relaxed), requests + 3);
    assert_eq!(fs::read(folder.join("tokenizer.json")).unwrap(), b"{}");
}

#[test]
fn weights_in_several_files() {
    let index =
        br#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}}"#;
    let server = Server::start(&[
        ("config.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("one.safetensors", b"11"),
        ("two.safetensors", b"222"),
        ("three.safetensors", b"not wanted"),
    ]);
    let place = Place::new();
    let hub = place.hub(&server.endpoint);
    let folder = quiet(&hub, "org/name").unwrap();
    assert_eq!(fs::read(folder.join("two.safetensors")).unwrap(), b"222");
    assert!(!folder.join("three.safetensors").exists());
    assert_eq!(quiet(&place.hub("http://127.0.0.1:9"), "org/name").unwrap(), folder);
    fs::remove_file(folder.join("one.safetensors")).unwrap();
    assert!(quiet(&place.hub("http://127.0.0.1:9"), "org/name").is_err());
    assert_eq!(quiet(&hub, "org/name").unwrap(), folder);

    let outside = br#"{"weight_map": {"a": "../../../one.safetensors"}}"#;
    let server = Server::start(&[("config.json", b"{}"), ("model.safetensors.index.json", outside)]);
    let error = quiet(&Place::new().hub(&server.endpoint), "org/name").unwrap_err();
    assert!(matches!(error, HubError::File(_)), "{error}");
}

#[test]
fn a_damaged_file_is_not_kept() {
    let server =
        Server::start(&[("config.json", b"{}"), ("tokenizer.json", b"{}"), ("model.safetensors", b"good")]);
    server.files.lock().unwrap().get_mut("model.safetensors").unwrap().0 = b"evil".to_vec();
    let place = Place::new();
    let hub = place.hub(&server.endpoint);
    let error = quiet(&hub, "org/name").unwrap_err().to_string();
    assert!(error.contains("SHA-256") && error.contains("model.safetensors"), "{error}");
    server.files.lock().unwrap().get_mut("model.safetensors").unwrap().0 = b"good".to_vec();
    let folder = quiet(&hub, "org/name").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), b"good");
}

#[test]
fn models_that_are_not_there() {
    let server = Server::start(&[("config.json", b"{}"), ("pytorch_model.bin", b"x")]);
    let place = Place::new();
    let hub = place.hub(&server.endpoint);
    let error = quiet(&hub, "org/name").unwrap_err();
    assert!(matches!(error, HubError::Format { lacks: "model.safetensors", .. }), "{error}");
    let error = quiet(&hub, "org/other").unwrap_err();
    assert!(matches!(&error, HubError::Refused { what, .. } if what.contains("404")), "{error}");
    server.files.lock().unwrap().remove("config.json");
    let error = quiet(&hub, "org/name").unwrap_err();
    assert!(matches!(error, HubError::Format { lacks: "config.json", .. }), "{error}");
    for sha in ["", "../../../../../../tmp/0000000000000000000"] {
        *server.sha.lock().unwrap() = sha.into();
        assert!(matches!(quiet(&hub, "org/name"), Err(HubError::Unreachable { .. })));
    }
}

#[test]
fn without_the_internet() {
    // A port on which nobody listens.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let started = Instant::now();
    let error = quiet(&Place::new().hub(&format!("http://{closed}")), "org/name").unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(".gguf file"), "{error}");
    // One on which nobody answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::new();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let hub = Hub { patience: Duration::from_millis(200), ..place.hub(&endpoint) };
    let error = quiet(&hub, "org/name").unwrap_err();
    assert!(matches!(error, HubError::Silent { .. }), "{error}");
    assert!(error.to_string().contains("0.2 s; without the internet"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
}
