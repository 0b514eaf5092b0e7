//! Relative links in the project's Markdown lead to files of the project.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::process;

pub(super) fn check() -> Result<()> {
    let root = process::root();
    let mut documents = Vec::new();
    markdown(&root, &mut documents)?;
    let mut faults = Vec::new();
    let mut count = 0;
    for document in &documents {
        let text = fs::read_to_string(document)
            .with_context(|| format!("cannot read {}", document.display()))?;
        let shown = document.strip_prefix(&root).unwrap_or(document);
        for (line, link) in links(&text) {
            count += 1;
            let found = resolve(shown, &link).is_some_and(|path| root.join(path).exists());
            if !found {
                faults.push(format!("{}:{line}: {link}", shown.display()));
            }
        }
    }
    if !faults.is_empty() {
        bail!(
            "{} broken link(s):\n  {}",
            faults.len(),
            faults.join("\n  ")
        );
    }
    eprintln!("{count} links in {} documents", documents.len());
    Ok(())
}

fn markdown(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let failed = || format!("cannot list {}", folder.display());
    for entry in fs::read_dir(folder).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let (name, path) = (entry.file_name(), entry.path());
        let hidden = name.to_string_lossy().starts_with('.');
        let kind = entry.file_type().with_context(failed)?;
        if kind.is_dir() && !hidden && name != "target" && name != "node_modules" {
            markdown(&path, into)?;
        } else if kind.is_file() && path.extension().is_some_and(|e| e == "md") {
            into.push(path);
        }
    }
    Ok(())
}

/// Relative links, with their line; code is skipped.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (i, line) in text.lines().enumerate() {
        let start = line.trim_start();
        if start.starts_with("```") || start.starts_with("~~~") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Every second piece between backticks is code.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
        let inline = prose
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', ' ']).next());
        let reference = prose
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]: "))
            .and_then(|(_, link)| link.split_whitespace().next());
        for link in inline.chain(reference) {
            let link = link.trim_start_matches('<').trim_end_matches('>');
            let path = link.split(['#', '?']).next().unwrap_or_default();
            let elsewhere = link.contains("://") || link.starts_with("mailto:");
            if !path.is_empty() && !elsewhere {
                found.push((i + 1, path.to_owned()));
            }
        }
    }
    found
}

/// The link of a document as a path from the root; none when it leads out of the project.
fn resolve(document: &Path, link: &str) -> Option<PathBuf> {
    let from_root = link.starts_with('/');
    let mut path = if from_root {
        PathBuf::new()
    } else {
        document.parent()?.to_path_buf()
    };
    for part in Path::new(link.trim_start_matches('/')).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir if !path.pop() => return None,
            _ => {}
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_links_are_found_and_code_is_not() {
        let text = "[a](b.md#part) `[c](d.md)` [e](https://f) [g](#h)\n```\n[i](j.md)\n```\n\
                    [`k`](l/m.rs \"title\")\n[n]: o.md\n";
        let found: Vec<String> = links(text).into_iter().map(|(_, link)| link).collect();
        assert_eq!(found, ["b.md", "l/m.rs", "o.md"]);
    }

    #[test]
    fn a_link_may_not_leave_the_project() {
        let in_deploy = Path::new("deploy/README.md");
        assert_eq!(resolve(in_deploy, "../README.md"), Some("README.md".into()));
        assert_eq!(resolve(in_deploy, "/proto"), Some("proto".into()));
        assert_eq!(resolve(in_deploy, "../../elsewhere.md"), None);
    }
}
