//! Signed Automerge documents, anti-entropy, the routing index; sans-IO
