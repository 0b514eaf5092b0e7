//! Constraints inside a question, after Tryage (Hari and Thomson 2023): `[route: fast, local] How do I …?`. For
//! clients that can send a text and nothing else.
//!
//! The words are taken off every user turn before anybody reads it. A text may be somebody else's, so of who may read
//! it and of what it may cost a token flags only narrow: of two circles the narrower one holds, in whichever turn it was
//! drawn, and of two prices the lower. What is preferred, and how many are asked, they say for the latest turn and only
//! where the request does not: more than one can be widening, by the usual calls at most and within the request's
//! bounds. Whoever passes on the texts of others says `how` itself.

use polymath_types::{
    Constraints, ErrorKind, ExpertKind, Failure, How, Preference, Privacy, Query, Role, Terms,
};

const BEGIN: &str = "[route:";
const HELP: &str =
    "fast, cheap, best, one, vote, cascade, plan, auto, local, own, mesh, any or max-price=CREDITS";

/// Heeds the constraints at the beginning of each user turn, and takes them off it.
pub(super) fn heed(query: &mut Query) -> Result<(), Failure> {
    // What is to be embedded or classified is data, not a question.
    if query.kind != ExpertKind::Generate {
        return Ok(());
    }
    let turns = query.messages.iter_mut().rev();
    for (age, turn) in turns.filter(|m| m.role == Role::User).enumerate() {
        let text = turn.content.trim_start();
        let head = text.get(..BEGIN.len()).unwrap_or_default();
        if !head.eq_ignore_ascii_case(BEGIN) {
            continue;
        }
        let Some((flags, question)) = text[BEGIN.len()..].split_once(']') else {
            return Err(wrong("it lacks its closing bracket"));
        };
        for flag in flags.split(',').map(str::trim).filter(|f| !f.is_empty()) {
            apply(&flag.to_ascii_lowercase(), age == 0, &mut query.constraints)?;
        }
        if question.trim().is_empty() {
            return Err(wrong("there is no question behind it"));
        }
        turn.content = question.trim_start().to_owned();
    }
    Ok(())
}

fn wrong(what: &str) -> Failure {
    let help = format!("{BEGIN} …] at the beginning of the question: {what}; it takes {HELP}");
    Failure::new(ErrorKind::InvalidInput, help)
}

/// `latest`: what is preferred is so for one question; what must not travel must not in later turns either.
fn apply(flag: &str, latest: bool, constraints: &mut Constraints) -> Result<(), Failure> {
    if let Some(prefer) = Preference::from_name(flag) {
        if latest && constraints.prefer == Preference::default() {
            constraints.prefer = prefer;
        }
    } else if let Some(how) = How::from_name(flag) {
        if latest {
            constraints.how.get_or_insert(how);
        }
    } else if let Some(privacy) = Privacy::from_name(flag) {
        constraints.privacy = constraints.privacy.min(privacy);
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
        let mut q = query("[Route: cheap, own, max-price=0.5] How long?");
        heed(&mut q).unwrap();
        assert_eq!(q.messages[0].content, "How long?");
        let c = &q.constraints;
        assert_eq!((c.prefer, c.privacy), (Preference::Cheap, Privacy::Own));
        assert_eq!(c.max_price, Some(500_000));
    }

    #[test]
    fn what_must_not_travel_must_not_in_later_turns_either() {
        let mut q = query("And then?");
        q.messages
            .insert(0, Message::user("[route: local, fast] A secret."));
        heed(&mut q).unwrap();
        assert_eq!(q.messages[0].content, "A secret.");
        let c = &q.constraints;
        assert_eq!(
            (c.prefer, c.privacy),
            (Preference::Balanced, Privacy::Local)
        );
    }

    #[test]
    fn what_the_request_says_goes_before_and_the_narrower_circle_holds() {
        let mut q = query("[route: fast, any] How long?");
        q.constraints.prefer = Preference::Best;
        q.constraints.privacy = Privacy::Local;
        heed(&mut q).unwrap();
        let c = &q.constraints;
        assert_eq!((c.prefer, c.privacy), (Preference::Best, Privacy::Local));
    }

    #[test]
    fn how_many_are_asked_is_said_for_one_question_and_only_where_the_request_does_not() {
        let mut q = query("[route: vote] How long?");
        heed(&mut q).unwrap();
        assert_eq!(q.constraints.how, Some(How::Vote));
        let mut q = query("[route: plan] How long?");
        q.constraints.how = Some(How::One);
        heed(&mut q).unwrap();
        assert_eq!(q.constraints.how, Some(How::One));
        let mut q = query("And then?");
        q.messages
            .insert(0, Message::user("[route: cascade] How long?"));
        heed(&mut q).unwrap();
        assert_eq!(q.constraints.how, None);
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
            "[route: model=x] x",
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
