//! `bench gates`, `bench layer`, reports and traces: figures add up, costs are the declared ones, pages open in a real
//! browser, and parties keep their times to themselves unless told otherwise.

use crate::{
    cluster::{Cluster, catamount},
    process::{Process, run, signal},
    tiny,
};
use models::model::OutputRows;
use parties::{
    client::Client,
    private::{Pass, PrivateModel},
};
use serde_json::Value;
use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

/// The parts of each party's time add up to all of it, and costs are as declared wherever something is declared.
fn assert_adds_up(line: &Value) {
    for party in 0..3 {
        let parts: f64 =
            line["times_ms"][party].as_object().unwrap().values().map(|v| v.as_f64().unwrap()).sum();
        let total = line["total_ms"][party].as_f64().unwrap();
        assert!((parts - total).abs() < 1e-6 * total.max(1.0), "{line}");
    }
    if !line["declared"].is_null() {
        assert_eq!((&line["as_declared"], &line["declared"]), (&true.into(), &line["measured"]), "{line}");
    }
}

/// The page's elements as a browser has read them; `None`, loudly, where there is none.
fn in_a_browser(test: &str, page: &Path) -> Option<String> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names
        .into_iter()
        .find(|n| Command::new(n).arg("--version").output().is_ok_and(|o| o.status.success()));
    let Some(browser) = found else {
        let _ = writeln!(io::stderr(), "\nSKIPPED: {test} needs one of {}", names.join(", "));
        return None;
    };
    let profile = tempfile::tempdir().unwrap();
    let quiet =
        ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"])
        .args(quiet)
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

fn assert_self_contained(page: &str) {
    for outside in ["http://", "https://", "src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.contains(outside), "{outside} in the page");
    }
}

#[test]
fn gates_are_measured_and_the_page_opens() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("gates.html");
    let arguments = ["bench", "gates", "--tokens", "2", "--runs", "2", "--json", "-", "--html"];
    let report = run(catamount().args(arguments).arg(&page)).fine().json();
    let lines = report["sections"][0]["lines"].as_array().unwrap();
    assert_eq!(lines.len(), 12);
    for line in lines {
        assert_adds_up(line);
        assert_eq!(line["as_declared"], true);
        assert!(line["measured"]["exchanges"].as_u64() > Some(0), "{line}");
        assert!(
            line["floor"]["total_ms"].as_f64() > Some(0.0) && line["total_ms"][1].as_f64() > Some(0.0),
            "{line}"
        );
    }
    for rate in ["products_per_s", "bytes_per_s", "exchange_s"] {
        assert!(report["rates"][rate].as_f64() > Some(0.0), "{rate}");
    }
    let html = fs::read_to_string(&page).unwrap();
    assert_self_contained(&html);
    let Some(seen) = in_a_browser("gates_are_measured_and_the_page_opens", &page) else { return };
    for line in lines {
        let name = line["name"].as_str().unwrap();
        // In the chart and in the table, each inside its own element.
        assert!(seen.contains(&format!(">{name}</text>")), "{name}");
        assert!(seen.contains(&format!(">{name}</td>")), "{name}");
    }
    assert_eq!(seen.matches(">as measured</td>").count(), lines.len());
    assert_eq!(seen.matches("<svg").count(), seen.matches("</svg>").count());
    assert!(seen.matches("<rect class=\"peer\"").count() >= lines.len(), "evaluators exchange in every gate");
    assert_eq!(seen.matches("<h2>How to read this</h2>").count(), 1);
}

#[test]
fn a_model_and_a_layer_are_reported_part_by_part() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tiny", 1);
    let page = folder.path().join("model.html");
    let arguments = ["--tokens", "7", "--decode", "3", "--runs", "2", "--json", "-", "--html"];
    let figures =
        run(catamount().args(["bench", "model"]).arg(&model).args(arguments).arg(&page)).fine().json();
    assert_eq!(figures["declared"], true);
    let sections = figures["report"]["sections"].as_array().unwrap();
    assert_eq!(sections.len(), 2, "a pass and a further token");
    for section in sections {
        let (whole, lines) = (&section["whole"], section["lines"].as_array().unwrap());
        for line in lines.iter().chain([whole]) {
            assert_adds_up(line);
        }
        for party in 0..3 {
            let of = |line: &Value| line["total_ms"][party].as_f64().unwrap();
            for parts in [lines, section["operations"].as_array().unwrap()] {
                let sum: f64 = parts.iter().map(of).sum();
                assert!((sum - of(whole)).abs() < 1e-6 * sum.max(1.0), "P{party}: {sum} of {}", of(whole));
            }
        }
        let bytes = |line: &Value| line["measured"]["bytes"]["P0->P2"].as_u64().unwrap();
        assert_eq!(lines.iter().map(bytes).sum::<u64>(), bytes(whole));
        let products = |line: &Value| line["products"].as_u64().unwrap();
        assert_eq!(lines.iter().map(products).sum::<u64>(), products(whole));
        for name in ["embedding", "layer.*/attention/softmax/max", "layer.*/feed_forward/down", "output"] {
            assert!(lines.iter().any(|l| l["name"] == name && l["as_declared"] == true), "{name}");
        }
    }
    assert_eq!(sections[0]["whole"]["measured"]["bytes"], figures["bytes"]);
    assert_self_contained(&fs::read_to_string(&page).unwrap());

    let arguments = ["--tokens", "5", "--runs", "1", "--json", "-"];
    let report = run(catamount().args(["bench", "layer"]).arg(&model).args(arguments)).fine().json();
    let section = &report["sections"][0];
    let lines = section["lines"].as_array().unwrap();
    lines.iter().for_each(assert_adds_up);
    assert_adds_up(&section["whole"]);
    assert!(
        lines.iter().all(|l| l["name"].as_str().unwrap().starts_with(['a', 'f'])),
        "attention and feed-forward only"
    );
    let cost = run(catamount().args(["inspect", "--json", "-"]).arg(&model)).fine().json();
    assert_eq!(section["whole"]["measured"]["exchanges"], cost["exchanges_by_layer"]);
    run(catamount().args(["bench", "layer"]).arg(&model).args(["--tokens", "0"]))
        .refused(&["measure nothing"]);
}

#[test]
fn sequences_side_by_side_have_the_exchanges_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tiny", 1);
    let arguments = ["--tokens", "8", "--decode", "2", "--runs", "1", "--batch", "2,4", "--json", "-"];
    let figures = run(catamount().args(["bench", "model"]).arg(&model).args(arguments)).fine().json();
    let batches = figures["batches"].as_array().unwrap();
    let of = |key: &str| batches.iter().map(|b| b[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("sequences"), [1, 2, 4]);
    assert_eq!(of("lengths"), [vec![8], vec![8, 6], vec![8, 7, 6, 5]].map(Value::from));
    assert_eq!(of("declared"), [true; 3]);
    for key in ["exchanges", "decode_exchanges"] {
        assert!(of(key).iter().all(|n| *n == of(key)[0] && n.as_u64() > Some(0)), "{key}");
    }
    assert_eq!((&of("ratio")[0], &of("decode_ratio")[0]), (&1.0.into(), &1.0.into()));
    assert!(of("decode_ratio").iter().all(|r| r.as_f64() > Some(0.0)));
    // As the cost says before.
    let arguments = ["--prompt-tokens", "8", "--prompts", "4", "--new-tokens", "3", "--json", "-", "--model"];
    let cost =
        |more: &[&str]| run(catamount().arg("cost").args(arguments).arg(&model).args(more)).fine().json();
    let four = cost(&[]);
    let exchanges = |part: &str| four[part]["exchanges"].as_u64().unwrap();
    assert_eq!(of("exchanges")[2], exchanges("first_token"));
    let further = of("decode_exchanges")[2].as_u64().unwrap();
    assert_eq!(exchanges("all_tokens"), exchanges("first_token") + 2 * further);
    run(catamount().args(["bench", "model"]).arg(&model).args(["--batch", "0"]))
        .refused(&["measures nothing"]);
    // Before weights are shared.
    let refused = |arguments: &[&str], words: &[&str]| {
        let ended = run(catamount().args(["bench", "model"]).arg(&model).args(arguments)).refused(words);
        assert!(!ended.out.contains("needed"), "{}", ended.out);
    };
    refused(&["--batch", "2,9"], &["9 sequences", "take 8", "limits.max_sequences"]);
    refused(&["--batch", "8", "--tokens", "700"], &["in a pass", "take 4096", "limits.max_context_tokens"]);
}

#[test]
fn costs_are_those_of_the_passes_that_prompts_take() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tiny", 1);
    let cost = |tokens: &str, more: &[&str]| {
        let arguments = ["cost", "--prompt-tokens", tokens, "--json", "-", "--model"];
        run(catamount().args(arguments).arg(&model).args(more)).fine().json()
    };
    let exchanges = |figures: &Value, part: &str| figures[part]["exchanges"].as_u64().unwrap();
    let bytes = |figures: &Value, part: &str| figures[part]["bytes"]["P0->P2"].as_u64().unwrap();
    // 128 tokens and one more; three prompts of 100 as in 128, 128 and 44. Many rows take two exchanges more a layer.
    let [one, rest, single] = ["128", "44", "1"].map(|n| exchanges(&cost(n, &[]), "first_token"));
    assert_eq!((one, rest), (single + 2 * 2, single));
    assert_eq!(exchanges(&cost("129", &[]), "first_token"), one + single);
    assert_eq!(exchanges(&cost("100", &["--prompts", "3"]), "first_token"), 2 * one + rest);
    // Drafts of all prompts go through one pass.
    let (alone, three) =
        (cost("5", &["--speculate", "4"]), cost("5", &["--speculate", "4", "--prompts", "3"]));
    let pass = "speculative_pass";
    assert_eq!(exchanges(&alone, pass), exchanges(&three, pass));
    let ratio = bytes(&three, pass) as f64 / bytes(&alone, pass) as f64;
    assert!((2.5..3.5).contains(&ratio), "{ratio}");
}

/// One slice: process, name, start and end in nanoseconds.
fn slices(trace: &Value) -> Vec<(u64, String, i64, i64)> {
    let all = trace["traceEvents"].as_array().unwrap().iter().filter(|e| e["ph"] == "X");
    let ns = |v: &Value| (v.as_f64().unwrap() * 1000.0).round() as i64;
    let slice = |e: &Value| {
        let start = ns(&e["ts"]);
        (e["pid"].as_u64().unwrap(), e["name"].as_str().unwrap().to_string(), start, start + ns(&e["dur"]))
    };
    all.map(slice).collect()
}

#[test]
fn interrupted_sessions_end() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tiny", 1);
    let mut command = catamount();
    command.args(["bench", "model"]).arg(&model).args([
        "--tokens",
        "8",
        "--decode",
        "1900",
        "--sessions",
        "2",
    ]);
    let mut process = Process::start(&mut command);
    process.until("the plan", 30, |p| p.out().contains("main memory needed"));
    // Parties have started and sessions wait for their answers.
    thread::sleep(Duration::from_secs(2));
    assert!(process.runs(), "{}", process.err());
    signal("TERM", i64::from(process.id()));
    process.end(5).refused(&["interrupted", "have been ended"]);
}

#[test]
fn sessions_take_turns_and_are_measured_against_one() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tiny", 1);
    let bench = |more: &[&str]| run(catamount().args(["bench", "model"]).arg(&model).args(more));
    let arguments = ["--tokens", "8", "--decode", "2", "--sessions", "3", "--json", "-"];
    let ended = bench(&arguments).fine();
    assert!(ended.err.contains("3 at once") && ended.err.contains("tokens a second"), "{}", ended.err);
    let figures = ended.json();
    let rows = figures["rows"].as_array().unwrap();
    assert_eq!(rows.iter().map(|r| r["at_once"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3]);
    let number = |v: &Value| v.as_f64().unwrap();
    let spent =
        |row: &Value| ["P0", "P1", "P2"].map(|party| number(&row["cpu_s"][party])).iter().sum::<f64>();
    assert!(rows.iter().map(spent).sum::<f64>() > 0.0, "{figures}");
    let cores = std::thread::available_parallelism().unwrap().get() as f64;
    for row in rows {
        let wall = number(&row["wall_s"]);
        assert!((number(&row["tokens_per_s"]) * wall - 9.0).abs() < 1e-6, "{row}");
        assert!((number(&row["busy"]) * wall * cores - spent(row)).abs() < 1e-6, "{row}");
        assert!((number(&row["ratio"]) * wall - number(&rows[0]["wall_s"])).abs() < 1e-6, "{row}");
        let sessions = row["sessions"].as_array().unwrap();
        let mut lengths: Vec<_> = sessions.iter().map(|s| s["prompt_tokens"].as_u64().unwrap()).collect();
        lengths.sort_unstable();
        assert_eq!(lengths, [6, 7, 8]);
        for party in ["P0", "P1", "P2"] {
            assert_eq!(row["dealt"][party], 1, "{row}");
            assert_eq!(sessions.iter().filter(|s| s["dealer"] == party).count(), 1);
            assert!(
                number(&row["cpu_s"][party]) < 3.0 * wall + 1.0
                    && number(&row["resident_bytes"][party]) > 1e6
            );
        }
        assert!(sessions.iter().all(|s| number(&s["first_token_s"]) + number(&s["token_s"]) < wall), "{row}");
    }
    assert!(number(&figures["max_error"]) < 0.05, "{figures}");
    // One dealer, if that is asked for.
    let fixed = bench(&[&arguments[..], &["--dealer", "1"]].concat()).fine().json();
    for row in fixed["rows"].as_array().unwrap() {
        assert_eq!([0, 1, 2].map(|p| row["dealt"][format!("P{p}")].as_u64().unwrap()), [0, 3, 0], "{row}");
    }
    bench(&["--sessions", "2", "--dealer", "3"]).refused(&["--dealer", "give rotate, 0, 1 or 2"]);
    bench(&["--dealer", "1"]).refused(&["--sessions"]);
    bench(&["--sessions", "9"]).refused(&["1 to 8 sessions"]);
    for other in [&["--html", "x.html"][..], &["--batch", "2"], &["--profile"], &["--compare-ahead"]] {
        bench(&[&["--sessions", "2"], other].concat()).refused(&["--sessions", other[0], "cannot be used"]);
    }
}

#[test]
fn traces_have_all_processes_on_one_time_line() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tiny", 1);
    let file = folder.path().join("demo.trace");
    for reveal in ["logits", "tokens"] {
        let arguments = ["demo", "--prompt", "Hello", "--max-tokens", "4", "--reveal", reveal, "--trace"];
        run(catamount().args(arguments).arg(&file).arg("--model").arg(&model)).fine();
        let trace: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let names: Vec<&Value> =
            trace["traceEvents"].as_array().unwrap().iter().filter(|e| e["ph"] == "M").collect();
        assert!(names.iter().any(|e| e["args"]["name"] == "P1 (evaluator)") && names.len() == 8);
        let all = slices(&trace);
        assert!(all.is_sorted_by_key(|s| s.2), "events come in order of time");
        let waits: Vec<_> = all.iter().filter(|s| s.1 == "wait for the parties").collect();
        for pid in 1..=4 {
            // Slices of a thread lie within each other or apart.
            let mut open: Vec<i64> = vec![];
            for (_, name, start, end) in all.iter().filter(|s| s.0 == pid) {
                open.retain(|until| until > start);
                assert!(open.last().is_none_or(|until| end <= until), "{name} of {pid} sticks out");
                open.push(*end);
            }
        }
        for pid in 1..=3 {
            let passes: Vec<_> = all.iter().filter(|s| s.0 == pid && s.1.starts_with("pass ")).collect();
            assert_eq!(passes.len(), 4, "{reveal}");
            for (_, name, start, end) in passes {
                // Where the parties go on by themselves, they may be a token ahead of the client's waits; the dealer may be
                // anyway.
                let (first, last) = (waits[0].2, waits.iter().map(|w| w.3).max().unwrap());
                let within = |from: i64, to: i64| from <= *start && *end <= to;
                assert!(within(first, last), "{name} of {pid} outside the client's waits");
                let one = waits.iter().any(|w| within(w.2, w.3));
                assert!(one || reveal == "tokens" || pid == 1, "{name} of {pid} is in no wait of the client");
            }
            assert!(all.iter().any(|s| s.0 == pid && s.1 == "layer.1"));
        }
        assert!(all.iter().any(|s| s.0 == 2 && s.1 == "exchange with peer"));
        assert!(!all.iter().any(|s| s.0 == 1 && s.1 == "exchange with peer"), "the dealer waits for nobody");
    }
}

#[test]
fn parties_keep_their_times_to_themselves() {
    let mut cluster = Cluster::with_model();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pass = async |cluster: &Cluster, timed: bool| {
        let client = Client::connect(&cluster.files.client()).await.unwrap();
        let model = PrivateModel::open(&client, "tiny").await.unwrap();
        let model = if timed { model.timed() } else { model };
        let mut run = model.run(OutputRows::Last, 8).await.map_err(|e| e.to_string())?;
        run.pass(Pass { tokens: &[72, 105], segment: None }).await.map_err(|e| e.to_string())?;
        Ok::<_, String>(run.take_times())
    };
    let refusal = runtime.block_on(pass(&cluster, true)).unwrap_err();
    assert!(refusal.contains("report_times"), "{refusal}");
    assert!(runtime.block_on(pass(&cluster, false)).unwrap().is_empty());
    // One that keeps silent is enough.
    for role in [0, 1, 2] {
        cluster.stop(role);
        cluster.edit(role, |text| text.replace("[limits]", "[limits]\nreport_times = true"));
        if role < 2 {
            cluster.start(role);
        }
    }
    cluster.edit(2, |text| text.replace("report_times = true", "report_times = false"));
    cluster.start(2);
    let refusal = runtime.block_on(pass(&cluster, true)).unwrap_err();
    assert!(refusal.contains("P2") && refusal.contains("report_times"), "{refusal}");
    cluster.stop(2);
    cluster.edit(2, |text| text.replace("report_times = false", "report_times = true"));
    cluster.start(2);
    let times = runtime.block_on(pass(&cluster, true)).unwrap();
    assert_eq!(times.len(), 1);
    assert!(times[0].parties.iter().all(|p| p.is_sound() && p.wall > 0));
    cluster.finish();
}
