//! Content-addressed model files: manifests, sources, checksums, the store
