//! An operator's own experts: definitions in the home, one file each, `experts/NAME.toml`.

use std::{
    fs::{self, File},
    io::{ErrorKind as IoKind, Read},
    path::{Path, PathBuf},
};

use polymath_types::{CARD_LIMITS, ErrorKind, Failure};

use super::{Card, Definition, LARGEST_DEFINITION, Manner, over, prepare};
use crate::{
    Home,
    home::{io_failure, write_atomic},
};
use polymath_blobs::Store;

/// Most definitions in a home.
const MOST: usize = 256;

/// A definition by the name of its file; one that cannot be read is an error of its own.
type Named = (String, Result<Definition, Failure>);

/// The folder of definitions.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    dir: PathBuf,
}

impl Own {
    pub(crate) fn of(home: &Home) -> Self {
        Self {
            dir: home.dir().join("experts"),
        }
    }

    /// Every definition by the name of its file; one that cannot be read is an error of its own.
    pub(crate) fn all(&self) -> Result<Vec<Named>, Failure> {
        let fail = |e: std::io::Error| io_failure("read", &self.dir, &e);
        let files = match fs::read_dir(&self.dir) {
            Ok(files) => files,
            Err(e) if e.kind() == IoKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(fail(e)),
        };
        let mut all = Vec::new();
        for file in files {
            let path = file.map_err(fail)?.path();
            // Others are what a crash left of a write, or a person's own affair.
            let is_definition = path.extension().is_some_and(|e| e == "toml");
            let Some(name) = path.file_stem().and_then(|s| s.to_str()) else {
                continue;
            };
            if is_definition && all.len() < MOST {
                all.push((name.to_owned(), self.read(name, &path)));
            }
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    fn read(&self, name: &str, path: &Path) -> Result<Definition, Failure> {
        let mut text = String::new();
        let file = File::open(path).map_err(|e| io_failure("read", path, &e))?;
        file.take(LARGEST_DEFINITION + 1)
            .read_to_string(&mut text)
            .map_err(|e| io_failure("read", path, &e))?;
        let bad = |what: &str| {
            let path = path.display();
            Failure::new(
                ErrorKind::Config,
                format!(
                    "{path}: {what}: put it right, or take it out with `polymath expert rm {name}`"
                ),
            )
        };
        if text.len() as u64 > LARGEST_DEFINITION {
            return Err(bad("it is larger than 256 KiB"));
        }
        let definition =
            Definition::parse(&text, &path.display().to_string()).map_err(|e| bad(&e.message))?;
        if definition.name != name {
            return Err(bad("the name in it is another than that of the file"));
        }
        Ok(definition)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.toml"))
    }

    pub(crate) fn holds(&self, name: &str) -> bool {
        check_name(name).is_ok() && self.path(name).exists()
    }

    /// The definition of this name.
    pub(crate) fn get(&self, name: &str) -> Result<Definition, Failure> {
        if self.holds(name) {
            return self.read(name, &self.path(name));
        }
        let all = self.all()?;
        let near = polymath_upstream::near(name, all.iter().map(|(name, _)| name.as_str()));
        let advice = match (all.is_empty(), near.is_empty()) {
            (true, _) => "there is none yet, `polymath expert add` makes one".to_owned(),
            (_, true) => "`polymath expert ls` shows them".to_owned(),
            _ => format!("there is {}", near.join(", ")),
        };
        let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        Err(Failure::new(
            ErrorKind::NotFound,
            format!("this home has no expert of its own called '{shown}': {advice}"),
        ))
    }

    /// Writes a definition: after a crash there is the old one or the new one.
    pub(crate) fn write(&self, definition: &Definition) -> Result<(), Failure> {
        check_name(&definition.name)?;
        if !self.holds(&definition.name) && self.all()?.len() >= MOST {
            return Err(Failure::new(
                ErrorKind::ResourceExhausted,
                format!("this home has {MOST} experts of its own: take one out first"),
            ));
        }
        let text = toml::to_string(definition).map_err(|e| {
            Failure::new(
                ErrorKind::Internal,
                format!("the definition cannot be written: {e}"),
            )
        })?;
        write_atomic(&self.path(&definition.name), text.as_bytes())
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), Failure> {
        let path = self.path(name);
        let fail = |e: std::io::Error| io_failure("remove", &path, &e);
        fs::remove_file(&path).map_err(fail)?;
        File::open(&self.dir)
            .and_then(|d| d.sync_all())
            .map_err(fail)
    }

    /// The card of a definition; reads headers of files.
    pub(crate) fn card(&self, definition: Definition, store: &Store) -> Result<Card, Failure> {
        let manner = Manner {
            own: true,
            ..definition.manner()?
        };
        let card = match prepare(over(definition, &self.dir)?, store)? {
            Card::Defined(card, _) => *card,
            card => card,
        };
        Ok(Card::Defined(Box::new(card), manner))
    }
}

/// Cards of the home's own experts, to be hosted. One that is damaged is left out, and said.
pub fn own_cards(home: &Home, store: &Store) -> Result<Vec<Card>, Failure> {
    let own = Own::of(home);
    let mut cards = Vec::new();
    for (name, definition) in own.all()? {
        match definition.and_then(|d| own.card(d, store)) {
            Ok(card) => cards.push(card),
            Err(e) => tracing::error!(expert = %name, "is not hosted: {e}"),
        }
    }
    Ok(cards)
}

/// A name that a file and a card may have.
pub(crate) fn check_name(name: &str) -> Result<(), Failure> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let fits = (1..=CARD_LIMITS.name).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with(['.', '-']);
    if fits {
        return Ok(());
    }
    let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    Err(Failure::new(
        ErrorKind::InvalidInput,
        format!(
            "'{shown}' cannot be an expert's name: use 1 to {} letters, digits, '.', '_' or '-', not '.' or '-' first",
            CARD_LIMITS.name
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(name: &str) -> Definition {
        let text = format!(
            "version = 1\nname = \"{name}\"\nkind = \"generate\"\nmodel = \"m:1b\"\nprice = \"0.5/1.5\"\n[upstream]\nurl = \"http://127.0.0.1:9/v1\"\n"
        );
        Definition::parse(&text, "test").unwrap()
    }

    #[test]
    fn definitions_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let own = Own::of(&Home::at(dir.path()));
        assert!(own.all().unwrap().is_empty());
        let written = definition("far");
        own.write(&written).unwrap();
        assert_eq!(own.get("far").unwrap(), written);
        let missing = own.get("fat").unwrap_err();
        assert!(missing.kind == ErrorKind::NotFound && missing.message.contains("far"));
        let store = Store::open(&dir.path().join("models")).unwrap();
        let Card::Defined(card, manner) = own.card(written, &store).unwrap() else {
            panic!("it is defined here");
        };
        assert_eq!(manner.price, Some((500_000, 1_500_000)));
        let Card::Outside(card, _) = *card else {
            panic!("a server computes it");
        };
        assert!(!card.can_be_carried_on() && card.version == 2);
        own.remove("far").unwrap();
        assert!(!own.holds("far"));
    }

    #[test]
    fn what_a_crash_left_is_no_definition_and_what_is_damaged_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let own = Own::of(&Home::at(dir.path()));
        own.write(&definition("good")).unwrap();
        let folder = dir.path().join("experts");
        fs::write(folder.join("half.tmp"), "version = 1\nna").unwrap();
        fs::write(folder.join("bad.toml"), "version = 1\nna").unwrap();
        fs::write(
            folder.join("other.toml"),
            toml::to_string(&definition("x")).unwrap(),
        )
        .unwrap();
        let all = own.all().unwrap();
        let names: Vec<&str> = all.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["bad", "good", "other"]);
        for damaged in [&all[0], &all[2]] {
            let error = damaged.1.as_ref().unwrap_err();
            assert!(error.message.contains("polymath expert rm"), "{error}");
        }
        let store = Store::open(&dir.path().join("models")).unwrap();
        assert_eq!(own_cards(&Home::at(dir.path()), &store).unwrap().len(), 1);
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_folder() {
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a b",
            "a\nb",
            "-x",
            "ä",
            &"a".repeat(65),
        ] {
            assert_eq!(check_name(bad).unwrap_err().kind, ErrorKind::InvalidInput);
        }
        for good in ["chef", "my.model-2_b", "X"] {
            assert!(check_name(good).is_ok());
        }
    }
}
