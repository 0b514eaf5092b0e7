//! Between the messages of the wire and the types of the domain. Everything from outside is
//! bounded here, before anybody works on it.

use polymath_proto::v1;
use polymath_types::{
    ErrorKind, Failure, FinishReason, LoadReport, Message, Role, SamplingOverrides, Usage,
};

/// Most turns of a conversation.
const MAX_MESSAGES: usize = 1024;
/// Most stop strings.
const MAX_STOPS: usize = 16;
/// Longest stop string, bytes.
const MAX_STOP: usize = 64;

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(ErrorKind::InvalidInput, message)
}

/// Checks and converts a conversation.
pub fn messages_from_proto(messages: Vec<v1::ChatMessage>) -> Result<Vec<Message>, Failure> {
    if messages.is_empty() {
        return Err(invalid("no message: say something to the expert"));
    }
    if messages.len() > MAX_MESSAGES {
        return Err(invalid(format!(
            "{} messages; at most {MAX_MESSAGES} are taken",
            messages.len()
        )));
    }
    messages
        .into_iter()
        .map(|m| {
            let role = match m.role() {
                v1::chat_message::Role::System => Role::System,
                v1::chat_message::Role::User => Role::User,
                v1::chat_message::Role::Assistant => Role::Assistant,
                v1::chat_message::Role::Unspecified => {
                    return Err(invalid("a message without a role"));
                }
            };
            Ok(Message {
                role,
                content: m.content,
            })
        })
        .collect()
}

/// A conversation for the wire.
pub fn messages_to_proto(messages: &[Message]) -> Vec<v1::ChatMessage> {
    messages
        .iter()
        .map(|m| {
            let role = match m.role {
                Role::System => v1::chat_message::Role::System,
                Role::User => v1::chat_message::Role::User,
                Role::Assistant => v1::chat_message::Role::Assistant,
            };
            v1::ChatMessage {
                role: role as i32,
                content: m.content.clone(),
            }
        })
        .collect()
}

/// Checks and converts sampling overrides.
pub fn sampling_from_proto(sampling: Option<v1::Sampling>) -> Result<SamplingOverrides, Failure> {
    let s = sampling.unwrap_or_default();
    if s.temperature.is_some_and(|t| !(0.0..=5.0).contains(&t)) {
        return Err(invalid("temperature must be between 0 and 5"));
    }
    if s.top_p.is_some_and(|p| !(p > 0.0 && p <= 1.0)) {
        return Err(invalid("top_p must be over 0 and at most 1"));
    }
    if s.max_tokens == Some(0) {
        return Err(invalid("max_tokens must be at least 1"));
    }
    if s.stop.len() > MAX_STOPS || s.stop.iter().any(|x| x.is_empty() || x.len() > MAX_STOP) {
        return Err(invalid(format!(
            "at most {MAX_STOPS} stop strings of 1 to {MAX_STOP} bytes each, none of them empty"
        )));
    }
    Ok(SamplingOverrides {
        max_tokens: s.max_tokens,
        temperature: s.temperature,
        top_p: s.top_p,
        top_k: s.top_k,
        seed: s.seed,
        stop: s.stop,
    })
}

/// Sampling overrides for the wire.
pub fn sampling_to_proto(s: &SamplingOverrides) -> v1::Sampling {
    v1::Sampling {
        max_tokens: s.max_tokens,
        temperature: s.temperature,
        top_p: s.top_p,
        top_k: s.top_k,
        seed: s.seed,
        stop: s.stop.clone(),
    }
}

/// Usage for the wire.
pub fn usage_to_proto(u: Usage) -> v1::Usage {
    v1::Usage {
        prompt_tokens: u.prompt_tokens,
        completion_tokens: u.completion_tokens,
        estimated: u.estimated,
    }
}

/// Usage from the wire.
pub fn usage_from_proto(u: Option<v1::Usage>) -> Usage {
    let u = u.unwrap_or_default();
    Usage {
        prompt_tokens: u.prompt_tokens,
        completion_tokens: u.completion_tokens,
        estimated: u.estimated,
    }
}

/// A load report for the wire.
pub fn load_to_proto(l: LoadReport) -> v1::Load {
    v1::Load {
        queue_depth: l.queue_depth,
        active: l.active,
        free_slots: l.free_slots,
        service_ms: l.service_ms,
        resident_experts: l.resident_experts,
    }
}

/// A load report from the wire.
pub fn load_from_proto(l: Option<v1::Load>) -> Option<LoadReport> {
    l.map(|l| LoadReport {
        queue_depth: l.queue_depth,
        active: l.active,
        free_slots: l.free_slots,
        service_ms: l.service_ms,
        resident_experts: l.resident_experts,
    })
}

/// A finish reason for the wire.
pub fn reason_to_proto(reason: FinishReason) -> v1::finished::Reason {
    match reason {
        FinishReason::Stop => v1::finished::Reason::Stop,
        FinishReason::Length => v1::finished::Reason::Length,
    }
}

/// A finish reason from the wire; an unknown one counts as a stop.
pub fn finish_reason(reason: v1::finished::Reason) -> FinishReason {
    match reason {
        v1::finished::Reason::Length => FinishReason::Length,
        v1::finished::Reason::Stop | v1::finished::Reason::Unspecified => FinishReason::Stop,
    }
}
