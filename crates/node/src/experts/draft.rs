//! What an operator says of an expert, made a definition.

use std::{
    fs,
    path::{Path, PathBuf},
};

use polymath_proto::v1::ExpertDraft;
use polymath_types::{ErrorKind, ExpertKind, Failure};

use super::{
    Definition, Labels, UpstreamDefinition, describes_encoder, outside::plain_name,
    own::check_name, plain,
};

/// Most entries of a folder that are looked at for a model.
const ENTRIES: usize = 10_000;

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(ErrorKind::InvalidInput, message)
}

impl Definition {
    /// A new definition. Asks the server, where one is named; reads no file.
    pub(crate) async fn of_draft(draft: &ExpertDraft) -> Result<Self, Failure> {
        let mut definition = match (draft.path.is_empty(), draft.url.is_empty()) {
            (false, true) => on_disk(draft)?,
            (true, false) => on_server(draft).await?,
            _ => {
                return Err(invalid(
                    "name what computes the expert: FILE.gguf, FOLDER, or --upstream URL --model M",
                ));
            }
        };
        definition.change(draft)?;
        Ok(definition)
    }

    /// Takes over what a draft says of all but the model.
    pub(crate) fn change(&mut self, draft: &ExpertDraft) -> Result<(), Failure> {
        if let Some(description) = &draft.description {
            self.description.clone_from(description);
        }
        if let Some(system) = &draft.system {
            self.system = Some(system.clone()).filter(|s| !s.is_empty());
        }
        if !draft.examples.is_empty() {
            self.examples.clone_from(&draft.examples);
        }
        if !draft.labels.is_empty() {
            if self.kind != ExpertKind::Classify {
                return Err(invalid(
                    "--label names what a classifier tells apart: it goes with --kind classify",
                ));
            }
            self.labels = Some(Labels::Fixed(draft.labels.clone()));
        }
        if let Some(price) = &draft.price {
            crate::terms::price_each_way(price)?;
            self.price = Some(price.trim().to_owned());
        }
        if let Some(most) = draft.max_tokens {
            self.sampling.max_tokens = Some(most);
        }
        if let Some(temperature) = draft.temperature {
            self.sampling.temperature = Some(temperature);
        }
        if let Some(upstream) = &mut self.upstream {
            if !draft.api_key_file.is_empty() {
                upstream.api_key_file = Some(PathBuf::from(&draft.api_key_file));
                upstream.api_key_env = None;
            }
            if !draft.api_key_env.is_empty() {
                upstream.api_key_env = Some(draft.api_key_env.clone());
                upstream.api_key_file = None;
            }
            if let Some(n) = draft.concurrency {
                upstream.concurrency = Some(n as usize);
            }
        } else if !draft.api_key_file.is_empty()
            || !draft.api_key_env.is_empty()
            || draft.concurrency.is_some()
        {
            return Err(invalid(
                "--api-key-file, --api-key-env and --concurrency go with --upstream",
            ));
        }
        Ok(())
    }

    /// In the place of one that cannot be read.
    pub(crate) fn nameless(name: &str) -> Self {
        plain(name, ExpertKind::Generate)
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(crate) fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    pub(crate) fn price(&self) -> Option<&str> {
        self.price.as_deref()
    }
}

fn kind(draft: &ExpertDraft, usual: ExpertKind) -> Result<ExpertKind, Failure> {
    match &draft.kind {
        None => Ok(usual),
        Some(kind) => kind.parse().map_err(|_| {
            let shown: String = kind.chars().filter(|c| !c.is_control()).take(32).collect();
            invalid(format!(
                "'{shown}' is no kind of expert: use generate, embed or classify"
            ))
        }),
    }
}

/// The name that was given, or one made of what the model is called.
fn name(draft: &ExpertDraft, model: &str) -> Result<String, Failure> {
    let name = match draft.name.as_str() {
        "" => plain_name(model).trim_matches('-').to_lowercase(),
        given => given.to_owned(),
    };
    check_name(&name)?;
    Ok(name)
}

fn on_disk(draft: &ExpertDraft) -> Result<Definition, Failure> {
    let path = Path::new(&draft.path);
    if !path.is_absolute() {
        return Err(invalid(format!("{} is no absolute path", path.display())));
    }
    if !draft.model.is_empty() {
        return Err(invalid("--model goes with --upstream"));
    }
    let found = match fs::metadata(path) {
        Ok(m) if m.is_dir() => in_folder(path)?,
        Ok(_)
            if path
                .extension()
                .is_some_and(|e| e.eq_ignore_ascii_case("gguf")) =>
        {
            path.to_owned()
        }
        Ok(_) => {
            return Err(invalid(format!(
                "{} is no model: give a FILE.gguf, or a folder that holds one",
                path.display()
            )));
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let path = path.display();
            let missing = format!("there is no file or folder {path}");
            return Err(Failure::new(ErrorKind::NotFound, missing));
        }
        Err(e) => return Err(crate::home::io_failure("read", path, &e)),
    };
    let encoder = found.is_dir();
    let usual = if encoder {
        ExpertKind::Embed
    } else {
        ExpertKind::Generate
    };
    let kind = kind(draft, usual)?;
    if encoder == (kind == ExpertKind::Generate) {
        return Err(invalid(format!(
            "{} cannot {kind}: a GGUF file generates, an encoder's folder embeds or classifies",
            found.display()
        )));
    }
    let stem = found.file_stem().unwrap_or_default().to_string_lossy();
    let name = name(draft, &stem)?;
    let model = found.to_str().ok_or_else(|| {
        invalid(format!(
            "{} is no UTF-8 path: rename it, so that a definition can name it",
            found.display()
        ))
    })?;
    let mut definition = plain(&name, kind);
    definition.model = model.to_owned();
    if kind == ExpertKind::Classify {
        definition.labels = Some(Labels::Open(super::OpenLabels::Open));
    }
    Ok(definition)
}

/// The model in a folder: the only GGUF file, or the files of an encoder.
fn in_folder(folder: &Path) -> Result<PathBuf, Failure> {
    let fail = |e: std::io::Error| crate::home::io_failure("read", folder, &e);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)?.take(ENTRIES) {
        let path = entry.map_err(fail)?.path();
        if path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
        {
            found.push(path);
        }
    }
    found.sort();
    let shown = folder.display();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] if describes_encoder(folder) => Ok(folder.to_owned()),
        [] => Err(Failure::new(
            ErrorKind::NotFound,
            format!(
                "{shown} holds no model: neither a .gguf file nor an encoder's model.safetensors, config.json and tokenizer.json"
            ),
        )),
        many => {
            let names = many.iter().take(5).filter_map(|p| p.file_name());
            let names: Vec<_> = names.map(|n| n.to_string_lossy()).collect();
            Err(invalid(format!(
                "{shown} holds {} models, name one of them: {}",
                many.len(),
                names.join(", ")
            )))
        }
    }
}

async fn on_server(draft: &ExpertDraft) -> Result<Definition, Failure> {
    let mut upstream = UpstreamDefinition {
        url: draft.url.clone(),
        api_key_file: None,
        api_key_env: None,
        concurrency: None,
        context: None,
    };
    if !draft.api_key_file.is_empty() {
        upstream.api_key_file = Some(PathBuf::from(&draft.api_key_file));
    }
    if !draft.api_key_env.is_empty() {
        upstream.api_key_env = Some(draft.api_key_env.clone());
    }
    let asked = upstream.open(&draft.model)?;
    asked.config().key.check().await?;
    let named = |e: Failure| Failure {
        message: format!("{} ({})", e.message, asked.config().address),
        ..e
    };
    let found = if draft.model.is_empty() {
        let models = asked.models().await.map_err(named)?;
        match models.as_slice() {
            [only] => only.clone(),
            many => {
                let names: Vec<_> = many.iter().take(10).map(|m| m.id.as_str()).collect();
                return Err(invalid(format!(
                    "the server has {} models, name one with --model: {}",
                    many.len(),
                    names.join(", ")
                )));
            }
        }
    } else {
        asked.find().await.map_err(named)?
    };
    // One spelling of the address, so that the same server is the same in every definition.
    upstream.url = asked.config().address.to_string();
    upstream.context = Some(found.context).filter(|n| *n > 0);
    let name = name(draft, &found.id)?;
    let mut definition = plain(&name, kind(draft, ExpertKind::Generate)?);
    definition.model = found.id;
    definition.upstream = Some(upstream);
    Ok(definition)
}
