//! `catamount demo`: the whole system on one machine.

use crate::ask::{GenerationArguments, Guesser, stream};
use crate::device::{DeviceArgument, WeightsArgument};
use crate::network::{NetworkArgument, NetworkFigures};
use crate::output::{AnswerFigures, JsonArgument, dealing, links, megabytes, seconds};
use crate::processes::{LocalCluster, Setup};
use crate::trace::TraceArgument;
use crate::{block_on, host, model};
use models::dry::{Dry, Tokens};
use models::float::{Float, complete};
use models::model::{Cache, OutputRows};
use models::shared::Dealing;
use parties::cluster::ClusterConfig;
use parties::config::Limits;
use parties::owner::OwnedModel;
use parties::private::{Answer, Generation, PrivateError, PrivateModel, Reveal, prompt_passes};
use parties::sampling::Sampling;
use parties::server::stop_signal;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What the demo asks by default.
const QUESTION: &str = "What is the capital of France?";
const NAME: &str = "demo";

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Demo {
    /// What to ask.
    #[arg(long, default_value = QUESTION)]
    prompt: String,
    #[arg(long, value_name = "MODEL", default_value = "smollm2", help = model::HELP)]
    model: String,
    #[command(flatten)]
    generation: GenerationArguments,
    #[command(flatten)]
    device: DeviceArgument,
    #[command(flatten)]
    weights: WeightsArgument,
    #[command(flatten)]
    trace: TraceArgument,
    #[command(flatten)]
    network: NetworkArgument,
    #[command(flatten)]
    json: JsonArgument,
}

impl Default for Demo {
    fn default() -> Demo {
        Demo {
            prompt: QUESTION.into(),
            model: "smollm2".into(),
            generation: GenerationArguments::default(),
            device: DeviceArgument::default(),
            weights: WeightsArgument::default(),
            trace: TraceArgument::default(),
            network: NetworkArgument::default(),
            json: JsonArgument::default(),
        }
    }
}

/// What the demo found.
#[derive(Serialize)]
struct Figures {
    prompt: String,
    prompt_tokens: usize,
    private_text: String,
    plaintext_text: String,
    agree: bool,
    max_logit_error: Option<f32>,
    first_token_s: f64,
    tokens_per_s: Option<f64>,
    tokens: usize,
    exchanges: u64,
    exchanges_per_layer: f64,
    bytes: BTreeMap<String, u64>,
    first_token_bytes: BTreeMap<String, u64>,
    /// When the dealer worked for the tokens after the first.
    dealing: Dealing,
    peak_rss_bytes: BTreeMap<String, Option<u64>>,
    seen_of_the_prompt: BTreeMap<String, Vec<String>>,
    sharing_s: f64,
    /// The same question without speculation, where that was asked for.
    ordinary: Option<AnswerFigures>,
    /// The answer's own figures then.
    speculative: Option<AnswerFigures>,
    network: Option<NetworkFigures>,
}

impl Demo {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut generation = self.generation.generation(&self.prompt)?;
        generation.keep_logits = true;
        let mut guesser = self.generation.guesser()?;
        let devices = self.device.open()?;
        let owned = model::load(&self.model)?;
        anyhow::ensure!(
            owned.config().is_decoder(),
            "{} generates no text; `catamount embed` and `catamount classify` take such models",
            self.model
        );
        let network = self.network.measure(&self.json)?;
        let (mut figures, relayed) = block_on(async {
            let stop = stop_signal()?;
            let context = owned.public.plan.longest.min(Limits::default().max_context_tokens as usize);
            let model = (owned.config(), &owned.tables);
            let weights = self.weights.of_model(&self.device, &devices, model, context);
            let setup = Setup { devices: self.device.choices(), weights };
            let mut cluster = LocalCluster::start(setup, self.network.model(), host::ONE_DEALER)?;
            let pids: Vec<String> = cluster.pids().iter().map(u32::to_string).collect();
            self.json.say(&format!("three party processes are running: {}\n", pids.join(", ")));
            tokio::select! {
                figures = self.ask(&mut cluster, &owned, &generation, guesser.as_mut()) => {
                    // A party's own last words say more than a lost connection.
                    let figures = figures.map_err(|e| cluster.check().err().unwrap_or(e))?;
                    Ok((figures, cluster.relayed()))
                }
                () = stop => anyhow::bail!("interrupted; the three parties have been ended"),
            }
        })?;
        self.report(&figures);
        figures.network = network.zip(relayed).map(|(n, seen)| NetworkFigures::of(n, seen, &self.json));
        self.json.write(&figures)?;
        anyhow::ensure!(
            figures.agree || self.generation.temperature > 0.0,
            "the private answer differs from the plaintext answer; please report this with prompt and model"
        );
        Ok(())
    }

    async fn ask(
        &self,
        cluster: &mut LocalCluster,
        owned: &std::sync::Arc<OwnedModel>,
        generation: &Generation,
        guesser: Option<&mut Guesser>,
    ) -> anyhow::Result<Figures> {
        let client = cluster.connect(&ClusterConfig::load(&cluster.client_file())?).await?;
        let start = Instant::now();
        host::share(owned, &client, NAME).await?;
        let sharing = start.elapsed();
        let model = PrivateModel::open(&client, NAME).await?;
        let model = if self.trace.wanted() { model.timed() } else { model };
        let tokens = self.generation.tokens(&model, &self.prompt)?;
        self.json.say(&format!("\nprompt: {}\nprivate answer: ", self.prompt));
        let mut answer = stream(&model, &tokens, generation, None, &self.json).await?;
        let mut times = answer.times.clone();
        let mut ordinary = None;
        if guesser.is_some() {
            self.json.say("the same by speculation: ");
            let speculative = stream(&model, &tokens, generation, guesser, &self.json).await?;
            anyhow::ensure!(
                speculative.tokens == answer.tokens,
                "speculation gave other tokens; unless two scores lie closer than the protocol rounds, please report this with prompt and model"
            );
            times.extend(speculative.times.iter().cloned());
            ordinary = Some(std::mem::replace(&mut answer, speculative));
        }
        self.trace.write(&times)?;
        let memory = cluster.peak_memory();
        client.close().await;
        let mut figures = self.figures(owned, generation, &tokens, &answer, memory, sharing)?;
        figures.speculative = ordinary.as_ref().map(|_| AnswerFigures::of(&answer));
        figures.ordinary = ordinary.as_ref().map(AnswerFigures::of);
        Ok(figures)
    }

    fn figures(
        &self,
        owned: &OwnedModel,
        generation: &Generation,
        prompt: &[u32],
        answer: &Answer,
        memory: [Option<u64>; 3],
        sharing: Duration,
    ) -> anyhow::Result<Figures> {
        let reference = Reference::follow(owned, prompt, answer)?;
        let by_role = |i: usize| format!("P{i}");
        let figures = AnswerFigures::of(answer).all;
        // Embedding and output take exchanges too; the rest belongs to the layers.
        let dry = Dry::model(owned.config(), &owned.tables);
        let choice = match generation.reveal {
            Reveal::Logits => None,
            Reveal::Tokens => Some(generation.sampling.by_the_parties().map_err(PrivateError::Choice)?),
        };
        // A long prompt takes several passes; nothing is chosen after those before its last.
        let prompts = prompt_passes(&[prompt.len()], Limits::default().max_context_tokens as usize);
        let (first, later) = (prompts.len() as u64 - 1, answer.gains.len() as u64);
        // Further tokens come from whoever has chosen them.
        let further = if choice.is_some() { Tokens::Chosen(1) } else { Tokens::Keys(1) };
        let outside = |tokens, choice| Dry::exchanges_outside_layers(&dry, tokens, choice);
        let outside = first * outside(Tokens::Keys(1), None)
            + outside(Tokens::Keys(1), choice)
            + later * outside(further, choice);
        let passed = (first + 1 + later) * owned.config().layers as u64;
        let exchanges_per_layer = figures.exchanges.saturating_sub(outside) as f64 / passed as f64;
        Ok(Figures {
            prompt: self.prompt.clone(),
            prompt_tokens: prompt.len(),
            private_text: answer.text.clone(),
            agree: reference.agrees,
            plaintext_text: reference.text,
            max_logit_error: reference.max_error,
            first_token_s: figures.first_token_s,
            tokens_per_s: figures.tokens_per_s,
            tokens: figures.tokens,
            exchanges: figures.exchanges,
            exchanges_per_layer: (exchanges_per_layer * 100.0).round() / 100.0,
            bytes: figures.bytes,
            first_token_bytes: links(&answer.prompt_cost),
            dealing: answer.decode_dealing,
            peak_rss_bytes: (0..3).map(|i| (by_role(i), memory[i])).collect(),
            seen_of_the_prompt: (0..3).map(|i| (by_role(i), answer.seen.words[i].clone())).collect(),
            sharing_s: seconds(sharing),
            ordinary: None,
            speculative: None,
            network: None,
        })
    }

    fn report(&self, f: &Figures) {
        let say = |text: String| self.json.say(&(text + "\n"));
        say(format!("plaintext answer: {}", f.plaintext_text));
        say(if f.agree { "the two agree".into() } else { "THE TWO DIFFER".into() });
        match f.max_logit_error {
            Some(e) => say(format!("largest difference of an output score: {e:.4}")),
            None => say("output scores were not revealed, not even to the client".into()),
        }
        say(format!(
            "first token after {:.2} s ({} prompt tokens){}",
            f.first_token_s,
            f.prompt_tokens,
            f.tokens_per_s.map(|t| format!(", then {t:.2} tokens a second")).unwrap_or_default()
        ));
        if let (Some(ordinary), Some(speculative)) = (&f.ordinary, &f.speculative) {
            let rate = |f: &AnswerFigures| f.all.tokens_per_s.map_or("-".into(), |t| format!("{t:.2}"));
            say(format!(
                "tokens a second after the first: {} by speculation, {} without, on the same machine one after the other",
                rate(speculative),
                rate(ordinary)
            ));
            if let Some(speculation) = speculative.speculation() {
                say(speculation);
            }
        }
        say(format!(
            "{} exchanges between P1 and P2, {} a decoder layer",
            f.exchanges, f.exchanges_per_layer
        ));
        let links: Vec<String> = f.bytes.iter().map(|(l, b)| format!("{l} {}", megabytes(*b))).collect();
        say(format!("sent: {}", links.join(", ")));
        if f.tokens > 1 {
            say(dealing(&f.dealing, f.tokens - 1));
        }
        let memory: Vec<String> = f
            .peak_rss_bytes
            .iter()
            .map(|(p, b)| format!("{p} {}", b.map_or("unknown".into(), megabytes)))
            .collect();
        say(format!("peak memory: {}", memory.join(", ")));
        say("what each party saw of the prompt (P0: the beginning of its seeds; P1 and P2: of the masked tokens):".into());
        for (party, words) in &f.seen_of_the_prompt {
            say(format!("  {party}: {}", words.join(" ")));
        }
    }
}

/// The plaintext reference beside a private answer.
struct Reference {
    text: String,
    agrees: bool,
    max_error: Option<f32>,
}

impl Reference {
    /// Generates greedily in the clear; compares output scores as long as both follow the same tokens.
    fn follow(owned: &OwnedModel, prompt: &[u32], answer: &Answer) -> anyhow::Result<Reference> {
        let (float, model) = (Float::default(), owned.float()?);
        let mut cache = Cache::new(&model.config);
        let (mut input, mut tokens, mut max_error) = (prompt.to_vec(), vec![], None);
        while tokens.len() < answer.tokens.len() {
            let n = input.len();
            let scores = complete(model.forward(&float, &input, n, &mut cache, OutputRows::Last))?.data;
            if tokens[..] == answer.tokens[..tokens.len()]
                && let Some(private) = answer.logits.get(tokens.len())
            {
                let error = private.iter().zip(&scores).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                max_error = Some(max_error.map_or(error, |m: f32| m.max(error)));
            }
            let token = Sampling::Greedy.choose(&scores).map_err(anyhow::Error::msg)?;
            tokens.push(token);
            if owned.tokenizer.as_ref().is_some_and(|t| t.is_eos(token)) {
                break;
            }
            input = vec![token];
        }
        let text = owned.tokenizer.as_ref().map_or(Ok(String::new()), |t| t.decode(&tokens, true))?;
        Ok(Reference { text, agrees: tokens == answer.tokens, max_error })
    }
}
