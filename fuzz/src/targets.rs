//! What is fuzzed: one function a decoder, with bytes that it takes.

use polymath_types::{AnchorList, ExpertCard, Genesis, Invite};

use crate::chunks;

pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Panics where something is wrong.
    pub(crate) run: fn(&[u8]),
    /// Golden files to begin with, below `crates/`.
    pub(crate) golden: &'static [&'static str],
    /// The same, here.
    pub(crate) seeds: &'static [&'static [u8]],
}

pub(crate) const TARGETS: [Target; 20] = [
    Target {
        name: "frames",
        run: polymath_rpc::fuzz::frames,
        golden: &[
            "rpc/tests/golden/call_frames_v1.bin",
            "rpc/tests/golden/reply_frames_v1.bin",
        ],
        seeds: &[&[6, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0, 0, 0, 0]],
    },
    Target {
        name: "lane",
        run: polymath_rpc::fuzz::lane,
        golden: &["rpc/tests/golden/call_frames_v1.bin"],
        seeds: &[&[6, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 1, 7, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 9]],
    },
    Target {
        name: "server",
        run: polymath_rpc::fuzz::server,
        golden: &["rpc/tests/golden/call_frames_v1.bin"],
        seeds: &[
            b"\x01\0\0\x02\0\0\0\0\x08\x01\x02\0\0\x1b\0\0\0\x01\x0a\x19/polymath.v1.Echo/Collect\
              \x04\0\0\x08\0\0\0\x01\0\0\0\0\x03\x0a\x01x\x84\0\0\x07\0\0\0\x01\0\0\0\0\x02\x20\x05",
            b"\x01\0\0\x02\0\0\0\0\x08\x01\x02\0\0\x1a\0\0\0\x02\x0a\x18/polymath.v1.Echo/Repeat\
              \x84\0\0\x0a\0\0\0\x02\0\0\0\0\x05\x0a\x01x\x18\x05\x07\0\0\x04\0\0\0\x02\0\0\0\x06",
            b"\x01\0\0\x02\0\0\0\0\x08\x01\x02\0\0\x18\0\0\0\x03\x0a\x16/polymath.v1.Echo/Both\
              \x04\0\0\x08\0\0\0\x03\0\0\0\0\x03\x0a\x01x\x06\0\0\x04\0\0\0\x03\0\0\0\x01",
        ],
    },
    Target {
        name: "requests",
        run: polymath_rpc::fuzz::requests,
        golden: &[],
        seeds: &[
            b"\x08\x01\x12\x04abcd\x1a\x01r\x22\x06\x08\x02\x12\x02hi\x2a\x14\x08\x05\x11\0\0\0\0\0\0\xe0\x3f\x20\x05\x28\x07\x32\x02\x0a\x0a\x32\x03\x01\x02\x03\x40\x05",
            b"\x1a\x0e\x08\x01\x12\x04\x08\x02\x10\x03\x1a\x04\x08\x01\x10\x02",
        ],
    },
    Target {
        name: "timeout",
        run: polymath_rpc::fuzz::timeout,
        golden: &[],
        seeds: &[b"99999999H", b"1M", b"1S", b"1m", b"1u", b"1n"],
    },
    Target {
        name: "change",
        run: polymath_catalog::fuzz::change,
        golden: &[
            "catalog/tests/golden/sync_frame_v4.bin",
            "catalog/tests/golden/charter_frame_v4.bin",
        ],
        seeds: &[b"\x85\x6f\x4a\x83\0\0\0\0\x01\x10"],
    },
    Target {
        name: "short_change",
        run: polymath_catalog::fuzz::short_change,
        golden: &["catalog/tests/golden/short_frame_v4.bin"],
        seeds: &[b"\xff\x1f\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01"],
    },
    Target {
        name: "scratch_apply",
        run: |bytes| polymath_catalog::fuzz::scratch_apply(&chunks::find(bytes)),
        golden: &[
            "catalog/tests/golden/sync_frame_v4.bin",
            "catalog/tests/golden/charter_frame_v4.bin",
            "catalog/tests/golden/observations_frame_v4.bin",
        ],
        seeds: &[],
    },
    Target {
        name: "sync_frame",
        run: polymath_catalog::fuzz::sync_frame,
        golden: &[
            "catalog/tests/golden/sync_frame_v4.bin",
            "catalog/tests/golden/charter_frame_v4.bin",
            "catalog/tests/golden/observations_frame_v4.bin",
            "catalog/tests/golden/short_frame_v4.bin",
        ],
        seeds: &[],
    },
    Target {
        name: "live_frame",
        run: polymath_catalog::fuzz::live_frame,
        golden: &["catalog/tests/golden/live_frame_v1.bin"],
        seeds: &[],
    },
    Target {
        name: "hello",
        run: polymath_net::fuzz::hello,
        golden: &["types/tests/golden/genesis_v1.json"],
        seeds: &[&[0, 0, 0, 1, 0, 0, 0, 2, b'{', b'}', 0, 1, b'x']],
    },
    Target {
        name: "door",
        run: polymath_net::fuzz::door,
        golden: &[],
        seeds: &[
            b"\0\x22\x01\x010123456789abcdef0123456789abcdef",
            b"\0\x65\x01\x020123456789abcdef0123456789abcdef0123456789abcdef\0\0\0\0\0\0\0\x0a\0\0\0\x01\
              \0\x24\x08\x01\x12\x20\x36\xa0\x97\xd1\x8c\x1d\x26\x4b\x3c\x5f\x60\x71\x82\x93\xa4\xb5\xc6\xd7\xe8\xf9\x0a\x1b\x2c\x3d\x4e\x5f\x60",
            b"\0\x22\x01\x000123456789abcdef0123456789abcdef",
            b"\0\x02\x01\x05",
        ],
    },
    Target {
        name: "bulk_head",
        run: polymath_net::fuzz::bulk_head,
        golden: &[],
        seeds: &[b"\x01\0\0\0\x04abcd\0\0\0\0\0\x01\0\0"],
    },
    Target {
        name: "whereabouts",
        run: polymath_net::fuzz::whereabouts,
        golden: &[],
        seeds: &[&[
            10, 8, 4, 127, 0, 0, 1, 6, 15, 161, 18, 11, 4, 127, 0, 0, 1, 145, 2, 15, 161, 205, 3,
        ]],
    },
    Target {
        name: "dial_back",
        run: polymath_net::fuzz::dial_back,
        golden: &[],
        seeds: &[&[4, 10, 2, 8, 1], &[2, 26, 0]],
    },
    Target {
        name: "announcement",
        run: polymath_net::fuzz::announcement,
        golden: &[],
        seeds: &[b"mesh=aaaaaaaaaaaaaaaa\npeer=12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA\na0=/ip4/192.0.2.1/tcp/4001"],
    },
    Target {
        name: "invite",
        run: |bytes| {
            if let Ok(text) = std::str::from_utf8(bytes) {
                let _ = text.parse::<Invite>();
            }
        },
        golden: &["types/tests/golden/invite_v1.txt"],
        seeds: &[],
    },
    Target {
        name: "anchors",
        run: |bytes| {
            let _ = AnchorList::from_bytes(bytes);
        },
        golden: &["types/tests/golden/anchors_v1.json"],
        seeds: &[],
    },
    Target {
        name: "genesis",
        run: |bytes| {
            if let Ok(genesis) = Genesis::from_bytes(bytes) {
                // Canonical: what was read is what would be written.
                assert_eq!(genesis.to_bytes(), bytes);
            }
        },
        golden: &[
            "types/tests/golden/genesis_v1.json",
            "types/tests/golden/genesis_closed_v1.json",
        ],
        seeds: &[],
    },
    Target {
        name: "card",
        run: |bytes| {
            let _ = ExpertCard::from_bytes(bytes);
        },
        golden: &["types/tests/golden/card_v1.json"],
        seeds: &[],
    },
];
