//! Rotary positions and grouped-query attention over each sequence's cache.

use rayon::prelude::*;

use super::{Config, KvCache, Span, cache::PAGE};
use crate::vector::{self, vectorised};

/// Multiply-adds below which a second thread is not worth waking.
const SERIAL: usize = 64 * 1024;

/// Where a row of the batch belongs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) span: usize,
    pub(super) position: usize,
}

/// A place for each row, spans in turn.
pub(super) fn places(spans: &[Span<'_>]) -> Vec<Place> {
    let of = |(span, s): (usize, &Span<'_>)| {
        let start = s.cache.len();
        (0..s.tokens.len()).map(move |i| Place {
            span,
            position: start + i,
        })
    };
    spans.iter().enumerate().flat_map(of).collect()
}

/// (cos, sin) of each rotated pair, for each row.
pub(super) fn rotations(places: &[Place], inverse_frequencies: &[f32]) -> Vec<Vec<(f32, f32)>> {
    let row = |p: &Place| {
        inverse_frequencies
            .iter()
            .map(|f| (p.position as f32 * f).sin_cos())
            .map(|(s, c)| (c, s))
            .collect()
    };
    places.iter().map(row).collect()
}

/// Rotates neighbouring pairs of each head: GGUF stores llama's query and key rows permuted for it.
pub(super) fn rotate(
    x: &mut [f32],
    row_len: usize,
    head_dim: usize,
    rotations: &[Vec<(f32, f32)>],
) {
    for (row, angles) in x.chunks_exact_mut(row_len).zip(rotations) {
        for head in row.chunks_exact_mut(head_dim) {
            for (pair, (cos, sin)) in head.chunks_exact_mut(2).zip(angles) {
                let (a, b) = (pair[0], pair[1]);
                pair[0] = a * cos - b * sin;
                pair[1] = a * sin + b * cos;
            }
        }
    }
}

/// Attention of every row to its own sequence up to itself; `query` and `out` have rows of
/// `heads * head_dim`.
pub(super) fn attend(
    config: &Config,
    spans: &[Span<'_>],
    places: &[Place],
    layer: usize,
    query: &[f32],
    out: &mut [f32],
) {
    // The query heads that share a key head lie together and are one task.
    let group = config.heads / config.kv_heads * config.head_dim;
    let one = |(task, (out, query)): (usize, (&mut [f32], &[f32]))| {
        let place = places[task / config.kv_heads];
        let cache = &*spans[place.span].cache;
        attend_group(
            cache,
            layer,
            task % config.kv_heads,
            place.position + 1,
            config.head_dim,
            query,
            out,
        );
    };
    let work: usize = places
        .iter()
        .map(|p| (p.position + 1) * config.heads * config.head_dim)
        .sum();
    if work < SERIAL || rayon::current_num_threads() == 1 {
        out.chunks_exact_mut(group)
            .zip(query.chunks_exact(group))
            .enumerate()
            .for_each(one);
    } else {
        out.par_chunks_exact_mut(group)
            .zip(query.par_chunks_exact(group))
            .enumerate()
            .for_each(one);
    }
}

vectorised! {
    /// Softmax-weighted values for the query heads in `query`, which share key head `head`.
    fn attend_group(
        cache: &'a KvCache,
        layer: usize,
        head: usize,
        len: usize,
        d: usize,
        query: &'a [f32],
        out: &'a mut [f32],
    ) {
        let pages = cache.head(layer, head);
        let scale = 1.0 / (d as f32).sqrt();
        let heads = query.len() / d;
        let mut scores = vec![0.0; heads * len];
        for (page, (keys, _)) in pages.clone().take(len.div_ceil(PAGE)).enumerate() {
            let start = page * PAGE;
            for (t, key) in keys.chunks_exact(d).take(len - start).enumerate() {
                for (head, query) in query.chunks_exact(d).enumerate() {
                    scores[head * len + start + t] = vector::dot(query, key) * scale;
                }
            }
        }
        for scores in scores.chunks_exact_mut(len) {
            vector::softmax(scores);
        }
        out.fill(0.0);
        for (page, (_, values)) in pages.take(len.div_ceil(PAGE)).enumerate() {
            let start = page * PAGE;
            for (t, value) in values.chunks_exact(d).take(len - start).enumerate() {
                for (head, out) in out.chunks_exact_mut(d).enumerate() {
                    vector::add_scaled(out, scores[head * len + start + t], value);
                }
            }
        }
    }
}
