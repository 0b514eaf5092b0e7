//! Real nodes in one process, for tests
