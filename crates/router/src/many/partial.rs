//! What the beginning of an answer gives away: that its expert has none, or that it goes in circles.
//!
//! Both signs are explicit. A false alarm costs a second call, a missed one an answer as bad as without.

/// What a polite one says first.
const EXCUSES: [&str; 7] = [
    "i'm sorry, but ",
    "i am sorry, but ",
    "i'm sorry, ",
    "i am sorry, ",
    "sorry, but ",
    "sorry, ",
    "unfortunately, ",
];
/// The mark that an expert's instructions may ask it for, and what models say of themselves.
const DECLARATIONS: [&str; 14] = [
    "[cannot answer]",
    "i cannot answer",
    "i can't answer",
    "i can not answer",
    "i am unable to answer",
    "i'm unable to answer",
    "i am not able to answer",
    "i'm not able to answer",
    "i do not know the answer",
    "i don't know the answer",
    "i do not know.",
    "i don't know.",
    "this question is outside my",
    "that question is outside my",
];
/// Tokens at the end of an answer that must repeat, the longest period, and how often it returns at least.
const CIRCLING: usize = 96;
const LONGEST_PERIOD: usize = 16;

/// What an answer's beginning says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// It may still become a declaration.
    Open,
    /// Its expert says that it cannot answer.
    Declines,
    /// It is an answer.
    Answers,
}

/// Reads the beginning of an answer, as far as it is there.
pub fn beginning(text: &str) -> Beginning {
    let clip = text.trim_start();
    let clip = &clip[..clip.floor_char_boundary(128)];
    let plain = clip.to_lowercase().replace('\u{2019}', "'");
    let excused = EXCUSES.iter().find_map(|e| plain.strip_prefix(e));
    let heart = excused.unwrap_or(&plain);
    if DECLARATIONS.iter().any(|d| heart.starts_with(d)) {
        return Beginning::Declines;
    }
    let may_become = DECLARATIONS.iter().any(|d| d.starts_with(heart))
        || (excused.is_none() && EXCUSES.iter().any(|e| e.starts_with(heart)));
    if may_become {
        Beginning::Open
    } else {
        Beginning::Answers
    }
}

/// Whether a whole answer says that there is none.
pub fn declines(text: &str) -> bool {
    let text = text.trim();
    text.is_empty()
        || beginning(text) == Beginning::Declines
        || beginning(&format!("{text}.")) == Beginning::Declines
}

/// Whether an answer's last tokens are one short piece again and again.
pub fn goes_in_circles(tokens: &[u32]) -> bool {
    let Some(tail) = tokens.len().checked_sub(CIRCLING).map(|at| &tokens[at..]) else {
        return false;
    };
    (1..=LONGEST_PERIOD).any(|period| tail[period..].iter().eq(&tail[..CIRCLING - period]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_says_that_it_cannot_is_believed_from_its_first_words() {
        for text in [
            "I cannot answer that.",
            "  I'm sorry, but I can\u{2019}t answer this",
            "[cannot answer] try a cook",
            "I don't know.",
            "Sorry, I am unable to answer",
        ] {
            assert_eq!(beginning(text), Beginning::Declines, "{text}");
            assert!(declines(text));
        }
        for text in [
            "I cannot recommend it",
            "I know.",
            "Sorrow is a feeling",
            "The egg",
            "i don't know whether he came, but she did",
        ] {
            assert_eq!(beginning(text), Beginning::Answers, "{text}");
            assert!(!declines(text));
        }
        for text in ["", "I", "I ca", "I'm sorry", "sorry, ", "i don't know"] {
            assert_eq!(beginning(text), Beginning::Open, "{text}");
        }
        assert!(declines("I don't know"));
        assert!(declines(" "));
        assert!(!declines("I"));
    }

    #[test]
    fn circles_are_short_pieces_that_fill_the_end() {
        let piece = [7, 8, 9].repeat(40);
        assert!(goes_in_circles(&piece));
        assert!(!goes_in_circles(&piece[..60]));
        let counting: Vec<u32> = (0..500).collect();
        assert!(!goes_in_circles(&counting));
        let long: Vec<u32> = (0..30).collect::<Vec<u32>>().repeat(10);
        assert!(!goes_in_circles(&long));
    }

    proptest! {
        #[test]
        fn what_was_decided_stays_decided(text in ".{0,80}", more in ".{0,40}") {
            let first = beginning(&text);
            if first != Beginning::Open {
                prop_assert_eq!(beginning(&format!("{text}{more}")), first);
            }
        }

        #[test]
        fn little_is_ever_held_back(text in "[ -~]{65,100}") {
            prop_assert_ne!(beginning(text.trim_start()), Beginning::Open);
        }
    }
}
