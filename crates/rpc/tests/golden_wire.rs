//! Messages of version 1 of the wire keep their bytes: a field that is renumbered or retyped is
//! seen here. `POLYMATH_WRITE_GOLDEN=1` writes the golden files anew, which is a new version.

#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use polymath_proto::v1;
use prost::Message;

fn same<M: Message + Default + PartialEq + std::fmt::Debug>(name: &str, message: &M) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("POLYMATH_WRITE_GOLDEN").is_some() {
        fs::write(&path, message.encode_to_vec()).unwrap();
    }
    let bytes = fs::read(&path).unwrap();
    assert_eq!(message.encode_to_vec(), bytes, "{name}");
    assert_eq!(&M::decode(bytes.as_slice()).unwrap(), message, "{name}");
}

fn sampling() -> v1::Sampling {
    v1::Sampling {
        max_tokens: Some(64),
        temperature: Some(0.7),
        top_p: Some(0.9),
        top_k: Some(40),
        seed: Some(u64::MAX),
        stop: vec!["\n\n".into()],
    }
}

fn message() -> v1::ChatMessage {
    v1::ChatMessage {
        role: v1::chat_message::Role::User as i32,
        content: "Grüße".into(),
    }
}

#[test]
fn calls_between_peers() {
    same(
        "generate_request_v1.bin",
        &v1::GenerateRequest {
            version: 1,
            expert: vec![3; 32].into(),
            request_id: "0123456789abcdef".into(),
            messages: vec![message()],
            sampling: Some(sampling()),
            prefix_token_ids: vec![1, 300, 70_000],
            engine_fingerprint: "build/kernel".into(),
            budget_ms: 120_000,
        },
    );
    let tokens = v1::Tokens {
        ids: vec![1, 300],
        text: "héllo".into(),
    };
    same(
        "generate_event_v1.bin",
        &v1::GenerateEvent {
            event: Some(v1::generate_event::Event::Tokens(tokens)),
        },
    );
    same(
        "classify_request_v1.bin",
        &v1::ClassifyRequest {
            version: 1,
            expert: vec![3; 32].into(),
            request_id: "r".into(),
            texts: vec!["a".into()],
            labels: vec!["x".into(), "y".into()],
            budget_ms: 5,
        },
    );
    same(
        "embed_request_v1.bin",
        &v1::EmbedRequest {
            version: 1,
            expert: vec![3; 32].into(),
            request_id: "r".into(),
            texts: vec!["a".into()],
            budget_ms: 5,
        },
    );
    let described = v1::DescribeResponse {
        version: 1,
        agent: "polymath/0.1.0".into(),
        experts: vec![v1::DescribedExpert {
            id: vec![3; 32].into(),
            card: b"{}".to_vec().into(),
            ready: true,
            engine_fingerprint: "f".into(),
        }],
        load: Some(v1::Load {
            queue_depth: 1,
            active: 2,
            free_slots: 3,
            ..v1::Load::default()
        }),
        unix_ms: 0,
    };
    // Of a peer that does not tell its clock, and of one that does.
    same("describe_response_v1.bin", &described);
    let unix_ms = 1_800_000_000_000;
    same(
        "describe_response_with_clock_v1.bin",
        &v1::DescribeResponse {
            unix_ms,
            ..described.clone()
        },
    );
    // Of one that tells how long an answer takes; the others read as before, with zeros.
    same(
        "describe_response_with_service_v1.bin",
        &v1::DescribeResponse {
            load: Some(v1::Load {
                service_ms: 1500,
                resident_experts: 4,
                ..described.load.unwrap_or_default()
            }),
            unix_ms,
            ..described
        },
    );
}

#[test]
fn calls_of_the_control_api() {
    same(
        "ask_request_v1.bin",
        &v1::AskRequest {
            version: 1,
            kind: "generate".into(),
            messages: vec![message()],
            labels: vec!["l".into()],
            sampling: Some(sampling()),
            model: "chef".into(),
            peer: "p".into(),
            exclude: vec!["q".into()],
            timeout_ms: 1000,
            dry_run: true,
            request_id: "r".into(),
            ..v1::AskRequest::default()
        },
    );
    let failed = v1::Failed {
        kind: "unavailable".into(),
        message: "m".into(),
        attempts: vec![v1::FailedAttempt {
            expert: "e".into(),
            peer: "p".into(),
            outcome: "o".into(),
        }],
        ..v1::Failed::default()
    };
    let event = |failed| v1::AskEvent {
        event: Some(v1::ask_event::Event::Failed(failed)),
    };
    same("ask_event_v1.bin", &event(failed.clone()));
    same(
        "ask_event_with_retry_after_v1.bin",
        &event(v1::Failed {
            retry_after_ms: 1500,
            ..failed
        }),
    );
    let diagnosis = v1::Diagnosis {
        findings: vec![v1::Finding {
            area: "nat".into(),
            subject: "tcp".into(),
            state: "warning".into(),
            found: "f".into(),
            fix: "x".into(),
            values: [("mapping".into(), "none".into())].into(),
        }],
        reach: "relay".into(),
        verdict: "v".into(),
    };
    same(
        "doctor_event_v1.bin",
        &v1::DoctorEvent {
            event: Some(v1::doctor_event::Event::Diagnosis(diagnosis)),
        },
    );
    same(
        "peer_v1.bin",
        &v1::Peer {
            id: "p".into(),
            connected: true,
            path: "relayed".into(),
            transport: "tcp".into(),
            rtt_ms: 1.5,
            agent: "polymath/0.1.0".into(),
            experts: vec!["chef".into()],
            addresses: vec!["/ip4/192.0.2.7/tcp/1".into()],
            note: "n".into(),
            received: 1,
            sent: 2,
            age_ms: 3,
            relay: "r".into(),
            reason: "refused".into(),
            detail: "d".into(),
            last_failure: "l".into(),
            last_failure_age_ms: 4,
        },
    );
}
