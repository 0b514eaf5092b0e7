//! From what a person names (`chef`, `smollm2-135m-instruct`, `my.toml`, `my.gguf`) to an expert
//! card whose files lie in the model store.

mod draft;
mod outside;
pub(crate) mod own;

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use polymath_blobs::{
    Cancel, Import, Installed, KnownModel, Progress, Store, known_model, known_models,
};
use polymath_types::{
    ErrorKind, ExpertCard, ExpertKind, Failure, FileRef, FileRole, Format, LabelSet, Model,
    Runtime, Sampling,
};
use polymath_upstream::Upstream;
use serde::{Deserialize, Serialize};

pub use outside::UpstreamDefinition;
use outside::outside;
pub(crate) use own::Own;
pub use own::own_cards;

use crate::terms;

/// Definitions that come with the binary.
const BUILT_IN: [&str; 8] = [
    include_str!("../experts/assistant.toml"),
    include_str!("../experts/chef.toml"),
    include_str!("../experts/coder.toml"),
    include_str!("../experts/geographer.toml"),
    include_str!("../experts/physician.toml"),
    include_str!("../experts/embedder.toml"),
    include_str!("../experts/topics.toml"),
    include_str!("../experts/language.toml"),
];

/// The model name of the language identifier that is compiled in.
const TRIGRAM: &str = "trigram";
/// The files of an encoder.
const ENCODER: [&str; 3] = ["model.safetensors", "tokenizer.json", "config.json"];
/// The licence of a model whose files state none.
const UNSTATED: &str = "LicenseRef-unstated";
/// Largest definition file, bytes.
const LARGEST_DEFINITION: u64 = 256 * 1024;

/// An expert definition, as in a `.toml` file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    version: u32,
    /// The expert's name.
    pub name: String,
    /// What it does.
    pub kind: ExpertKind,
    /// A known model's name, a path to a `.gguf` file or to an encoder's folder (relative to the
    /// definition), or the model's id on the server.
    pub model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    examples: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    languages: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    labels: Option<Labels>,
    /// What it can do beyond its kind, in any order.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    capabilities: BTreeSet<String>,
    /// `IN/OUT`, credits for 1,000 tokens of prompt and answer; none: what the settings say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    price: Option<String>,
    /// Peers are not answered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    paused: bool,
    /// The server that computes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upstream: Option<UpstreamDefinition>,
    #[serde(default, skip_serializing_if = "SamplingDefinition::is_default")]
    sampling: SamplingDefinition,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Labels {
    Open(OpenLabels),
    Fixed(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OpenLabels {
    Open,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SamplingDefinition {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeat_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop: Vec<String>,
}

impl SamplingDefinition {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Definition {
    /// Reads a definition's text; `origin` names it in errors.
    pub fn parse(text: &str, origin: &str) -> Result<Self, Failure> {
        let bad = |e: String| Failure::new(ErrorKind::Config, format!("{origin}: {e}"));
        #[derive(Deserialize)]
        struct Versioned {
            version: Option<u32>,
        }
        let toml_error = |e: toml::de::Error| bad(e.message().replace('\n', " "));
        let found: Versioned = toml::from_str(text).map_err(toml_error)?;
        let version = found
            .version
            .ok_or_else(|| bad("the first line must be `version = 1`".into()))?;
        Format::Card
            .check(version)
            .map_err(|e| Failure::new(ErrorKind::VersionMismatch, format!("{origin}: {e}")))?;
        let definition: Self = toml::from_str(text).map_err(toml_error)?;
        debug_assert_eq!(definition.version, version);
        Ok(definition)
    }

    fn manner(&self) -> Result<Manner, Failure> {
        Ok(Manner {
            own: false,
            paused: self.paused,
            price: self
                .price
                .as_deref()
                .map(terms::price_each_way)
                .transpose()?,
        })
    }

    fn card(self, model: Model) -> Result<ExpertCard, Failure> {
        let labels = match (&self.labels, model.runtime) {
            (None, Runtime::Trigram) => LabelSet::Fixed(polymath_engine::language_labels()),
            (None, _) => LabelSet::None,
            (Some(Labels::Open(OpenLabels::Open)), _) => LabelSet::Open,
            (Some(Labels::Fixed(labels)), _) => LabelSet::Fixed(labels.clone()),
        };
        let mut d = Sampling::default();
        if model.runtime == Runtime::Upstream {
            // Many models there think first, which counts.
            d.max_tokens = outside::max_tokens(model.context_length);
        }
        let s = self.sampling;
        let capabilities: Vec<String> = self.capabilities.into_iter().collect();
        let card = ExpertCard {
            version: ExpertCard::version_with(&capabilities),
            name: self.name,
            kind: self.kind,
            model,
            system: self.system,
            sampling: Sampling {
                max_tokens: s.max_tokens.unwrap_or(d.max_tokens),
                temperature: s.temperature.unwrap_or(d.temperature),
                top_p: s.top_p.unwrap_or(d.top_p),
                top_k: s.top_k.unwrap_or(d.top_k),
                repeat_penalty: s.repeat_penalty.unwrap_or(d.repeat_penalty),
                stop: s.stop,
            },
            description: self.description,
            examples: self.examples,
            languages: self.languages,
            labels,
            capabilities,
        };
        card.check()
            .map_err(|e| Failure::new(ErrorKind::Config, format!("expert '{}': {e}", card.name)))?;
        Ok(card)
    }
}

/// Every built-in definition.
pub fn built_in() -> Vec<Definition> {
    BUILT_IN
        .iter()
        .filter_map(|text| Definition::parse(text, "built-in expert").ok())
        .collect()
}

/// What a person named, before its files are looked for.
#[derive(Debug, Clone)]
pub enum Named {
    /// A definition over a known model.
    Expert(Definition, &'static KnownModel),
    /// A definition that needs no files.
    Fileless(Definition),
    /// A definition over a file, or a folder of files, of the person's own.
    OwnFile(Definition, std::path::PathBuf),
    /// A definition over a model on a server.
    Outside(Definition, UpstreamDefinition),
}

/// Understands `name`: a built-in expert, a known model, a `.toml` definition or a `.gguf` file.
pub fn find(name: &str) -> Result<Named, Failure> {
    let path = Path::new(name);
    match path.extension().and_then(|e| e.to_str()) {
        Some("toml") => {
            let too_big = fs::metadata(path).is_ok_and(|m| m.len() > LARGEST_DEFINITION);
            if too_big {
                return Err(Failure::new(
                    ErrorKind::Config,
                    format!("{name} is not an expert definition: it is larger than 256 KiB"),
                ));
            }
            let text = fs::read_to_string(path).map_err(|e| {
                Failure::new(
                    ErrorKind::Config,
                    format!("cannot read the expert definition {name}: {e}"),
                )
            })?;
            let definition = Definition::parse(&text, name)?;
            let folder = path.parent().unwrap_or(Path::new("."));
            return over(definition, folder);
        }
        Some("gguf") => {
            if !path.is_file() {
                return Err(Failure::new(
                    ErrorKind::NotFound,
                    format!("there is no file {name}"),
                ));
            }
            let stem: String = path
                .file_stem()
                .map(|s| s.to_string_lossy().to_lowercase())
                .unwrap_or_default()
                .chars()
                .map(|c| {
                    if c.is_ascii_alphanumeric() || "._-".contains(c) {
                        c
                    } else {
                        '-'
                    }
                })
                .take(64)
                .collect();
            return Ok(Named::OwnFile(
                plain(&stem, ExpertKind::Generate),
                path.to_owned(),
            ));
        }
        _ => {}
    }
    if let Some(definition) = built_in().into_iter().find(|d| d.name == name) {
        return over(definition, Path::new("."));
    }
    if let Some(known) = known_model(name) {
        let kind = match known.model.runtime {
            Runtime::BertSentence => ExpertKind::Embed,
            _ => ExpertKind::Generate,
        };
        return Ok(Named::Expert(plain(known.name(), kind), known));
    }
    let names: Vec<String> = built_in().into_iter().map(|d| d.name).collect();
    let models: Vec<&str> = known_models().iter().map(KnownModel::name).collect();
    Err(Failure::new(
        ErrorKind::NotFound,
        format!(
            "no expert or model is called '{name}': use one of {} or {}, a definition FILE.toml, or a model FILE.gguf",
            names.join(", "),
            models.join(", ")
        ),
    ))
}

/// What the expert is called that `name` means, if it means one.
pub(crate) fn name_of(name: &str) -> Option<String> {
    match find(name).ok()? {
        Named::Expert(d, _) | Named::Fileless(d) | Named::OwnFile(d, _) | Named::Outside(d, _) => {
            Some(d.name)
        }
    }
}

fn plain(name: &str, kind: ExpertKind) -> Definition {
    Definition {
        version: 1,
        name: name.to_owned(),
        kind,
        model: name.to_owned(),
        system: None,
        description: String::new(),
        examples: Vec::new(),
        languages: Vec::new(),
        labels: None,
        capabilities: BTreeSet::new(),
        price: None,
        paused: false,
        upstream: None,
        sampling: SamplingDefinition::default(),
    }
}

fn over(definition: Definition, folder: &Path) -> Result<Named, Failure> {
    if let Some(upstream) = definition.upstream.clone() {
        return Ok(Named::Outside(definition, upstream));
    }
    if definition.model == TRIGRAM {
        return Ok(Named::Fileless(definition));
    }
    if let Some(known) = known_model(&definition.model) {
        return Ok(Named::Expert(definition, known));
    }
    let path = folder.join(&definition.model);
    // Whether it is there is seen when the store is at hand, which may have it though it is gone here.
    if definition.model.ends_with(".gguf") || definition.model.contains('/') {
        return Ok(Named::OwnFile(definition, path));
    }
    Err(Failure::new(
        ErrorKind::NotFound,
        format!(
            "expert '{}' wants the unknown model '{}': `polymath model list` shows the known ones",
            definition.name, definition.model
        ),
    ))
}

/// An expert to be hosted.
#[derive(Debug, Clone)]
pub enum Card {
    /// Its model is pinned or installed; files may still be missing or damaged.
    Known(Arc<ExpertCard>),
    /// Its model is a file that must be read first, for its checksum is part of the card.
    Awaited(Box<OwnFile>),
    /// A server computes it.
    Outside(Arc<ExpertCard>, Upstream),
    /// One of these, and what its definition says beside the card.
    Defined(Box<Card>, Manner),
}

/// How an expert is served, beside what its card says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manner {
    /// Its definition lies in the home: it can be changed while the node runs.
    pub own: bool,
    /// Peers are not answered.
    pub paused: bool,
    /// Millionths of a credit for 1,000 tokens of prompt and answer, if not what the settings say.
    pub price: Option<(u64, u64)>,
}

/// An expert over a file of the person's own that was not read yet.
#[derive(Debug, Clone)]
pub struct OwnFile {
    definition: Definition,
    import: Import,
    outline: Arc<ExpertCard>,
}

impl OwnFile {
    /// The card, but for the checksums: its id is no expert's.
    pub(crate) fn outline(&self) -> &Arc<ExpertCard> {
        &self.outline
    }

    /// Puts the file into the store and makes the card.
    pub(crate) fn take_in(
        &self,
        store: &Store,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Arc<ExpertCard>, Failure> {
        let installed = store
            .import(&self.import, progress, cancel)
            .map_err(|e| Failure::new(e.kind(), e.to_string()))?;
        let card = self.definition.clone().card(installed.model)?;
        Ok(Arc::new(card))
    }
}

/// Makes the card of what was named, as far as that takes no time: what is wrong with a definition
/// or a file at first sight is an error at once, files are read later.
pub fn prepare(named: Named, store: &Store) -> Result<Card, Failure> {
    let definition = match &named {
        Named::Fileless(d) | Named::Expert(d, _) | Named::OwnFile(d, _) | Named::Outside(d, _) => d,
    };
    let manner = definition.manner()?;
    let card = plainly(named, store)?;
    Ok(match manner == Manner::default() {
        true => card,
        false => Card::Defined(Box::new(card), manner),
    })
}

fn plainly(named: Named, store: &Store) -> Result<Card, Failure> {
    let (definition, mut model) = match named {
        Named::Fileless(definition) => (definition, trigram()),
        Named::Expert(definition, known) => (definition, known.model.clone()),
        Named::OwnFile(definition, path) => return own_file(definition, &path, store),
        Named::Outside(definition, upstream) => return outside(definition, &upstream),
    };
    if definition.kind == ExpertKind::Classify && model.runtime == Runtime::BertSentence {
        model.runtime = Runtime::BertZeroShot;
    }
    Ok(Card::Known(Arc::new(definition.card(model)?)))
}

fn own_file(definition: Definition, path: &Path, store: &Store) -> Result<Card, Failure> {
    let failure = |e: polymath_blobs::PullError| Failure::new(e.kind(), e.to_string());
    if !path.exists() {
        // It was taken in before, and is not needed any more.
        if let Ok(Some(installed)) = store.get(&definition.name) {
            return Ok(Card::Known(Arc::new(definition.card(installed.model)?)));
        }
        return Err(Failure::new(
            ErrorKind::NotFound,
            format!(
                "expert '{}' wants the model {}, which is not there",
                definition.name,
                path.display()
            ),
        ));
    }
    let mut import = described(path, &definition.name)?;
    if definition.kind == ExpertKind::Classify && import.runtime == Runtime::BertSentence {
        import.runtime = Runtime::BertZeroShot;
    }
    store.check_import(&import).map_err(failure)?;
    if let Some(installed) = store.imported(&import) {
        let card = definition.card(installed.model)?;
        return Ok(Card::Known(Arc::new(card)));
    }
    let outline = definition.clone().card(Model {
        name: import.name.clone(),
        runtime: import.runtime,
        files: import.files.iter().map(unread).collect(),
        adapter: None,
        context_length: import.context_length,
        dimensions: import.dimensions,
        licence: import.licence.clone(),
    })?;
    Ok(Card::Awaited(Box::new(OwnFile {
        definition,
        import,
        outline: Arc::new(outline),
    })))
}

/// A file that was not read: told from others by its path in place of the content.
fn unread((role, path): &(FileRole, std::path::PathBuf)) -> FileRef {
    let place = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let digest = blake3::hash(place.as_os_str().as_encoded_bytes()).to_hex();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    FileRef {
        role: *role,
        name: name.into_owned(),
        size: fs::metadata(path).map_or(0, |m| m.len()),
        sha256: digest.to_string(),
        blake3: digest.to_string(),
    }
}

/// Puts a person's own GGUF file into the store under `name`. Blocks while it reads the file.
pub fn import(
    store: &Store,
    path: &Path,
    name: &str,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Installed, Failure> {
    store
        .import(&described(path, name)?, progress, cancel)
        .map_err(|e| Failure::new(e.kind(), e.to_string()))
}

/// Whether a folder holds the files of an encoder.
fn describes_encoder(folder: &Path) -> bool {
    ENCODER.iter().all(|name| folder.join(name).is_file())
}

/// What a GGUF file says of itself, or the configuration in an encoder's folder; a truncated file is
/// refused by the lengths in its header.
fn described(path: &Path, name: &str) -> Result<Import, Failure> {
    let failure = |e: polymath_engine::LoadError| Failure::new(e.kind(), e.to_string());
    if path.is_dir() {
        let file = |role, name: &str| (role, path.join(name));
        let info = polymath_engine::inspect_encoder(&path.join(ENCODER[2])).map_err(failure)?;
        return Ok(Import {
            name: name.to_owned(),
            runtime: Runtime::BertSentence,
            files: vec![
                file(FileRole::Weights, ENCODER[0]),
                file(FileRole::Tokenizer, ENCODER[1]),
                file(FileRole::Config, ENCODER[2]),
            ],
            context_length: info.context_length,
            dimensions: info.dimensions,
            licence: UNSTATED.into(),
        });
    }
    let info = polymath_engine::inspect_gguf(path).map_err(failure)?;
    if !info.has_chat_template {
        return Err(Failure::new(
            ErrorKind::FailedPrecondition,
            format!(
                "{} cannot be run: it has no chat template, so it is no chat model; supported: GGUF files of instruct models",
                path.display()
            ),
        ));
    }
    Ok(Import {
        name: name.to_owned(),
        runtime: Runtime::GgufLlama,
        files: vec![(FileRole::Weights, path.to_owned())],
        context_length: info.context_length,
        dimensions: 0,
        licence: info.licence.unwrap_or_else(|| UNSTATED.into()),
    })
}

/// The language identifier's model: code, no files.
fn trigram() -> Model {
    Model {
        name: TRIGRAM.into(),
        runtime: Runtime::Trigram,
        files: Vec::new(),
        adapter: None,
        context_length: 0,
        dimensions: 0,
        licence: "MIT".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_definition_is_valid_and_found_by_name() {
        assert_eq!(built_in().len(), BUILT_IN.len());
        for definition in built_in() {
            assert!(find(&definition.name).is_ok(), "{}", definition.name);
        }
        let language = Named::Fileless(
            built_in()
                .into_iter()
                .find(|d| d.name == "language")
                .unwrap(),
        );
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let Card::Known(card) = prepare(language, &store).unwrap() else {
            panic!("it needs no file");
        };
        assert!(matches!(&card.labels, LabelSet::Fixed(l) if l.len() > 30));
    }

    #[test]
    fn a_definition_states_what_its_expert_can_do() {
        let card = |more: &str| {
            let text = format!(
                "version = 1\nname = \"l\"\nkind = \"classify\"\nmodel = \"trigram\"\n{more}"
            );
            let named = Named::Fileless(Definition::parse(&text, "test").unwrap());
            let dir = tempfile::tempdir().unwrap();
            match prepare(named, &Store::open(dir.path()).unwrap()) {
                Ok(Card::Known(card)) => Ok(card),
                Ok(_) => panic!("it needs no file"),
                Err(failure) => Err(failure.message),
            }
        };
        let able = card("capabilities = [\"tools\", \"json\"]").unwrap();
        assert_eq!((able.version, able.capabilities.len()), (2, 2));
        assert!(able.can("tools") && !able.can("vision"));
        assert_eq!(card("").unwrap().version, 1);
        let error = card("capabilities = [\"Tools\"]").unwrap_err();
        assert!(error.contains("lower-case"), "{error}");
    }

    #[test]
    fn an_unknown_name_lists_what_there_is() {
        let err = find("no-such-thing").unwrap_err();
        assert_eq!(err.kind, ErrorKind::NotFound);
        assert!(
            err.message.contains("chef") && err.message.contains("smollm2"),
            "{err}"
        );
    }

    #[test]
    fn definitions_of_another_version_are_refused_with_both_versions() {
        let err = Definition::parse(
            "version = 4\nname = \"x\"\nkind = \"embed\"\nmodel = \"y\"",
            "x.toml",
        )
        .unwrap_err();
        assert_eq!(err.kind, ErrorKind::VersionMismatch);
        assert!(
            err.message.contains("version 4") && err.message.contains("version 2"),
            "{err}"
        );
        assert!(
            Definition::parse("name = \"x\"", "x.toml")
                .unwrap_err()
                .message
                .contains("version = 1")
        );
    }
}
