#![allow(clippy::unwrap_used)]
use super::*;

pub(crate) fn card() -> ExpertCard {
    ExpertCard {
        version: 1,
        name: "chef".into(),
        kind: ExpertKind::Generate,
        model: Model {
            name: "tiny".into(),
            runtime: Runtime::GgufLlama,
            files: vec![FileRef {
                role: FileRole::Weights,
                name: "tiny.gguf".into(),
                size: 10,
                sha256: "0".repeat(64),
                blake3: "1".repeat(64),
            }],
            adapter: None,
            context_length: 128,
            dimensions: 0,
            licence: "Apache-2.0".into(),
        },
        system: Some("You cook.".into()),
        sampling: Sampling {
            temperature: 0.7,
            ..Sampling::default()
        },
        description: "Cooking".into(),
        examples: vec!["How long do I boil an egg?".into()],
        languages: vec!["en".into()],
        labels: LabelSet::None,
        capabilities: Vec::new(),
    }
}

#[test]
fn canonical_bytes_round_trip_and_every_part_changes_the_id() {
    let a = card();
    let back = ExpertCard::from_bytes(&a.to_bytes()).unwrap();
    assert_eq!((&back, back.id()), (&a, a.id()));
    let mut other_prompt = a.clone();
    other_prompt.system = Some("You code.".into());
    assert_ne!(other_prompt.id(), a.id());
    assert_eq!(other_prompt.model.weights_id(), a.model.weights_id());
    let mut other_weights = a.clone();
    other_weights.model.files[0].blake3 = "2".repeat(64);
    assert_ne!(other_weights.model.weights_id(), a.model.weights_id());
    let mut other_temperature = a.clone();
    other_temperature.sampling.temperature = 0.8;
    assert_ne!(other_temperature.id(), a.id());
}

#[test]
fn hostile_cards_are_refused() {
    let reject = |change: fn(&mut ExpertCard)| {
        let mut c = card();
        change(&mut c);
        assert!(ExpertCard::from_bytes(&c.to_bytes()).is_err(), "{c:?}");
    };
    reject(|c| c.name = "a b".into());
    reject(|c| c.model.files[0].name = "../etc".into());
    reject(|c| c.model.files[0].sha256 = "zz".into());
    reject(|c| c.description = "x".repeat(5000));
    reject(|c| c.examples = vec![String::new(); 100]);
    reject(|c| c.sampling.temperature = f64::NAN);
    reject(|c| c.labels = LabelSet::Open);
    reject(|c| c.version = 2);
    reject(|c| c.model.files[0].name = "a\nb".into());
    let spaced = String::from_utf8(card().to_bytes())
        .unwrap()
        .replace(':', ": ");
    assert!(
        ExpertCard::from_bytes(spaced.as_bytes()).is_err(),
        "not canonical"
    );
}

#[test]
fn a_card_states_what_it_can_do_with_names_that_are_known_and_others() {
    let stating = |names: &[&str]| {
        let mut c = card();
        c.capabilities = names.iter().map(|n| (*n).to_owned()).collect();
        c.version = ExpertCard::version_with(&c.capabilities);
        (ExpertCard::from_bytes(&c.to_bytes()), c)
    };
    let (read, able) = stating(&["json", "sings-2", "vision"]);
    assert_eq!(read, Ok(able.clone()));
    assert_eq!(able.version, 2);
    assert!(able.can("sings-2") && able.can(Capability::Json.as_str()) && !able.can("tools"));
    assert_ne!(able.id(), card().id());
    // One that states none is what it always was.
    assert_eq!(stating(&[]).1, card());
    let long = "x".repeat(33);
    let many: Vec<String> = (0..17).map(|n| format!("c{n:02}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for names in [
        &["vision", "json"][..],
        &["json", "json"],
        &["JSON"],
        &["a b"],
        &["a\u{1b}[2J"],
        &[""],
        &[long.as_str()],
        &many,
    ] {
        let (read, c) = stating(names);
        let line = read.unwrap_err().to_string();
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(c.check().is_err(), "{names:?}");
    }
    assert!(stating(&many[..16]).0.is_ok());
    // Another version than what it states asks for is no card.
    let mut old = able;
    old.version = 1;
    assert!(ExpertCard::from_bytes(&old.to_bytes()).is_err());
    let text = String::from_utf8(card().to_bytes()).unwrap();
    let empty = format!("{},\"capabilities\":[]}}", &text[..text.len() - 1]);
    assert!(
        ExpertCard::from_bytes(empty.as_bytes()).is_err(),
        "not canonical"
    );
}

#[test]
fn no_text_of_a_card_commands_a_terminal() {
    type Edit = fn(&mut ExpertCard, String);
    let fields: [(&str, Edit); 10] = [
        ("name", |c, t| c.name = t),
        ("model name", |c, t| c.model.name = t),
        ("description", |c, t| c.description = t),
        ("example", |c, t| c.examples = vec!["fine".into(), t]),
        ("language", |c, t| c.languages = vec![t]),
        ("licence", |c, t| c.model.licence = t),
        ("label", |c, t| {
            c.kind = ExpertKind::Classify;
            c.labels = LabelSet::Fixed(vec![t]);
        }),
        ("file", |c, t| c.model.files[0].name = t),
        ("system", |c, t| c.system = Some(t)),
        ("stop", |c, t| c.sampling.stop = vec![t]),
    ];
    for (what, edit) in fields {
        let with = |text: &str| {
            let mut c = card();
            edit(&mut c, text.into());
            (c.check(), ExpertCard::from_bytes(&c.to_bytes()))
        };
        assert_eq!(with("plain").0, Ok(()), "{what}");
        for text in ["\u{1b}[2J", "a\rb", "\u{9b}2J", "\0", "\u{7f}"] {
            let (checked, read) = with(text);
            let line = checked.unwrap_err().to_string();
            assert!(!line.contains(char::is_control), "{what}: {line:?}");
            assert!(read.is_err(), "{what}");
        }
        let prompt = matches!(what, "system" | "stop");
        assert_eq!(with("a\n\tb").0.is_ok(), prompt, "{what}");
    }
}

#[test]
fn an_unknown_field_is_named_without_its_control_characters() {
    let bytes = br#"{"version":1,"\u001b[2J":0}"#;
    let line = ExpertCard::from_bytes(bytes).unwrap_err().to_string();
    assert!(line.contains("[2J"), "{line:?}");
    assert!(!line.contains(char::is_control), "{line:?}");
}
