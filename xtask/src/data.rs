//! `cargo xtask data`: the data sets of the router's evaluation, each pinned by repository, commit and digest.
//!
//! A converter writes what `polymath route eval` reads: graded answers as one JSON object a line, scores and
//! answers keyed by model, nothing else changed. The digest is of the unpacked result, so it does not matter
//! whether a file was converted here or taken from a folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process;

pub(crate) const HELP: &str = "\
Brings the data sets of the router's evaluation, each at a pinned source and checked by its SHA-256.

Usage: cargo xtask data [--from FOLDER] [--to FOLDER] [--git BASE] [FILE ...]

  --from FOLDER  take the files from this folder, which holds them converted; nothing is fetched
  --to FOLDER    put them there [default: target/data/routing]
  --git BASE     take repositories from BASE/OWNER/NAME [default: https://github.com]
  FILE           only these, by name

A file that is there already with the right digest is left. Fetching needs git, python3 and gzip. Then:
  polymath route eval --data target/data/routing
";

/// What a result is made of.
enum Converter {
    /// A file of the repository as it is.
    Copy(&'static str),
    /// A Python script, its first arguments, and the paths of the repository that it reads. It is given the
    /// repository's folder and the file to write besides.
    Script(
        &'static str,
        &'static [&'static str],
        &'static [&'static str],
    ),
}

use Converter::{Copy, Script};

struct Set {
    /// Its name; what ends in `.gz` is packed.
    file: &'static str,
    /// Of the unpacked result.
    sha256: &'static str,
    repository: &'static str,
    commit: &'static str,
    converter: Converter,
    licence: &'static str,
}

const CLINC: (&str, &str) = ("clinc/oos-eval", "828f8093932c8fe6ca7936c3d2e52903b1c523de");
const BANKING: (&str, &str) = (
    "PolyAI-LDN/task-specific-datasets",
    "57ec275d8078af65b7731c2a98be812d844a6d6b",
);
const LLMROUTER: (&str, &str) = (
    "ulab-uiuc/LLMRouter",
    "4e7a796942ce26e9d5f2b93191c7c2585c99c2e3",
);
const ROUTELLM: (&str, &str) = (
    "lm-sys/RouteLLM",
    "0b64fdafe049e596a3f5657c219329f24af24198",
);
const MMLU_PRO: (&str, &str) = (
    "TIGER-AI-Lab/MMLU-Pro",
    "f418b116db00b065c2aea046518d8fcf74d39872",
);

const fn set(
    file: &'static str,
    sha256: &'static str,
    (repository, commit): (&'static str, &'static str),
    licence: &'static str,
    converter: Converter,
) -> Set {
    Set {
        file,
        sha256,
        repository,
        commit,
        converter,
        licence,
    }
}

const SETS: [Set; 9] = [
    set(
        "llmrouter.jsonl.gz",
        "bf8d73d5d82e2f12d2c72df5b691b1f10039cf1711c84ad40a84ed1d3ad9af9a",
        LLMROUTER,
        "MIT",
        Script(
            include_str!("data/llmrouter.py"),
            &[],
            &["data/dcrouter_preprocessed", "data/example_data/query_data"],
        ),
    ),
    set(
        "llmrouter_experts.json",
        "278f790564efd758ab28a9b6ce141d3fa057219de9bad40b31562c4286549552",
        LLMROUTER,
        "MIT",
        Copy("data/example_data/llm_candidates/default_llm.json"),
    ),
    set(
        "routellm_mmlu.jsonl.gz",
        "ed4f619c92f97bd0eb00bbb89c31e493a0315a6ceda27f72539eb53b9a97b5b8",
        ROUTELLM,
        "Apache-2.0",
        Script(
            include_str!("data/routellm.py"),
            &["mmlu"],
            &["routellm/evals/mmlu"],
        ),
    ),
    set(
        "routellm_gsm8k.jsonl.gz",
        "12198e84c0b96797ff35621f70cb32e871be70b49947cb50c7898c5511f12c69",
        ROUTELLM,
        "Apache-2.0",
        Script(
            include_str!("data/routellm.py"),
            &["gsm8k"],
            &["routellm/evals/gsm8k"],
        ),
    ),
    set(
        "mmlu_pro.jsonl.gz",
        "4dc4d63fd44f1665f73ef6b9c0ade87cbe85c3f6cb59747541b87dbbfcc51050",
        MMLU_PRO,
        "Apache-2.0",
        Script(
            include_str!("data/mmlu_pro.py"),
            &[],
            &["eval_results/model_outputs_*_5shots.zip"],
        ),
    ),
    set(
        "clinc150.json.gz",
        "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
        CLINC,
        "CC BY 3.0",
        Copy("data/data_full.json"),
    ),
    set(
        "clinc150_domains.json",
        "b947b579d3b8e74b06f93b01083d8efaff2888b43a3e362533bd88a6e1211b3a",
        CLINC,
        "CC BY 3.0",
        Copy("data/domains.json"),
    ),
    set(
        "banking77_train.csv.gz",
        "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
        BANKING,
        "CC BY 4.0",
        Copy("banking_data/train.csv"),
    ),
    set(
        "banking77_test.csv.gz",
        "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
        BANKING,
        "CC BY 4.0",
        Copy("banking_data/test.csv"),
    ),
];

/// Where the sets lie unless another folder is named.
pub(crate) fn folder() -> PathBuf {
    process::target().join("data").join("routing")
}

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let (mut from, mut to, mut base) = (None, folder(), "https://github.com".to_owned());
    let mut only = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--from" => from = Some(PathBuf::from(value()?)),
            "--to" => to = PathBuf::from(value()?),
            "--git" => base.clone_from(value()?),
            name if SETS.iter().any(|s| s.file == name) => only.push(name),
            other => bail!("there is no option or file '{other}'; see `cargo xtask data --help`"),
        }
    }
    fs::create_dir_all(&to).with_context(|| format!("cannot create {}", to.display()))?;
    let mut lacking = Vec::new();
    for set in SETS
        .iter()
        .filter(|s| only.is_empty() || only.contains(&s.file))
    {
        let path = to.join(set.file);
        let brought = if path.is_file() && digest(&path)? == set.sha256 {
            Ok("is there")
        } else if let Some(from) = &from {
            take(set, from, &path).map(|()| "taken")
        } else {
            fetch(set, &base, &path).map(|()| "fetched")
        };
        match brought {
            Ok(how) => eprintln!("{}: {how} ({}, {})", set.file, set.repository, set.licence),
            Err(error) => {
                eprintln!("{}: {error:#}", set.file);
                lacking.push(set.file);
            }
        }
    }
    ensure!(lacking.is_empty(), "not brought: {}", lacking.join(", "));
    println!("{}", to.display());
    Ok(ExitCode::SUCCESS)
}

/// Copies a converted file.
fn take(set: &Set, from: &Path, to: &Path) -> Result<()> {
    let source = from.join(set.file);
    ensure!(source.is_file(), "it is not in {}", from.display());
    let part = part(to);
    fs::copy(&source, &part).with_context(|| format!("cannot copy {}", source.display()))?;
    keep(set, &part, to)
}

/// Fetches what a set is made of, and converts it.
fn fetch(set: &Set, base: &str, to: &Path) -> Result<()> {
    let repository = process::target().join("data").join(set.repository);
    let paths: &[&str] = match &set.converter {
        Copy(path) => &[path],
        Script(_, _, paths) => paths,
    };
    checkout(set, &repository, base, paths)?;
    let plain = to.with_extension("plain");
    match &set.converter {
        Copy(path) => {
            let source = repository.join(path);
            fs::copy(&source, &plain).with_context(|| format!("there is no {path}"))?;
        }
        Script(script, first, _) => {
            let mut python = process::command("python3");
            python.args(["-c", script]).args(*first);
            python.arg(&repository).arg(&plain);
            process::output(&mut python).context("the converter failed")?;
        }
    }
    let part = part(to);
    if packed(to) {
        let bytes = process::output(process::command("gzip").args(["-9nc"]).arg(&plain))?;
        fs::write(&part, bytes).with_context(|| format!("cannot write {}", part.display()))?;
        fs::remove_file(&plain).with_context(|| format!("cannot remove {}", plain.display()))?;
    } else {
        fs::rename(&plain, &part).with_context(|| format!("cannot rename {}", plain.display()))?;
    }
    keep(set, &part, to)
}

/// The pinned commit of a repository, of which only these paths are brought.
fn checkout(set: &Set, folder: &Path, base: &str, paths: &[&str]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let git = |args: &[&str]| {
        let mut git = process::command("git");
        git.arg("-C").arg(folder).args(args);
        process::run(&mut git)
    };
    let url = format!("{base}/{}", set.repository);
    if !folder.join(".git").exists() {
        git(&["init", "--quiet"])?;
        git(&["remote", "add", "origin", &url])?;
    }
    git(&["remote", "set-url", "origin", &url])?;
    let commit = set.commit;
    git(&[
        "fetch",
        "--quiet",
        "--depth=1",
        "--filter=blob:none",
        "origin",
        commit,
    ])
    .with_context(|| format!("cannot get {url} at {commit}; --from takes files you have"))?;
    let mut args = vec!["checkout", "--quiet", commit, "--"];
    args.extend(paths);
    git(&args)
}

/// Gives a file its name if it is the pinned one.
fn keep(set: &Set, part: &Path, to: &Path) -> Result<()> {
    let found = digest(part)?;
    if found != set.sha256 {
        fs::remove_file(part).with_context(|| format!("cannot remove {}", part.display()))?;
        bail!("its SHA-256 is {found} instead of {}", set.sha256);
    }
    fs::rename(part, to).with_context(|| format!("cannot rename {}", part.display()))
}

fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    // Whether it is packed still shows at its end.
    name.push(if packed(path) { ".part.gz" } else { ".part" });
    name.into()
}

fn packed(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "gz")
}

/// SHA-256 of a file's content, unpacked.
fn digest(path: &Path) -> Result<String> {
    let mut sum = process::command("sha256sum");
    if packed(path) {
        let mut unpack = process::command("gzip");
        unpack.arg("-dc").arg(path).stdout(Stdio::piped());
        let mut unpack = unpack.spawn().context("cannot start gzip")?;
        if let Some(bytes) = unpack.stdout.take() {
            sum.stdin(bytes);
        }
        let printed = process::output(&mut sum)?;
        ensure!(unpack.wait()?.success(), "{} is damaged", path.display());
        return first_word(&printed);
    }
    let file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    sum.stdin(file);
    first_word(&process::output(&mut sum)?)
}

fn first_word(printed: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(printed).context("sha256sum printed no text")?;
    let word = text.split_whitespace().next();
    Ok(word.context("sha256sum printed nothing")?.to_owned())
}
