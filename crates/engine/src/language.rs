//! Which language a text is in: trigrams and alphabets (whatlang), and for texts too short for those
//! a linear classifier of the 16 most written languages (whichlang); both compiled into the binary.

use whatlang::{Detector, Lang};

/// How many languages are named for a text.
const RANKED: usize = 5;
/// The confidence below which whatlang's first guess is about as good as a coin.
const SURE: f64 = 0.5;
/// The same of a guess that the short-text classifier could not make: it takes every language but its
/// 16 for one of them.
const SURE_OF_OTHERS: f64 = 0.2;
/// How often the short-text classifier is right where it is heard (`language/short_texts.txt`).
const SHORT_TEXT: f64 = 0.6;

/// Languages likely for `text`, best first, each with a probability; they sum to at most 1. Empty
/// when the text has no letters.
///
/// Where whatlang is not sure, the short-text classifier's language comes first. whatlang names one language and its confidence; runners-up are found by denying
/// it the ones already named. Each takes its confidence's share of what is left, and never more than
/// the one before it.
pub(crate) fn identify(text: &str, allowed: &[Lang]) -> Vec<(String, f64)> {
    let mut found: Vec<(Lang, f64)> = Vec::new();
    let mut left = 1.0;
    if let Some(first) = Detector::with_allowlist(allowed.to_vec()).detect(text)
        && first.confidence() < sure(first.lang())
        && let Some(lang) = short_text(text).filter(|l| allowed.contains(l))
    {
        found.push((lang, SHORT_TEXT));
        left -= SHORT_TEXT;
    }
    while found.len() < RANKED {
        let remaining: Vec<Lang> = allowed
            .iter()
            .copied()
            .filter(|l| found.iter().all(|(f, _)| f != l))
            .collect();
        if remaining.is_empty() {
            break;
        }
        let Some(info) = Detector::with_allowlist(remaining).detect(text) else {
            break;
        };
        let cap = found.last().map_or(1.0, |(_, p)| *p);
        let probability = (left * info.confidence()).min(cap);
        left -= probability;
        found.push((info.lang(), probability));
        if left < 1e-6 {
            break;
        }
    }
    found
        .into_iter()
        .map(|(lang, p)| (code(lang).to_owned(), p))
        .collect()
}

/// The confidence from which whatlang's guess stands.
fn sure(lang: Lang) -> f64 {
    match lang {
        Lang::Ara
        | Lang::Cmn
        | Lang::Deu
        | Lang::Eng
        | Lang::Fra
        | Lang::Hin
        | Lang::Ita
        | Lang::Jpn
        | Lang::Kor
        | Lang::Nld
        | Lang::Por
        | Lang::Rus
        | Lang::Spa
        | Lang::Swe
        | Lang::Tur
        | Lang::Vie => SURE,
        _ => SURE_OF_OTHERS,
    }
}

/// The short-text classifier's language, unless the text has letters that language is not written
/// with.
fn short_text(text: &str) -> Option<Lang> {
    let lang = Lang::from_code(whichlang::detect_language(text).three_letter_code())?;
    let mut letters = text
        .chars()
        .flat_map(char::to_lowercase)
        .filter(|c| c.is_alphabetic());
    letters.all(|c| writes(lang, c)).then_some(lang)
}

/// Whether `lang` is written with the lower-case letter `c` (exemplar characters of CLDR, shortened);
/// of the 16 languages those that share their alphabet with others.
fn writes(lang: Lang, c: char) -> bool {
    let (without, more) = match lang {
        Lang::Eng => ("", ""),
        Lang::Deu => ("", "äöüß"),
        Lang::Fra => ("", "àâæçèéêëîïôœùûüÿ"),
        Lang::Ita => ("", "àèéìíîòóùú"),
        Lang::Nld => ("", "èéëïóöü"),
        Lang::Por => ("", "àáâãçéêíóôõú"),
        Lang::Spa => ("", "áéíñóúü"),
        Lang::Swe => ("", "åäöéà"),
        Lang::Tur => ("qwx", "çğıöşüâîû\u{307}"),
        Lang::Vie => (
            "fjwz",
            "àáâãèéêìíòóôõùúýăđĩũơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ",
        ),
        Lang::Rus => return matches!(c, 'а'..='я' | 'ё'),
        Lang::Ara => return matches!(c, 'ء'..='ي'),
        _ => return false,
    };
    (c.is_ascii_lowercase() && !without.contains(c)) || more.contains(c)
}

/// The language of `text` if it can be told with confidence: ISO 639-1 where a code exists, else
/// ISO 639-3.
pub fn detect_language(text: &str) -> Option<String> {
    let info = whatlang::detect(text).filter(whatlang::Info::is_reliable)?;
    Some(code(info.lang()).to_owned())
}

/// Every label the identifier gives, sorted: ISO 639-1 where a code exists, else ISO 639-3.
pub fn language_labels() -> Vec<String> {
    let mut labels: Vec<String> = Lang::all().iter().map(|l| code(*l).to_owned()).collect();
    labels.sort();
    labels
}

/// The languages of `labels`, or the first label that is none.
pub(crate) fn allowed(labels: &[String]) -> Result<Vec<Lang>, String> {
    if labels.is_empty() {
        return Ok(Lang::all().to_vec());
    }
    let find = |label: &String| {
        Lang::all()
            .iter()
            .copied()
            .find(|l| code(*l) == label)
            .ok_or_else(|| label.clone())
    };
    labels.iter().map(find).collect()
}

/// ISO 639-1; whatlang speaks ISO 639-3.
fn code(lang: Lang) -> &'static str {
    match lang.code() {
        "afr" => "af",
        "aka" => "ak",
        "amh" => "am",
        "ara" => "ar",
        "aze" => "az",
        "bel" => "be",
        "ben" => "bn",
        "bul" => "bg",
        "cat" => "ca",
        "ces" => "cs",
        "cmn" => "zh",
        "cym" => "cy",
        "dan" => "da",
        "deu" => "de",
        "ell" => "el",
        "eng" => "en",
        "epo" => "eo",
        "est" => "et",
        "fin" => "fi",
        "fra" => "fr",
        "guj" => "gu",
        "heb" => "he",
        "hin" => "hi",
        "hrv" => "hr",
        "hun" => "hu",
        "hye" => "hy",
        "ind" => "id",
        "ita" => "it",
        "jav" => "jv",
        "jpn" => "ja",
        "kan" => "kn",
        "kat" => "ka",
        "khm" => "km",
        "kor" => "ko",
        "lat" => "la",
        "lav" => "lv",
        "lit" => "lt",
        "mal" => "ml",
        "mar" => "mr",
        "mkd" => "mk",
        "mya" => "my",
        "nep" => "ne",
        "nld" => "nl",
        "nob" => "nb",
        "ori" => "or",
        "pan" => "pa",
        "pes" => "fa",
        "pol" => "pl",
        "por" => "pt",
        "ron" => "ro",
        "rus" => "ru",
        "sin" => "si",
        "slk" => "sk",
        "slv" => "sl",
        "sna" => "sn",
        "spa" => "es",
        "srp" => "sr",
        "swe" => "sv",
        "tam" => "ta",
        "tel" => "te",
        "tgl" => "tl",
        "tha" => "th",
        "tuk" => "tk",
        "tur" => "tr",
        "ukr" => "uk",
        "urd" => "ur",
        "uzb" => "uz",
        "vie" => "vi",
        "yid" => "yi",
        "zul" => "zu",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn common_languages_are_told_apart() {
        let all = allowed(&[]).unwrap();
        for (text, label) in [
            (
                "The weather is lovely today and we shall walk along the river.",
                "en",
            ),
            (
                "Das Wetter ist heute schön und wir gehen am Fluss entlang spazieren.",
                "de",
            ),
            (
                "Il fait beau aujourd'hui et nous allons nous promener au bord de la rivière.",
                "fr",
            ),
            (
                "Hace buen tiempo hoy y vamos a pasear por la orilla del río.",
                "es",
            ),
            (
                "Сегодня хорошая погода, и мы пойдём гулять вдоль реки.",
                "ru",
            ),
            ("今日は天気がいいので、川沿いを散歩します。", "ja"),
            ("Wo ist der Bahnhof?", "de"),
            ("Good morning", "en"),
            ("Bonjour, je voudrais un café.", "fr"),
            ("¿Dónde está el baño?", "es"),
        ] {
            let ranked = identify(text, &all);
            assert_eq!(ranked[0].0, label, "{text}: {ranked:?}");
            assert!(ranked.is_sorted_by(|a, b| a.1 >= b.1), "{ranked:?}");
            assert!(ranked.iter().map(|(_, p)| p).sum::<f64>() <= 1.0 + 1e-9);
        }
        assert!(identify("12345 !?", &all).is_empty());
    }

    #[test]
    fn short_texts_are_told_better_than_by_trigrams_alone() {
        let all = allowed(&[]).unwrap();
        let (mut trigrams, mut both, mut heard, mut right) = (0, 0, 0, 0);
        for line in include_str!("language/short_texts.txt").lines() {
            let (language, text) = line.split_once('|').unwrap();
            let alone = Detector::with_allowlist(all.clone()).detect(text);
            trigrams += u32::from(alone.is_some_and(|i| code(i.lang()) == language));
            let Some((first, probability)) = identify(text, &all).into_iter().next() else {
                continue;
            };
            both += u32::from(first == language);
            if probability == SHORT_TEXT {
                heard += 1;
                right += u32::from(first == language);
            }
        }
        assert_eq!((trigrams, both), (75, 82), "figures of ARCHITECTURE.md");
        let share = f64::from(right) / f64::from(heard);
        assert!((share - SHORT_TEXT).abs() < 0.02, "{right} of {heard}");
    }

    #[test]
    fn labels_are_codes_and_limit_the_choice() {
        let labels = language_labels();
        assert!(labels.len() >= 60 && labels.contains(&"en".into()) && labels.is_sorted());
        let two = allowed(&["fr".into(), "es".into()]).unwrap();
        let ranked = identify("The weather is lovely today", &two);
        assert!(!ranked.is_empty() && ranked.iter().all(|(l, _)| l == "fr" || l == "es"));
        assert_eq!(allowed(&["xx".into()]), Err("xx".to_owned()));
    }
}
