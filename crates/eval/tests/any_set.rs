//! Any file of graded answers is routed, and what is not of the form is refused by name and line.
#![allow(clippy::unwrap_used)]

use std::{fmt::Write as _, fs};

use polymath_eval::{DataError, Options, evaluate, load};

/// Two subjects, two experts, each right in one of them.
fn lines(split: bool) -> String {
    let mut text = String::new();
    for n in 0..200 {
        let chess = n % 2 == 0;
        let query = if chess {
            format!("Which move wins for white in chess game {n}, the rook or the bishop?")
        } else {
            format!("boil pasta with tomato sauce number {n}")
        };
        let split = match (split, n < 150) {
            (false, _) => "",
            (true, true) => r#""split":"train","#,
            (true, false) => r#""split":"test","#,
        };
        let (a, b) = (u8::from(chess), u8::from(!chess));
        writeln!(
            text,
            r#"{{"query":"{query}","task":"{chess}",{split}"scores":{{"a":{a},"b":{b}}}}}"#
        )
        .unwrap();
    }
    text
}

#[test]
fn a_set_with_a_split_and_one_without_are_routed_beside_their_baselines() {
    for split in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine.jsonl"), lines(split)).unwrap();
        let report = evaluate(folder.path(), &Options::default(), &mut |_| ())
            .unwrap()
            .json();
        let value = |case: &str| {
            let rows = report["rows"].as_array().unwrap();
            let row = rows
                .iter()
                .find(|r| r["case"] == format!("mine.jsonl: {case}"));
            row.unwrap()["value"].as_f64().unwrap()
        };
        assert!((value("random") - 50.0).abs() < 1e-9);
        assert!((value("oracle") - 100.0).abs() < 1e-9);
        assert!(value("routed") > 95.0, "{}", value("routed"));
        assert!((value("category table") - 100.0).abs() < 1e-9);
    }
}

#[test]
fn answers_with_the_truth_are_graded_and_a_missing_one_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("letters.jsonl");
    let line = r#"{"query":"q","answers":{"a":"C","b":null,"c":"B"},"truth":"C"}"#;
    fs::write(&path, format!("{line}\n\n{line}\n")).unwrap();
    let table = load(&path, None).unwrap();
    assert_eq!(table.experts, ["a", "b", "c"]);
    assert_eq!(table.rows.len(), 2);
    assert_eq!(table.rows[0].scores, [1.0, 0.0, 0.0]);
    let some = load(&path, Some(&["c", "a"])).unwrap();
    assert_eq!(some.rows[1].scores, [1.0, 0.0], "experts are sorted");
}

#[test]
fn what_is_not_of_the_form_is_refused_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.jsonl");
    let good = r#"{"query":"q","scores":{"a":1}}"#;
    for bad in [
        r#"{"query":"q","scores":{"a":2}}"#,
        "{",
        r#"{"scores":{"a":1}}"#,
        r#"{"query":"q"}"#,
        r#"{"query":"q","answers":{"a":"B"}}"#,
        r#"{"query":"q","split":"dev","scores":{"a":1}}"#,
    ] {
        fs::write(&path, format!("{good}\n\n{bad}\n")).unwrap();
        let error = load(&path, None).unwrap_err();
        assert!(matches!(error, DataError::Form { line: 3, .. }), "{error}");
    }
    assert!(matches!(
        load(&folder.path().join("none"), None),
        Err(DataError::Read { .. })
    ));
}
