//! Files that are missing, damaged, hostile or of another sort: one clear line, never a panic.

use std::{fs, path::Path};

use candle_core::quantized::gguf_file::Value;
use polymath_engine::{LoadError, inspect_gguf};
use polymath_types::{ErrorKind, ExpertKind, FileRole, Runtime};

use crate::{
    models::{card, engine, minilm, path},
    tiny,
};

fn load(path: &Path) -> Result<(), LoadError> {
    engine(1, 1).load(tiny::card().into(), &|_| path.to_owned())
}

/// The refusal of a tiny model with some metadata changed or, given `None`, left out.
fn with(changes: &[(&'static str, Option<Value>)]) -> LoadError {
    let mut metadata = tiny::metadata();
    for (key, value) in changes {
        metadata.retain(|(k, _)| k != key);
        metadata.extend(value.clone().map(|v| (*key, v)));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.gguf");
    tiny::write(&path, &metadata);
    load(&path).unwrap_err()
}

fn text(value: &str) -> Value {
    Value::String(value.into())
}

#[test]
fn a_file_cut_off_anywhere_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.gguf");
    tiny::write(&whole, &tiny::metadata());
    load(&whole).unwrap();
    let bytes = fs::read(&whole).unwrap();
    let cut = folder.path().join("cut.gguf");
    for step in 0..40 {
        fs::write(&cut, &bytes[..bytes.len() * step / 41]).unwrap();
        let refusal = load(&cut).unwrap_err();
        assert_eq!(refusal.kind(), ErrorKind::DataLoss, "{refusal}");
        assert!(
            refusal.to_string().contains("cut.gguf") && !refusal.to_string().contains('\n'),
            "{refusal}"
        );
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flipped.gguf");
    tiny::write(&file, &tiny::metadata());
    let bytes = fs::read(&file).unwrap();
    for at in (0..bytes.len().min(9000)).step_by(37) {
        let mut hostile = bytes.clone();
        hostile[at] ^= 0xff;
        fs::write(&file, &hostile).unwrap();
        if let Err(refusal) = load(&file) {
            assert!(refusal.to_string().contains("flipped.gguf"), "{refusal}");
        }
    }
}

#[test]
fn missing_files_and_other_formats_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let missing = load(&folder.path().join("none.gguf")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let page = folder.path().join("page.gguf");
    fs::write(&page, "<html>no such file</html>").unwrap();
    assert_eq!(load(&page).unwrap_err().kind(), ErrorKind::DataLoss);
}

#[test]
fn what_this_build_does_not_run_is_refused_by_name() {
    for (changes, name) in [
        (
            vec![("general.architecture", Some(text("mamba")))],
            "'mamba'",
        ),
        (
            vec![("tokenizer.ggml.model", Some(text("llama")))],
            "'llama'",
        ),
        (
            vec![("tokenizer.ggml.pre", Some(text("tekken")))],
            "'tekken'",
        ),
        (vec![("llama.expert_count", Some(Value::U32(8)))], "mixture"),
        (
            vec![("llama.rope.scaling.type", Some(text("yarn")))],
            "'yarn'",
        ),
        (vec![("tokenizer.chat_template", None)], "no chat template"),
        (
            vec![("tokenizer.chat_template", Some(text("{% for %}")))],
            "chat template fails",
        ),
    ] {
        let refusal = with(&changes);
        assert_eq!(refusal.kind(), ErrorKind::FailedPrecondition, "{refusal}");
        let line = refusal.to_string();
        assert!(line.contains(name) && line.contains("supported:"), "{line}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mamba.gguf");
    let mut metadata = tiny::metadata();
    metadata[0].1 = Value::String("mamba".into());
    tiny::write(&file, &metadata);
    assert_eq!(
        inspect_gguf(&file).unwrap_err().kind(),
        ErrorKind::FailedPrecondition
    );
}

#[test]
fn numbers_out_of_range_are_damage() {
    for change in [
        ("llama.block_count", Some(Value::U32(3))),
        ("llama.block_count", Some(Value::U64(u64::MAX))),
        ("llama.embedding_length", Some(Value::U32(0))),
        ("llama.attention.head_count", Some(Value::U32(0))),
        ("llama.attention.head_count_kv", Some(Value::U32(3))),
        ("llama.feed_forward_length", Some(Value::U32(128))),
        ("llama.context_length", None),
        ("llama.rope.freq_base", Some(Value::F32(f32::NAN))),
        ("general.alignment", Some(Value::U32(0))),
        ("tokenizer.ggml.tokens", Some(Value::Array(vec![]))),
        ("tokenizer.ggml.merges", Some(text("a b"))),
    ] {
        let refusal = with(std::slice::from_ref(&change));
        assert_eq!(refusal.kind(), ErrorKind::DataLoss, "{change:?}: {refusal}");
    }
}

#[test]
fn a_damaged_encoder_names_the_file_at_fault() {
    let folder = tempfile::tempdir().unwrap();
    for broken in ["model.safetensors", "config.json", "tokenizer.json"] {
        let damaged = folder.path().join(broken);
        let bytes = fs::read(path(&format!("minilm/{broken}"))).unwrap();
        fs::write(&damaged, &bytes[..bytes.len() / 2]).unwrap();
        let card = minilm("embedder", ExpertKind::Embed, Runtime::BertSentence);
        let refusal = engine(1, 1)
            .load(card.into(), &|file| {
                if file.name == broken {
                    damaged.clone()
                } else {
                    path(&format!("minilm/{}", file.name))
                }
            })
            .unwrap_err();
        assert_eq!(refusal.kind(), ErrorKind::DataLoss, "{refusal}");
        assert!(refusal.to_string().contains(broken), "{refusal}");
    }
}

#[test]
fn a_card_that_contradicts_itself_is_refused() {
    let engine = engine(1, 1);
    let wrong_kind = card(
        "odd",
        ExpertKind::Embed,
        Runtime::GgufLlama,
        &[(FileRole::Weights, "x")],
    );
    let no_files = card("bare", ExpertKind::Generate, Runtime::GgufLlama, &[]);
    let mut adapted = tiny::card();
    adapted.model.adapter = adapted.model.files.first().cloned().map(Box::new);
    for card in [wrong_kind, no_files, adapted] {
        let name = card.name.clone();
        let refusal = engine.load(card.into(), &|_| "nowhere".into()).unwrap_err();
        assert_eq!(refusal.kind(), ErrorKind::InvalidInput);
        assert!(refusal.to_string().contains(&name), "{refusal}");
    }
}
