//! Which answers say the same: short ones and choices by what is left when form is taken off, others by the
//! likeness of their vectors.

/// Longest answer that counts as short, bytes.
const SHORT: usize = 64;
/// What a longer text says before its short answer.
const MARKS: [&str; 4] = ["the answer is", "answer is", "final answer:", "answer:"];
/// The last letter that names a choice: MMLU-Pro has ten.
const LAST_CHOICE: char = 'j';

/// One answer, as it is compared.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Said {
    /// Its short form, where it has one.
    pub short: Option<String>,
    /// Its vector, of length 1, in one space with the others'; empty where there is none.
    pub vector: Vec<f32>,
    /// It says that it has no answer: no vote.
    pub declined: bool,
}

/// What an answer says where that is short: a letter of a choice, a number, yes or no, or a few words; equal
/// ones are equal texts. Nothing where it is long and does not name its answer.
pub fn short_answer(text: &str) -> Option<String> {
    let plain: String = text
        .chars()
        .filter(|c| !matches!(c, '*' | '`' | '#' | '"' | '\u{201c}' | '\u{201d}' | '$'))
        .collect();
    let lower = plain.trim().to_lowercase();
    let marked = MARKS
        .iter()
        .filter_map(|m| lower.rfind(m).map(|at| (at, &lower[at + m.len()..])))
        .max_by_key(|(at, _)| *at);
    let named = match marked {
        Some((_, rest)) => rest.trim_start_matches([':', ' ']).lines().next()?,
        None => &lower,
    };
    let named = named.trim();
    if let Some(letter) = choice(named) {
        return Some(format!("({letter})"));
    }
    if named.is_empty() || named.len() > SHORT || named.contains('\n') {
        return None;
    }
    let bare = named.trim_matches(|c: char| !c.is_alphanumeric() && c != '-' && c != '%');
    if let Some(number) = number(bare) {
        return Some(number);
    }
    let words: Vec<&str> = bare
        .split(|c: char| c.is_whitespace() || c.is_ascii_punctuation())
        .filter(|w| !w.is_empty() && !matches!(*w, "the" | "a" | "an"))
        .collect();
    match *words.first()? {
        said @ ("yes" | "no") => Some(said.to_owned()),
        _ => Some(words.join(" ")),
    }
}

/// `b`, `(b)`, `b.`, `b) paris`: the letter. A word that begins with it is none.
fn choice(text: &str) -> Option<char> {
    let inner = text.strip_prefix('(').unwrap_or(text);
    let mut chars = inner.chars();
    let letter = chars.next().filter(|c| ('a'..=LAST_CHOICE).contains(c))?;
    match chars.next() {
        None | Some(')' | '.' | ':') => Some(letter),
        _ => None,
    }
}

/// A number in one form: `1,000.0` and `1000` are the same. A comma that does not set thousands apart may stand
/// for a point or between two numbers: then it is no number.
fn number(text: &str) -> Option<String> {
    let whole = text.split_once('.').map_or(text, |(whole, _)| whole);
    let mut parts = whole.split(',');
    let first = parts.next()?.trim_start_matches(['-', '+']);
    let mut thousands = parts.peekable();
    if thousands.peek().is_some() && !(1..=3).contains(&first.len())
        || thousands.any(|t| t.len() != 3 || !t.bytes().all(|b| b.is_ascii_digit()))
        || text.len() > whole.len() && text[whole.len()..].contains(',')
    {
        return None;
    }
    let value: f64 = text.replace(',', "").parse().ok()?;
    value.is_finite().then(|| value.to_string())
}

/// The cosine of vectors of length 1; 0 where they cannot be compared.
fn likeness(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return 0.0;
    }
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Puts answers that say the same into one group: its number for each, nothing for who declined. Two short ones
/// say the same where their texts are equal, others where their vectors are at least `least` alike. A group is
/// what its first one says, so that a chain of likenesses does not lead from one answer to its contrary.
pub fn groups(said: &[Said], least: f32) -> Vec<Option<usize>> {
    let mut firsts: Vec<&Said> = Vec::new();
    said.iter()
        .map(|one| {
            if one.declined {
                return None;
            }
            let same = |first: &&Said| match (&first.short, &one.short) {
                (Some(a), Some(b)) => a == b,
                _ => likeness(&first.vector, &one.vector) >= least,
            };
            let known = firsts.iter().position(same);
            Some(known.unwrap_or_else(|| {
                firsts.push(one);
                firsts.len() - 1
            }))
        })
        .collect()
}

/// Of some answers the one most like the others: of several that say the same it stands for them (the best of
/// n by similarity). The first of equals; nothing where there is none.
pub fn medoid(said: &[Said], members: &[usize]) -> Option<usize> {
    let total = |at: usize| -> f32 {
        let others = members.iter().filter(|o| **o != at);
        others
            .map(|o| likeness(&said[at].vector, &said[*o].vector))
            .sum()
    };
    let mut best: Option<(usize, f32)> = None;
    for at in members {
        let likeness = total(*at);
        if best.is_none_or(|(_, known)| likeness > known + 1e-6) {
            best = Some((*at, likeness));
        }
    }
    best.map(|b| b.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_of_one_short_answer_are_one() {
        let same = [
            &[
                "B",
                "(b)",
                "b.",
                "B) Paris",
                "The answer is (B).",
                "Let me think.\nAnswer: B",
                "**B**",
            ][..],
            &["1,000", "1000.0", "The answer is 1000.", "$1000"],
            &["Yes.", "yes", "Yes, it is."],
            &["Paris", "paris.", "The answer is: Paris"],
            &["the Rhine", "Rhine"],
        ];
        for forms in same {
            let first = short_answer(forms[0]);
            assert!(first.is_some());
            for form in forms {
                assert_eq!(short_answer(form), first, "{form}");
            }
        }
        assert_ne!(short_answer("42"), short_answer("-42"));
        assert_ne!(short_answer("A cat"), short_answer("A"));
        for (a, b) in [
            ("1,5", "15"),
            ("10,20", "1020"),
            ("1,5", "1.5"),
            ("1234,567", "1234567"),
        ] {
            assert!(short_answer(a).is_some());
            assert_ne!(short_answer(a), short_answer(b), "{a}");
        }
        assert_eq!(short_answer("-1,234,567.50"), short_answer("-1234567.5"));
        let long =
            "Eggs are boiled for seven minutes in water that bubbles, and then cooled at once.";
        assert_eq!(short_answer(long), None);
        assert_eq!(short_answer(" \n"), None);
    }

    fn vector(text: &str, x: f32, y: f32) -> Said {
        Said {
            short: short_answer(text),
            vector: vec![x, y],
            declined: false,
        }
    }

    #[test]
    fn long_answers_agree_by_likeness_and_one_stands_for_them() {
        let long =
            "an answer of many words that is certainly not a short one, whatever one thinks of it";
        let said = [
            vector(long, 1.0, 0.0),
            vector(long, 0.0, 1.0),
            vector(long, 0.96, 0.28),
            Said {
                declined: true,
                ..vector(long, 1.0, 0.0)
            },
        ];
        assert_eq!(groups(&said, 0.9), [Some(0), Some(1), Some(0), None]);
        assert_eq!(medoid(&said, &[0, 2]), Some(0));
        assert_eq!(medoid(&said, &[]), None);
        // Vectors of two spaces are alike in nothing.
        assert_eq!(likeness(&[1.0], &[1.0, 0.0]), 0.0);
    }

    proptest! {
        #[test]
        fn any_text_has_one_short_form_at_most_and_it_is_short(text in ".{0,200}") {
            if let Some(short) = short_answer(&text) {
                prop_assert!(!short.is_empty() || text.chars().any(|c| !c.is_alphanumeric()));
                prop_assert!(short.len() <= 400);
            }
        }

        #[test]
        fn groups_are_numbered_as_they_appear(keys in prop::collection::vec(prop::option::of(0u8..4), 0..9)) {
            let said: Vec<Said> = keys
                .iter()
                .map(|k| Said { short: Some(format!("{k:?}")), vector: vec![], declined: k.is_none() })
                .collect();
            let mut seen = 0;
            for (group, key) in groups(&said, 0.5).into_iter().zip(&keys) {
                prop_assert_eq!(group.is_none(), key.is_none());
                if let Some(group) = group {
                    prop_assert!(group <= seen);
                    seen = seen.max(group + 1);
                }
            }
        }
    }
}
