//! `bench floors`: counts against arithmetic on the model's shape, times of real parties, the table in a page.

use crate::{cluster::catamount, process::run, tiny};
use models::checkpoint::ModelConfig;
use serde_json::Value;
use std::fs;

/// Weights of the tiny model that are multiplied with rows: those of the layers, and those of the output.
fn matrices(c: &ModelConfig) -> (u64, u64) {
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let layer = c.d_model * (q + 2 * kv) + q * c.d_model + 3 * c.d_model * c.d_ff;
    ((c.layers * layer) as u64, (c.vocab * c.d_model) as u64)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

#[test]
fn floors_are_those_of_the_shape_and_below_what_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (config, model) = (tiny::config(), tiny::write(folder.path(), "tiny", 1));
    let page = folder.path().join("page.md");
    fs::write(&page, "kept\n<!-- FLOORS: old -->\n| old |\n<!-- /FLOORS -->\nkept too\n").unwrap();
    let asked = format!("{}:5", model.display());
    let mut command = catamount();
    command.args(["bench", "floors", "--runs", "2", "--json", "-", &asked, "--write"]).arg(&page);
    let ended = run(&mut command).fine();
    let table = ended.json();
    let passes = table["passes"].as_array().unwrap();
    assert_eq!(passes.len(), 2);
    // Two numbers in a word of the table.
    let ((layers, output), table_words) = (matrices(&config), (config.vocab * config.d_model / 2) as u64);
    for (pass, rows, keys) in [(&passes[0], 5, 5), (&passes[1], 1, 6)] {
        // One product at each party; the embedding's two components are read at each, and summed.
        let attention = 2 * (config.layers * config.heads * rows * keys * config.head_dim) as u64;
        let kept = 2 * 8 * (config.layers * config.kv_heads * keys * config.head_dim) as u64;
        for party in 0..3 {
            let local = &pass["local"][party];
            assert_eq!(number(&local["weights"]), rows as u64 * layers + output, "{pass}");
            assert_eq!(number(&local["attention"]), attention, "{pass}");
            let read = 8 * (layers + output) + kept + 2 * 8 * table_words;
            assert_eq!(number(&local["read"]), read, "{pass}");
        }
        // The command itself compares exchanges and bytes with those of the run.
        assert!(number(&pass["exchanges"]) > 50 && number(&pass["bytes"]["P0->P2"]) > 1000, "{pass}");
        let (floor, measured) = (&pass["floor"]["total_ms"], &pass["measured_s"]);
        let (floor, measured) = (floor.as_f64().unwrap() / 1e3, measured.as_f64().unwrap());
        // Of a further token as well: its dealer deals nothing ahead.
        assert!(0.0 < floor && floor < measured, "{pass}");
        assert!((pass["ratio"].as_f64().unwrap() - measured / floor).abs() < 1e-6 * measured / floor);
    }
    let text = fs::read_to_string(&page).unwrap();
    assert!(
        text.starts_with("kept\n<!-- FLOORS: old -->\n") && text.ends_with("<!-- /FLOORS -->\nkept too\n")
    );
    assert!(!text.contains("| old |") && text.contains("| exchanges ") && text.contains("**floor, s**"));
}

#[test]
fn floors_without_a_run_and_of_what_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tiny", 1);
    let floors = || {
        let mut command = catamount();
        command.args(["bench", "floors", "--no-run", "--json", "-"]);
        command
    };
    let table = run(floors().arg(format!("{}:3", model.display()))).fine().json();
    assert!(table["runs"].is_null() && table["passes"][0]["measured_s"].is_null(), "{table}");
    assert!(table["passes"][1]["floor"]["total_ms"].as_f64() > Some(0.0), "{table}");
    run(floors().arg("random:gpt2")).refused(&["is no MODEL:TOKENS"]);
    run(floors().arg(format!("{}:{}", model.display(), tiny::CONTEXT))).refused(&["ask for fewer"]);
    let page = folder.path().join("page.md");
    fs::write(&page, "no marks\n").unwrap();
    run(floors().arg("--write").arg(&page)).refused(&["page.md cannot be written", "has no lines"]);
    assert_eq!(fs::read_to_string(&page).unwrap(), "no marks\n");
}
