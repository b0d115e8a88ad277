//! `bench model --shape … --random-weights` and `bench device`.

use crate::{
    cluster::{Cluster, catamount},
    process::run,
    tiny,
};
use serde_json::Value;
use std::time::Duration;

#[test]
fn weights_that_the_parties_make_up() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tiny", 1);
    let shape = ["bench", "model", "--random-weights", "--shape"];
    let arguments = ["--tokens", "9", "--decode", "2", "--runs", "1", "--json", "-"];
    let ended = run(catamount().args(shape).arg(&model).args(arguments)).fine();
    let figures = ended.json();
    assert_eq!((&figures["declared"], &figures["layers"]), (&true.into(), &2.into()), "{figures}");
    // Against plain floating point of the same weights.
    let error = figures["max_error"].as_f64().unwrap();
    assert!(error < 0.05, "{error}");
    assert_eq!(figures["decode_s"].as_array().unwrap().len(), 2);
    let planned = figures["memory"]["parties"].as_array().unwrap();
    let matrices = |party: usize| planned[party]["matrices"].as_u64().unwrap();
    assert!(matrices(0) > 0 && matrices(1) == matrices(0) && matrices(2) == matrices(0));
    assert!(
        ended.err.contains("P1 on cpu, weights stored: ") && ended.err.contains("main memory needed"),
        "{}",
        ended.err
    );

    // Drawn from their seeds instead of stored: the same error, less memory.
    let drawn = ["--weights", "regenerated"];
    let drawn = run(catamount().args(shape).arg(&model).args(arguments).args(drawn)).fine().json();
    let needs = |party: usize| drawn["memory"]["parties"][party]["matrices"].as_u64().unwrap();
    assert_eq!([needs(0), needs(1), needs(2)], [0, matrices(0), matrices(0)]);
    assert!(drawn["declared"] == true && drawn["max_error"].as_f64().unwrap() < 0.05, "{drawn}");

    let one = run(catamount().args(shape).arg(&model).args(["--layers", "1"]).args(arguments)).fine().json();
    assert_eq!(one["layers"], 1);
}

#[test]
fn benchmark_weights_are_for_shapes_only() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tiny", 1);
    let bench = |arguments: &[&str]| run(catamount().args(["bench", "model"]).args(arguments));
    let path = model.to_str().unwrap();
    bench(&[path, "--random-weights"]).refused(&["--random-weights"]);
    bench(&["--shape", path]).refused(&["--random-weights"]);
    bench(&["--shape", path, path, "--random-weights"]).refused(&["--shape"]);
    bench(&["--random-weights"]).refused(&["--shape"]);
    bench(&["--shape", "gpt9", "--random-weights"]).refused(&["gpt9"]);
    bench(&[path, "--layers", "1"]).refused(&["--layers"]);
    // No other command takes them.
    run(catamount().args(["share-model", path, "--random-weights"])).refused(&["--random-weights"]);
    let help = run(catamount().args(["bench", "model", "--help"])).fine().out;
    assert!(help.contains("no secrets"), "{help}");
}

#[test]
fn a_shape_that_does_not_fit_is_refused_before_anything_is_made() {
    // 1024 layers of LLaMA-7B: 12 TB at the parties.
    let arguments = ["--random-weights", "--shape", "llama-7b", "--layers", "1024", "--tokens", "1"];
    let ended = run(catamount().args(["bench", "model"]).args(arguments));
    let ended = ended.refused(&["of this machine's main memory needed", "free", "smaller shape"]);
    assert!(ended.took < Duration::from_secs(30), "{:?}", ended.took);
    assert!(
        ended.out.contains("P2 on cpu, weights stored: ") && ended.out.contains("keys and values"),
        "{}",
        ended.out
    );
}

#[test]
fn parties_keep_a_benchmark_model_as_its_seed() {
    let mut cluster = Cluster::started();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = models::checkpoint::ModelConfig::toy();
    let public = parties::owner::benchmark_model(config.clone()).unwrap();
    let tables = public.plan.tables(&kernels::cpu::Cpu::best(), &config);
    let pass = |cluster: &Cluster, share: bool| {
        runtime.block_on(async {
            use parties::{
                client::Client,
                owner::share_benchmark,
                private::{Pass, PrivateModel},
            };
            let client = Client::connect(&cluster.files.client()).await.unwrap();
            if share {
                share_benchmark(&client, "made-up", &public, &tables).await.unwrap();
            }
            let model = PrivateModel::open(&client, "made-up").await.unwrap();
            let mut run = model.run(models::model::OutputRows::Last, 4).await.unwrap();
            run.pass(Pass { tokens: &[3, 1, 4], segment: None }).await.unwrap().0
        })
    };
    let before = pass(&cluster, true);
    assert!(cluster.party(1).err().contains("they are public"), "{}", cluster.party(1).err());
    for role in 0..3 {
        assert_eq!(cluster.stored(role), ["made-up.share"]);
        let size = std::fs::metadata(cluster.share_file(role, "made-up.share")).unwrap().len();
        assert!(size < 4096, "{size} bytes");
        cluster.stop(role);
        cluster.start(role);
    }
    // Other masks, other roundings in the last places; the same weights.
    let after = pass(&cluster, false);
    let size = before.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(size > 0.1 && before.len() == config.vocab);
    assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 4e-3 * size.max(1.0)));
    cluster.finish();
}

#[test]
fn a_device_is_measured_beside_what_it_could() {
    let arguments = ["bench", "device", "--seconds", "0.05", "--tokens", "2", "--json", "-"];
    let ended = run(catamount().args(arguments)).fine();
    let report = ended.json();
    assert_eq!(report["exact"], true);
    assert!(report["device"].as_str().unwrap().starts_with("cpu ("), "{report}");
    assert_ne!(report["device"], report["reference"]);
    let figures: Vec<&Value> = report["figures"].as_array().unwrap().iter().collect();
    let names: Vec<&str> = figures.iter().map(|f| f["name"].as_str().unwrap()).collect();
    let expected =
        ["product", "product with one row", "the same, a half made", "ChaCha12", "host round trip"];
    assert_eq!(names, expected);
    assert!(figures.iter().all(|f| f["achieved"].as_f64() > Some(0.0)), "{report}");
    assert!(figures[1..3].iter().all(|f| f["attainable"].as_f64() > Some(0.0)), "{report}");
    assert!(figures[0]["attainable"].is_null() && figures[0]["source"] == "unknown", "{report}");
    let gates = report["gates"].as_array().unwrap();
    assert_eq!(gates.len(), 12);
    for gate in gates {
        let times = gate["local_ms"].as_array().unwrap();
        assert!(times.iter().all(|t| t.as_f64() > Some(0.0)), "{gate}");
    }
    assert!(ended.err.contains("local part of each gate"), "{}", ended.err);
    run(catamount().args(["bench", "device", "--device", "cuda:4095"])).refused(&["no CUDA device"]);
    run(catamount().args(["bench", "device", "--seconds", "0"])).refused(&["measures nothing"]);
}
