//! Constraints inside a question, after Tryage (Hari and Thomson 2023): `[route: fast, local] How do I …?`. For
//! clients that can send a text and nothing else.
//!
//! The words are taken off before anybody reads the question. What the request itself says goes before them.

use polymath_types::{
    Constraints, ErrorKind, ExpertKind, Failure, Preference, Privacy, Query, Role, Terms,
};

const BEGIN: &str = "[route:";
const HELP: &str =
    "fast, cheap, best, local, own, mesh, any, model=NAME, max-price=CREDITS or label:KEY=VALUE";

/// Heeds the constraints at the beginning of the last user turn, and takes them off it.
pub(super) fn heed(query: &mut Query) -> Result<(), Failure> {
    // What is to be embedded or classified is data, not a question.
    if query.kind != ExpertKind::Generate {
        return Ok(());
    }
    let mut turns = query.messages.iter_mut().rev();
    let Some(turn) = turns.find(|m| m.role == Role::User) else {
        return Ok(());
    };
    let Some(rest) = turn.content.trim_start().strip_prefix(BEGIN) else {
        return Ok(());
    };
    let Some((flags, question)) = rest.split_once(']') else {
        return Err(wrong("it lacks its closing bracket"));
    };
    for flag in flags.split(',').map(str::trim).filter(|f| !f.is_empty()) {
        apply(flag, &mut query.constraints)?;
    }
    if question.trim().is_empty() {
        return Err(wrong("there is no question behind it"));
    }
    turn.content = question.trim_start().to_owned();
    Ok(())
}

fn wrong(what: &str) -> Failure {
    let help = format!("{BEGIN} …] at the beginning of the question: {what}; it takes {HELP}");
    Failure::new(ErrorKind::InvalidInput, help)
}

fn apply(flag: &str, constraints: &mut Constraints) -> Result<(), Failure> {
    let usual = Constraints::default();
    if let Some(prefer) = Preference::from_name(flag) {
        if constraints.prefer == usual.prefer {
            constraints.prefer = prefer;
        }
    } else if let Some(privacy) = Privacy::from_name(flag) {
        // Of two circles the narrower one: neither was drawn in vain.
        constraints.privacy = constraints.privacy.min(privacy);
    } else if let Some(model) = flag.strip_prefix("model=") {
        constraints.model.get_or_insert_with(|| model.to_owned());
    } else if let Some(credits) = flag.strip_prefix("max-price=") {
        let credits: f64 = credits
            .parse()
            .map_err(|_| wrong(&format!("'{credits}' is no price")))?;
        let millionths = credits * Terms::CREDIT as f64;
        if !(0.0..=Terms::HIGHEST_PRICE as f64).contains(&millionths) {
            return Err(wrong("a price is from 0 to a million credits"));
        }
        let most = millionths.round() as u64;
        constraints.max_price = Some(constraints.max_price.map_or(most, |p| p.min(most)));
    } else if let Some((key, value)) = flag
        .strip_prefix("label:")
        .and_then(|label| label.split_once('='))
    {
        let labels = &mut constraints.peer_labels;
        labels.entry(key.to_owned()).or_insert(value.to_owned());
    } else {
        return Err(wrong(&format!("'{flag}' is not known")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use polymath_types::{Message, RequestId, SamplingOverrides};

    use super::*;

    fn query(text: &str) -> Query {
        Query {
            id: RequestId::from_random([0; 8]),
            kind: ExpertKind::Generate,
            messages: vec![Message::user(text)],
            labels: Vec::new(),
            sampling: SamplingOverrides::default(),
            constraints: Constraints::default(),
        }
    }

    #[test]
    fn what_a_question_begins_with_is_heeded_and_taken_off() {
        let mut q =
            query("[route: cheap, own, model=chef, max-price=0.5, label:office=berlin] How long?");
        heed(&mut q).unwrap();
        assert_eq!(q.messages[0].content, "How long?");
        let c = &q.constraints;
        assert_eq!((c.prefer, c.privacy), (Preference::Cheap, Privacy::Own));
        assert_eq!(c.model.as_deref(), Some("chef"));
        assert_eq!(c.max_price, Some(500_000));
        assert_eq!(c.peer_labels["office"], "berlin");
    }

    #[test]
    fn what_the_request_says_goes_before_and_the_narrower_circle_holds() {
        let mut q = query("[route: fast, any, model=chef] How long?");
        q.constraints.prefer = Preference::Best;
        q.constraints.privacy = Privacy::Local;
        q.constraints.model = Some("coder".into());
        heed(&mut q).unwrap();
        let c = &q.constraints;
        assert_eq!((c.prefer, c.privacy), (Preference::Best, Privacy::Local));
        assert_eq!(c.model.as_deref(), Some("coder"));
    }

    #[test]
    fn other_texts_stay_and_unknown_words_are_refused() {
        for text in ["How long?", "a [route: fast] later", "[routes: x]"] {
            let mut q = query(text);
            heed(&mut q).unwrap();
            assert_eq!(q, query(text));
        }
        let mut data = query("[route: quick] text");
        data.kind = ExpertKind::Embed;
        heed(&mut data).unwrap();
        for text in [
            "[route: quick] x",
            "[route: fast",
            "[route: max-price=-1] x",
            "[route: fast] ",
        ] {
            let failure = heed(&mut query(text)).unwrap_err();
            assert_eq!(failure.kind, ErrorKind::InvalidInput, "{text}");
            assert!(failure.message.contains("max-price=CREDITS"), "{failure}");
        }
    }
}
