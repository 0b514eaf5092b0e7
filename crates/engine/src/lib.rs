//! Runs a model from verified files
