//! Classification over labels the encoder never saw: a text takes the label whose hypothesis lies
//! closest to it.

use crate::bert::Bert;

/// Divides cosines before the softmax. Sentence encoders trained with a contrastive loss at scale
/// 20 (Reimers and Gurevych's, MiniLM among them) put cosines on that scale.
const TEMPERATURE: f64 = 0.05;

/// What a label says about a text.
fn hypothesis(label: &str) -> String {
    format!("This text is about {label}.")
}

/// Vectors of the labels' hypotheses, and the tokens looked at.
pub(crate) fn label_vectors(bert: &Bert, labels: &[String]) -> Result<(Vec<Vec<f32>>, u32), String> {
    let hypotheses: Vec<String> = labels.iter().map(|l| hypothesis(l)).collect();
    bert.embed(&hypotheses)
}

/// Probabilities of the labels for a text, best first; they sum to 1.
pub(crate) fn rank(text: &[f32], labels: &[String], vectors: &[Vec<f32>]) -> Vec<(String, f64)> {
    let cosine = |v: &Vec<f32>| text.iter().zip(v).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    let scores: Vec<f64> = vectors.iter().map(|v| cosine(v) / TEMPERATURE).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut ranked: Vec<(String, f64)> = labels.iter().cloned().zip(weights.iter().map(|w| w / total)).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    ranked
}
