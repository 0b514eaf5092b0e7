//! A few numbers about a text that no word tells: how long, how many figures, code or prose.
//!
//! Each is shifted and scaled by fixed constants to about -2 to 2 for common questions, so that one
//! penalty fits all. Counts enter by their logarithm.

/// How many there are.
pub const CUES: usize = 16;

/// What each of them is.
pub const CUE_NAMES: [&str; CUES] = [
    "characters",
    "words",
    "word length",
    "sentences",
    "lines",
    "numbers",
    "largest number",
    "digits",
    "capitals",
    "punctuation",
    "code",
    "formula",
    "question",
    "options",
    "non-ASCII",
    "rare words",
];

/// Centre and spread of each.
const SCALES: [(f32, f32); CUES] = [
    (5.0, 1.2),
    (3.5, 1.2),
    (4.8, 1.2),
    (1.1, 0.6),
    (0.8, 1.0),
    (0.9, 1.0),
    (2.0, 2.5),
    (0.03, 0.05),
    (0.04, 0.05),
    (0.05, 0.04),
    (0.3, 0.8),
    (0.3, 0.8),
    (0.6, 0.5),
    (0.5, 1.0),
    (0.01, 0.05),
    (0.25, 0.15),
];

/// See [`CUE_NAMES`]; of equal texts equal on every machine.
pub(crate) fn cues(text: &str) -> [f32; CUES] {
    let mut seen = Seen::default();
    let mut number: Option<f64> = None;
    let mut word = 0u32;
    for c in text.chars() {
        seen.characters += 1.0;
        if c.is_ascii_digit() {
            seen.digits += 1.0;
            let digit = f64::from(c as u8 - b'0');
            number = Some((number.unwrap_or(0.0) * 10.0 + digit).min(1e12));
        } else if c != ',' || number.is_none() {
            seen.end_number(&mut number);
        }
        if c.is_alphanumeric() {
            word += 1;
            seen.capitals += f32::from(u8::from(c.is_uppercase()));
        } else {
            seen.end_word(&mut word);
        }
        match c {
            '.' | '!' | '?' | '。' | '？' => {
                seen.sentences += 1.0;
                seen.questions += f32::from(u8::from(matches!(c, '?' | '？')));
            }
            '\n' => seen.lines += 1.0,
            '{' | '}' | ';' | '[' | ']' | '_' | '<' | '>' | '`' | '#' => seen.code += 1.0,
            '=' | '+' | '*' | '/' | '^' | '\\' | '$' | '%' => seen.formula += 1.0,
            _ => {}
        }
        seen.punctuation += f32::from(u8::from(c.is_ascii_punctuation()));
        seen.foreign += f32::from(u8::from(!c.is_ascii()));
    }
    seen.end_number(&mut number);
    seen.end_word(&mut word);
    let share = |n: f32| n / seen.characters.max(1.0);
    let options = text
        .lines()
        .filter(|l| {
            let l = l.trim_start().trim_start_matches('(').as_bytes();
            l.len() > 2 && l[0].is_ascii_alphanumeric() && matches!(l[1], b'.' | b')' | b':')
        })
        .count();
    let raw = [
        seen.characters.ln_1p(),
        seen.words.ln_1p(),
        seen.letters / seen.words.max(1.0),
        seen.sentences.ln_1p(),
        seen.lines.ln_1p(),
        seen.numbers.ln_1p(),
        (seen.largest as f32).ln_1p(),
        share(seen.digits),
        share(seen.capitals),
        share(seen.punctuation),
        seen.code.ln_1p(),
        seen.formula.ln_1p(),
        seen.questions.ln_1p(),
        (options as f32).ln_1p(),
        share(seen.foreign),
        seen.long / seen.words.max(1.0),
    ];
    let mut scaled = [0f32; CUES];
    for ((out, raw), (centre, spread)) in scaled.iter_mut().zip(raw).zip(SCALES) {
        *out = ((raw - centre) / spread).clamp(-3.0, 3.0);
    }
    scaled
}

#[derive(Default)]
struct Seen {
    characters: f32,
    words: f32,
    letters: f32,
    long: f32,
    sentences: f32,
    lines: f32,
    numbers: f32,
    largest: f64,
    digits: f32,
    capitals: f32,
    punctuation: f32,
    code: f32,
    formula: f32,
    questions: f32,
    foreign: f32,
}

impl Seen {
    fn end_number(&mut self, number: &mut Option<f64>) {
        if let Some(n) = number.take() {
            self.numbers += 1.0;
            self.largest = self.largest.max(n);
        }
    }

    fn end_word(&mut self, word: &mut u32) {
        if *word > 0 {
            self.words += 1.0;
            self.letters += *word as f32;
            self.long += f32::from(u8::from(*word >= 8));
        }
        *word = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cue(text: &str, name: &str) -> f32 {
        cues(text)[CUE_NAMES.iter().position(|n| *n == name).unwrap_or(CUES)]
    }

    #[test]
    fn each_cue_rises_with_what_it_is_named_for() {
        for (name, less, more) in [
            ("characters", "short", "a good deal longer than that"),
            ("numbers", "two and 3", "1 and 2 and 3"),
            ("largest number", "12", "1,200"),
            ("code", "a sentence", "fn main() { let x = [1]; }"),
            ("formula", "a sentence", "x^2 + y^2 = z^2"),
            ("question", "tell me.", "who? why?"),
            ("options", "which?", "which?\nA. this\nB. that"),
            ("non-ASCII", "weather", "天気"),
            ("sentences", "One.", "One. Two. Three."),
        ] {
            assert!(cue(more, name) > cue(less, name), "{name}");
        }
    }

    #[test]
    fn cues_of_any_text_are_finite() {
        for text in ["", " ", "\n\n", "9".repeat(500).as_str(), "é\u{301}", "\0"] {
            assert!(
                cues(text).iter().all(|c| c.is_finite() && c.abs() <= 3.0),
                "{text:?}"
            );
        }
    }
}
