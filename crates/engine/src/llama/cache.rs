//! Keys and values of one sequence, in pages that are added as it grows.

/// Tokens a page holds.
pub(super) const PAGE: usize = 64;

/// The KV cache of one sequence: floats, page by page; within a page by layer, key or value, head,
/// token, dimension, so that one head's keys lie together.
#[derive(Debug)]
pub(crate) struct KvCache {
    pages: Vec<Vec<f32>>,
    len: usize,
    layers: usize,
    heads: usize,
    head_dim: usize,
}

impl KvCache {
    pub(super) const fn new(layers: usize, heads: usize, head_dim: usize) -> Self {
        Self {
            pages: Vec::new(),
            len: 0,
            layers,
            heads,
            head_dim,
        }
    }

    /// Tokens held.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Makes room for `tokens` more.
    pub(super) fn reserve(&mut self, tokens: usize) {
        let page = self.layers * 2 * self.heads * PAGE * self.head_dim;
        while self.pages.len() * PAGE < self.len + tokens {
            self.pages.push(vec![0.0; page]);
        }
    }

    pub(super) const fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Stores one token's keys and values, all heads in turn.
    pub(super) fn write(&mut self, layer: usize, position: usize, key: &[f32], value: &[f32]) {
        let d = self.head_dim;
        let slot = position % PAGE;
        for head in 0..self.heads {
            for (kind, source) in [key, value].into_iter().enumerate() {
                let at = self.offset(layer, kind, head) + slot * d;
                self.pages[position / PAGE][at..at + d]
                    .copy_from_slice(&source[head * d..(head + 1) * d]);
            }
        }
    }

    /// One head's keys and values, a page at a time: `PAGE` rows of `head_dim` each.
    pub(super) fn head(
        &self,
        layer: usize,
        head: usize,
    ) -> impl Iterator<Item = (&[f32], &[f32])> + Clone {
        let len = PAGE * self.head_dim;
        let (keys, values) = (self.offset(layer, 0, head), self.offset(layer, 1, head));
        self.pages
            .iter()
            .map(move |page| (&page[keys..keys + len], &page[values..values + len]))
    }

    const fn offset(&self, layer: usize, kind: usize, head: usize) -> usize {
        ((layer * 2 + kind) * self.heads + head) * PAGE * self.head_dim
    }
}
