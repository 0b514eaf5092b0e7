//! A random llama of a few thousand weights: all the machinery, no sense.

use std::{fs::File, path::Path};

use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Value},
    },
};
use polymath_engine::Engine;
use polymath_types::{ExpertCard, ExpertId, ExpertKind, FileRole, Runtime};

pub(crate) const CONTEXT: u32 = 256;
const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}";

/// Metadata a test may change before the file is written.
pub(crate) type Metadata = Vec<(&'static str, Value)>;

pub(crate) fn metadata() -> Metadata {
    let text = |s: &str| Value::String(s.into());
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut spare = 256;
    let mut tokens: Vec<Value> = (0..=255u8)
        .map(|b| {
            let c = if printable(b) {
                char::from(b)
            } else {
                spare += 1;
                char::from_u32(spare - 1).unwrap()
            };
            Value::String(c.into())
        })
        .collect();
    tokens.extend([text("<|im_start|>"), text("<|im_end|>"), text("ab")]);
    let types = (0..258)
        .map(|i| Value::I32(if i < 256 { 1 } else { 3 }))
        .collect();
    vec![
        ("general.architecture", text("llama")),
        ("llama.block_count", Value::U32(2)),
        ("llama.context_length", Value::U32(CONTEXT)),
        ("llama.embedding_length", Value::U32(64)),
        ("llama.feed_forward_length", Value::U32(96)),
        ("llama.attention.head_count", Value::U32(4)),
        ("llama.attention.head_count_kv", Value::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.tokens", Value::Array(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(types)),
        ("tokenizer.ggml.merges", Value::Array(vec![text("a b")])),
        ("tokenizer.ggml.eos_token_id", Value::U32(257)),
        ("tokenizer.chat_template", text(TEMPLATE)),
    ]
}

pub(crate) fn write(path: &Path, metadata: &Metadata) {
    let mut state = 99u64;
    let mut random = |dims: &[usize], dtype: GgmlDType| {
        let len = dims.iter().product();
        let values: Vec<f32> = (0..len)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 0.5
            })
            .collect();
        quantize(values, dims, dtype)
    };
    // Rows of zeros for the control tokens: greedily, no answer ends before its limit.
    let mut head = vec![0.0; 259 * 64];
    let random_rows = random(&[256 * 64], GgmlDType::F32)
        .dequantize(&Device::Cpu)
        .unwrap();
    head[..256 * 64].copy_from_slice(&random_rows.to_vec1::<f32>().unwrap());
    let mut tensors = vec![
        (
            "token_embd.weight".to_owned(),
            random(&[259, 64], GgmlDType::Q8_0),
        ),
        (
            "output.weight".to_owned(),
            quantize(head, &[259, 64], GgmlDType::Q5_1),
        ),
        (
            "output_norm.weight".to_owned(),
            random(&[64], GgmlDType::F32),
        ),
    ];
    for layer in 0..2 {
        let mut add = |part: &str, dims: &[usize], dtype| {
            tensors.push((format!("blk.{layer}.{part}.weight"), random(dims, dtype)));
        };
        add("attn_norm", &[64], GgmlDType::F32);
        add("attn_q", &[64, 64], GgmlDType::Q4_0);
        add("attn_k", &[32, 64], GgmlDType::Q4_1);
        add("attn_v", &[32, 64], GgmlDType::F16);
        add("attn_output", &[64, 64], GgmlDType::Q8_0);
        add("ffn_norm", &[64], GgmlDType::F32);
        add("ffn_gate", &[96, 64], GgmlDType::Q4_1);
        add("ffn_up", &[96, 64], GgmlDType::Q5_0);
        add("ffn_down", &[64, 96], GgmlDType::F32);
    }
    let metadata: Vec<_> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
    gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

fn quantize(values: Vec<f32>, dims: &[usize], dtype: GgmlDType) -> QTensor {
    QTensor::quantize(
        &Tensor::from_vec(values, dims, &Device::Cpu).unwrap(),
        dtype,
    )
    .unwrap()
}

pub(crate) fn card() -> ExpertCard {
    super::models::card(
        "tiny",
        ExpertKind::Generate,
        Runtime::GgufLlama,
        &[(FileRole::Weights, "tiny.gguf")],
    )
}

pub(crate) fn load(engine: &Engine) -> ExpertId {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    write(&path, &metadata());
    let card = card();
    let id = card.id();
    engine.load(card.into(), &|_| path.clone()).unwrap();
    id
}
