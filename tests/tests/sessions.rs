//! Several sessions at once, each party dealing in one: right answers, none disturbed by another, limits kept.

mod cluster;

use cluster::{cluster, cluster_with};
use models::{
    clear::Clear,
    float::complete,
    model::{Cache, OutputRows},
};
use parties::{
    config::Dealing,
    private::{Pass, PrivateError, PrivateModel, Run},
};
use protocol::Party;

const PROMPTS: [&[u32]; 3] = [&[72, 101], &[108, 108, 111, 32, 119], &[111, 114, 108, 100]];
const NEXT: [u32; 3] = [33, 44, 55];

/// The outputs after each prompt and after the token that follows it, of the same integers in the clear.
fn clear(cluster: &cluster::Cluster) -> [[Vec<f32>; 2]; 3] {
    let (device, owned) = (kernels::cpu::Cpu::best(), &cluster.owned);
    let model = Clear::load(&device, &mut **owned.source(), &owned.tables).unwrap();
    let mut session = 0..;
    PROMPTS.map(|prompt| {
        let mut cache = Cache::new(owned.config());
        let next = NEXT[session.next().unwrap()];
        [prompt.to_vec(), vec![next]].map(|tokens| {
            let algebra = Clear::new(&device);
            let pass = model.forward(&algebra, &tokens, tokens.len(), &mut cache, OutputRows::Last);
            let integers = complete(pass).unwrap().data;
            integers.iter().map(|c| (*c as i64 as f64 / 2f64.powi(36)) as f32).collect()
        })
    })
}

async fn pass(run: &mut Run<'_>, tokens: &[u32]) -> Result<Vec<f32>, PrivateError> {
    Ok(run.pass(Pass { tokens, segment: None }).await?.0)
}

fn assert_close(private: &[f32], clear: &[f32], what: &str) {
    let size = clear.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(size > 0.1, "{what}: scores of no size prove nothing");
    for (p, c) in private.iter().zip(clear) {
        assert!((p - c).abs() < 4e-3 * size.max(1.0), "{what}: private {p}, clear {c}");
    }
}

#[test]
fn three_dealers_at_once_and_a_session_that_dies() {
    cluster().run(async |client, cluster| {
        cluster.owned.share(client, "tiny", |_, _| ()).await.unwrap();
        let clear = clear(cluster);
        let model = PrivateModel::open(client, "tiny").await.unwrap();
        let mut runs = vec![];
        for _ in 0..4 {
            runs.push(model.run(OutputRows::Last, 16).await.unwrap());
        }
        let doomed = runs.pop().unwrap();
        let mut dealers: Vec<Party> = runs.iter().map(Run::dealer).collect();
        dealers.sort_unstable();
        assert_eq!(dealers, Party::ALL);
        let [mut a, mut b, mut c]: [Run<'_>; 3] = runs.try_into().ok().unwrap();

        let firsts =
            tokio::join!(pass(&mut a, PROMPTS[0]), pass(&mut b, PROMPTS[1]), pass(&mut c, PROMPTS[2]));
        for (i, first) in [firsts.0, firsts.1, firsts.2].into_iter().enumerate() {
            assert_close(&first.unwrap(), &clear[i][0], &format!("prompt {i}"));
        }
        // One session dies in the middle of a pass, while the others go on.
        let mut doomed = doomed;
        let dying = async {
            let pass = doomed.pass(Pass { tokens: PROMPTS[1], segment: None });
            let _ = tokio::time::timeout(std::time::Duration::from_millis(3), pass).await;
            drop(doomed);
        };
        let nexts = tokio::join!(
            pass(&mut a, &NEXT[..1]),
            pass(&mut b, &NEXT[1..2]),
            pass(&mut c, &NEXT[2..]),
            dying
        );
        for (i, next) in [nexts.0, nexts.1, nexts.2].into_iter().enumerate() {
            assert_close(&next.unwrap(), &clear[i][1], &format!("token after prompt {i}"));
        }
        for run in [a, b, c] {
            run.close().await.unwrap();
        }
        // And its place is free again.
        model.run(OutputRows::Last, 16).await.unwrap().close().await.unwrap();
    });
}

#[test]
fn no_more_sessions_than_allowed_whoever_deals() {
    cluster_with(|_, limits| limits.max_sessions = 3).run(async |client, cluster| {
        cluster.owned.share(client, "tiny", |_, _| ()).await.unwrap();
        let model = PrivateModel::open(client, "tiny").await.unwrap();
        let mut runs = vec![];
        for _ in 0..3 {
            runs.push(model.run(OutputRows::Last, 8).await.unwrap());
        }
        for _ in 0..3 {
            let error = model.run(OutputRows::Last, 8).await.err().unwrap().to_string();
            assert!(error.contains("3 sessions open") && error.contains("limits.max_sessions"), "{error}");
        }
        for run in &mut runs {
            pass(run, &[1, 2, 3]).await.unwrap();
        }
        runs.pop().unwrap().close().await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        pass(&mut model.run(OutputRows::Last, 8).await.unwrap(), &[4]).await.unwrap();
    });
}

/// A party that always deals keeps nothing that only evaluators need, and the answers are the same.
#[test]
fn one_dealer_for_all_sessions() {
    for only in Party::ALL {
        cluster_with(|_, limits| limits.dealer = Dealing::Only(only)).run(async |client, cluster| {
            cluster.owned.share(client, "tiny", |_, _| ()).await.unwrap();
            let clear = clear(cluster);
            let model = PrivateModel::open(client, "tiny").await.unwrap();
            for (prompt, clear) in PROMPTS.iter().zip(&clear) {
                let mut run = model.run(OutputRows::Last, 16).await.unwrap();
                assert_eq!(run.dealer(), only);
                assert_close(&pass(&mut run, prompt).await.unwrap(), &clear[0], &format!("dealer {only}"));
                run.close().await.unwrap();
            }
        });
    }
    // Parties that want different ones find no session that suits both.
    let each = |party: usize| Dealing::Only(Party::ALL[party % 2]);
    cluster_with(|party, limits| limits.dealer = each(party)).run(async |client, cluster| {
        cluster.owned.share(client, "tiny", |_, _| ()).await.unwrap();
        let model = PrivateModel::open(client, "tiny").await.unwrap();
        let error = model.run(OutputRows::Last, 8).await.err().unwrap().to_string();
        assert!(
            error.contains("P1 takes part in sessions that P1 deals") && error.contains("limits.dealer"),
            "{error}"
        );
    });
}
