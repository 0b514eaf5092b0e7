//! Which methods there are, from the descriptors of `proto/polymath/v1`.

use std::{collections::HashSet, sync::LazyLock};

use polymath_proto::DESCRIPTORS;
use prost::Message as _;
use prost_types::FileDescriptorSet;

/// Whether a method takes any number of messages, by its path. One that is not known takes one.
pub(crate) fn takes_a_stream(path: &str) -> bool {
    static STREAMS: LazyLock<HashSet<String>> = LazyLock::new(|| {
        let known = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
        let mut streams = HashSet::new();
        for file in &known.file {
            for service in &file.service {
                let methods = service.method.iter().filter(|m| m.client_streaming());
                streams.extend(
                    methods.map(|m| format!("/{}.{}/{}", file.package(), service.name(), m.name())),
                );
            }
        }
        streams
    });
    STREAMS.contains(path) || path.starts_with("/grpc.reflection.")
}

#[cfg(test)]
mod tests {
    use super::takes_a_stream;

    #[test]
    fn methods_are_known_by_their_paths() {
        assert!(takes_a_stream("/polymath.v1.Catalog/Sync"));
        assert!(takes_a_stream("/polymath.v1.Echo/Collect"));
        assert!(!takes_a_stream("/polymath.v1.Expert/Generate"));
        assert!(!takes_a_stream("/polymath.v1.Echo/Repeat"));
        assert!(!takes_a_stream("/nobody/Knows"));
    }
}
