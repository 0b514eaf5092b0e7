//! Where the models of the tests are, cards over them, and reading an answer with a deadline.

use std::{path::PathBuf, sync::Arc, time::Duration};

use polymath_engine::{Engine, EngineConfig, EngineError, GenerateJob, GenerateStream, Generated};
use polymath_types::{
    ExpertCard, ExpertId, ExpertKind, FileRef, FileRole, FinishReason, LabelSet, Message, Model,
    Runtime, Sampling, SamplingOverrides, Usage,
};

pub(crate) const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

pub(crate) fn path(name: &str) -> PathBuf {
    let folder = std::env::var_os("POLYMATH_TEST_MODELS").expect(
        "POLYMATH_TEST_MODELS must name the folder of test models: cargo xtask test prepares it",
    );
    let path = PathBuf::from(folder).join(name);
    assert!(
        path.is_file(),
        "{} is missing: cargo xtask test prepares it",
        path.display()
    );
    path
}

pub(crate) fn card(
    name: &str,
    kind: ExpertKind,
    runtime: Runtime,
    files: &[(FileRole, &str)],
) -> ExpertCard {
    let file = |(role, file): &(FileRole, &str)| FileRef {
        role: *role,
        name: (*file).to_owned(),
        size: 1,
        sha256: "0".repeat(64),
        blake3: blake3_of(file),
    };
    ExpertCard {
        version: 1,
        name: name.into(),
        kind,
        model: Model {
            name: "model".into(),
            runtime,
            files: files.iter().map(file).collect(),
            adapter: None,
            context_length: 0,
            dimensions: 0,
            licence: "Apache-2.0".into(),
        },
        system: None,
        sampling: Sampling::default(),
        description: String::new(),
        examples: Vec::new(),
        languages: Vec::new(),
        labels: if kind == ExpertKind::Classify {
            LabelSet::Open
        } else {
            LabelSet::None
        },
        capabilities: Vec::new(),
    }
}

/// The engine verifies no checksum; one that differs from file to file is all it needs.
fn blake3_of(name: &str) -> String {
    let sum = name
        .bytes()
        .fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    format!("{sum:064x}")
}

pub(crate) fn smollm2(name: &str) -> ExpertCard {
    card(
        name,
        ExpertKind::Generate,
        Runtime::GgufLlama,
        &[(FileRole::Weights, SMOLLM2)],
    )
}

pub(crate) fn minilm(name: &str, kind: ExpertKind, runtime: Runtime) -> ExpertCard {
    let files = [
        (FileRole::Weights, "model.safetensors"),
        (FileRole::Tokenizer, "tokenizer.json"),
        (FileRole::Config, "config.json"),
    ];
    card(name, kind, runtime, &files)
}

pub(crate) fn engine(slots: usize, queue: usize) -> Engine {
    Engine::start(EngineConfig {
        threads: 2,
        slots,
        queue,
        memory: None,
    })
    .unwrap()
}

pub(crate) fn load(engine: &Engine, card: ExpertCard) -> ExpertId {
    let id = card.id();
    let folder = if card.model.runtime == Runtime::GgufLlama {
        ""
    } else {
        "minilm/"
    };
    engine
        .load(Arc::new(card), &|file| {
            path(&format!("{folder}{}", file.name))
        })
        .unwrap();
    assert!(engine.is_ready(&id));
    id
}

pub(crate) fn ask(text: &str, sampling: SamplingOverrides) -> GenerateJob {
    GenerateJob {
        messages: vec![Message::user(text)],
        sampling,
        ..GenerateJob::default()
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) prompt_tokens: u32,
    pub(crate) seed: u64,
    pub(crate) ids: Vec<u32>,
    pub(crate) text: String,
    /// Text shown up to and with each token.
    pub(crate) text_after: Vec<String>,
    pub(crate) end: Option<(FinishReason, Usage)>,
}

/// The next event, or the end, within a minute.
pub(crate) async fn next(stream: &mut GenerateStream) -> Option<Result<Generated, EngineError>> {
    tokio::time::timeout(Duration::from_secs(60), stream.next())
        .await
        .expect("no event within a minute")
}

pub(crate) async fn read(mut stream: GenerateStream) -> Result<Answer, EngineError> {
    let mut answer = Answer::default();
    while let Some(event) = next(&mut stream).await {
        match event? {
            Generated::Started {
                prompt_tokens,
                seed,
                fingerprint,
            } => {
                assert!(answer.ids.is_empty() && !fingerprint.is_empty());
                answer.prompt_tokens = prompt_tokens;
                answer.seed = seed;
            }
            Generated::Tokens { ids, text } => {
                answer.text += &text;
                answer
                    .text_after
                    .extend(ids.iter().map(|_| answer.text.clone()));
                answer.ids.extend(ids);
            }
            Generated::Finished { reason, usage } => {
                assert_eq!(answer.end, None);
                answer.end = Some((reason, usage));
            }
        }
    }
    assert!(answer.end.is_some(), "an answer ends with Finished");
    Ok(answer)
}
