//! Prefill and decode speed of a GGUF file, through the engine's public door; and beside each
//! round, what candle's own kernels take for the matrix products of one decoded token alone
//! (`QMatMul` over the same file, nothing else of a model), which bounds what a model on them could decode.
//!
//! `cargo run --release -p polymath-engine --example decode_speed -- MODEL.gguf [THREADS] [ANSWERS AT ONCE]`
//!
//! candle takes its thread count from the environment: set `RAYON_NUM_THREADS` to THREADS for a
//! fair pair.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use candle_core::{
    Device, Module, Tensor,
    quantized::{QMatMul, gguf_file},
};
use polymath_engine::{Engine, EngineConfig, GenerateJob, Generated, inspect_gguf};
use polymath_types::{
    ExpertCard, ExpertKind, FileRef, FileRole, LabelSet, Message, Model, Runtime, Sampling,
    SamplingOverrides,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path: PathBuf = arguments
        .next()
        .ok_or("usage: decode_speed MODEL.gguf [THREADS] [ANSWERS AT ONCE]")?
        .into();
    let threads = arguments.next().map_or(Ok(0), |t| t.parse())?;
    let at_once: usize = arguments.next().map_or(Ok(1), |t| t.parse())?;
    let info = inspect_gguf(&path)?;
    println!("{info:?}");
    let card = card(info.context_length);
    let engine = Engine::start(EngineConfig {
        threads,
        slots: at_once,
        ..EngineConfig::default()
    })?;
    let start = Instant::now();
    engine.load(Arc::new(card.clone()), &|_| path.clone())?;
    println!(
        "load {:.2?}, resident {} MB, {}",
        start.elapsed(),
        resident_mb(),
        engine.fingerprint(&card.id()).unwrap_or_default()
    );

    let candle = Candle::open(&path)?;
    println!(
        "candle's products: {} threads",
        candle_core::utils::get_num_threads()
    );
    println!(
        "round  prompt tokens  prefill tok/s  decode tok/s (all {at_once} together)  candle's products, tokens/s  ratio"
    );
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let job = || GenerateJob {
            messages: vec![Message::user("Tell me a story about a ship. ".repeat(24))],
            // A penalised, sampled answer seldom ends early.
            sampling: SamplingOverrides {
                max_tokens: Some(96),
                temperature: Some(1.5),
                seed: Some(round),
                ..Default::default()
            },
            ..GenerateJob::default()
        };
        let start = Instant::now();
        let mut streams = (0..at_once)
            .map(|_| engine.generate(&card.id(), job()))
            .collect::<Result<Vec<_>, _>>()?;
        let (mut prompt, mut tokens, mut first) = (0, 0usize, None);
        for stream in &mut streams {
            while let Some(event) = stream.next().await {
                match event? {
                    Generated::Started { prompt_tokens, .. } => prompt += prompt_tokens,
                    Generated::Tokens { ids, .. } => {
                        first.get_or_insert_with(Instant::now);
                        tokens += ids.len();
                    }
                    _ => {}
                }
            }
        }
        let first = first.unwrap_or(start);
        let prefill = f64::from(prompt) / (first - start).as_secs_f64() / at_once as f64;
        let decode = tokens as f64 / first.elapsed().as_secs_f64();
        let bound = candle.tokens_per_second()?;
        ratios.push(decode / bound);
        println!(
            "{round:5}  {prompt:13}  {prefill:13.1}  {decode:38.1}  {bound:27.1}  {:5.2}",
            decode / bound
        );
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "decode over candle's products alone: median {:.2} ({:.2} to {:.2})",
        ratios[ROUNDS as usize / 2],
        ratios[0],
        ratios[ROUNDS as usize - 1]
    );
    println!(
        "resident {} MB, processor time {:.2} s",
        resident_mb(),
        processor_seconds()
    );
    Ok(())
}

/// Rounds; the two sides alternate.
const ROUNDS: u64 = 9;

/// The matrices of a file under candle's kernels, each with one row to multiply.
struct Candle(Vec<(QMatMul, Tensor)>);

impl Candle {
    fn open(path: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let mut file = std::fs::File::open(path)?;
        let content = gguf_file::Content::read(&mut file)?;
        let mut products = Vec::new();
        for name in content.tensor_infos.keys() {
            let tensor = content.tensor(&mut file, name, &Device::Cpu)?;
            if let [_, inputs] = *tensor.shape().dims() {
                let row = Tensor::randn(0f32, 1.0, (1, inputs), &Device::Cpu)?;
                products.push((QMatMul::from_qtensor(tensor)?, row));
            }
        }
        Ok(Self(products))
    }

    /// A tied embedding is counted once, as the head that it is when a token is decoded.
    fn tokens_per_second(&self) -> candle_core::Result<f64> {
        let (start, tokens) = (Instant::now(), 32);
        for _ in 0..tokens {
            for (matrix, row) in &self.0 {
                std::hint::black_box(matrix.forward(row)?);
            }
        }
        Ok(f64::from(tokens) / start.elapsed().as_secs_f64())
    }
}

fn card(context_length: u32) -> ExpertCard {
    ExpertCard {
        version: 1,
        name: "speed".into(),
        kind: ExpertKind::Generate,
        model: Model {
            name: "speed".into(),
            runtime: Runtime::GgufLlama,
            files: vec![FileRef {
                role: FileRole::Weights,
                name: "model.gguf".into(),
                size: 0,
                sha256: "0".repeat(64),
                blake3: "0".repeat(64),
            }],
            adapter: None,
            context_length,
            dimensions: 0,
            licence: "unstated".into(),
        },
        system: None,
        sampling: Sampling::default(),
        description: String::new(),
        examples: Vec::new(),
        languages: Vec::new(),
        labels: LabelSet::None,
        capabilities: Vec::new(),
    }
}

/// Resident memory, where the system tells (Linux).
fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}

/// User and system time of this process, where the system tells (Linux, 100 ticks a second).
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks = |i: usize| {
        fields
            .get(i)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}
