//! Labelled utterances: CLINC150's JSON and Banking77's CSV.

use std::{collections::BTreeMap, io::Read, path::Path};

use super::{DataError, open};

/// A text and its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Utterance {
    /// What was said.
    pub text: String,
    /// What was meant.
    pub label: String,
}

/// Splits by name.
pub type Utterances = BTreeMap<String, Vec<Utterance>>;

/// Reads `{split: [[text, label], …]}`.
pub(crate) fn clinc(path: &Path) -> Result<Utterances, DataError> {
    let splits: BTreeMap<String, Vec<(String, String)>> = json(path)?;
    let utterance = |(text, label)| Utterance { text, label };
    Ok(splits
        .into_iter()
        .map(|(name, rows)| (name, rows.into_iter().map(utterance).collect()))
        .collect())
}

/// Reads `{domain: [intent, …]}`.
pub(crate) fn domains(path: &Path) -> Result<BTreeMap<String, Vec<String>>, DataError> {
    json(path)
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, DataError> {
    serde_json::from_reader(std::io::BufReader::new(open(path)?)).map_err(|e| DataError::Form {
        path: path.into(),
        line: e.line(),
        why: e.to_string(),
    })
}

/// Reads `text,category` with a heading; texts with commas or line ends stand in quotes, in which `""` is
/// one quote (RFC 4180).
pub(crate) fn csv(path: &Path) -> Result<Vec<Utterance>, DataError> {
    let mut text = String::new();
    let read = open(path)?.read_to_string(&mut text);
    read.map_err(|source| DataError::Read {
        path: path.into(),
        source,
    })?;
    let mut rows = records(&text).into_iter();
    rows.next();
    rows.enumerate()
        .map(|(i, fields)| match <[String; 2]>::try_from(fields) {
            Ok([text, label]) => Ok(Utterance {
                text: text.trim().to_owned(),
                label,
            }),
            Err(fields) => Err(DataError::Form {
                path: path.into(),
                line: i + 2,
                why: format!("{} fields instead of 2", fields.len()),
            }),
        })
        .collect()
}

fn records(text: &str) -> Vec<Vec<String>> {
    let mut records = Vec::new();
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            '\n' if !quoted => {
                fields.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut fields));
            }
            '\r' if !quoted => {}
            c => field.push(c),
        }
    }
    if !field.is_empty() || !fields.is_empty() {
        fields.push(field);
        records.push(fields);
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_fields_keep_commas_quotes_and_line_ends() {
        let rows = records("text,category\r\n\"a, \"\"b\"\"\nc\",x\nplain,y");
        assert_eq!(rows[1], ["a, \"b\"\nc", "x"]);
        assert_eq!(rows[2], ["plain", "y"]);
        assert_eq!(rows.len(), 3);
    }
}
