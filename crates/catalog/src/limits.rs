//! Every bound of the catalog, in one place.

/// Largest frame sent, and largest accepted, bytes encoded.
pub const FRAME_BYTES: usize = 256 * 1024;
/// Heads in one frame.
pub(crate) const HEADS_PAGE: usize = 2048;
/// A table of so few documents is told as it is: that costs no more than its digest, and saves a
/// round trip.
pub(crate) const FEW_HEADS: usize = 32;
/// Peers to which a change is passed on when it comes first. At random three each reach 94 % of a mesh
/// (the fixed point of r = 1 - exp(-3 r)).
pub(crate) const PUSHES: usize = 3;
/// Peers that are told of it, in a quarter of the bytes, when it comes for the second time: by then most
/// know it, and whoever does not asks. Together six reach 99.7 % at once, and the next digests the rest.
pub(crate) const TOLD: usize = 3;
/// Changes that may come for the second time; the oldest give way.
pub(crate) const PUSHED: usize = 4096;
/// Ticks in which they may: that of the first time counts.
pub(crate) const PUSHED_TICKS: u64 = 2;
/// Peers to which heads are told that came in answers.
pub(crate) const ANNOUNCED: usize = 5;
/// Peers remembered to have said that they know what another one was asked for.
pub(crate) const CLAIMANTS: usize = 64;
/// Entries of each kind in one `Want`.
pub(crate) const WANT_ENTRIES: usize = 2048;
/// What a peer is answered with in one tick at most; the rest follows in the next ones.
pub(crate) const ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// Peers that may be owed all of both tables at once; if more are connected each has its part.
pub(crate) const OWED_SHARES: usize = 8;
/// What a peer may cost without bringing anything new, in about a microsecond each: without a pause,
/// and a tick in the long run.
pub(crate) const EFFORT_BURST: u32 = 65_536;
pub(crate) const EFFORT_A_TICK: u32 = 8192;
/// What a peer's news may cost, in about a microsecond each: without a pause, and a tick.
pub(crate) const WORK: [u32; 2] = [8_000_000, 600_000];
/// What a change costs that is applied, and one more for so many bytes of what its document says: a copy of it is
/// changed and read. Measured: 2 ms for an offer of 64 experts.
pub(crate) const APPLIED: u32 = 100;
pub(crate) const APPLIED_BYTES: u32 = 20;
/// Operations in the history of a live document that cost nothing beyond that: honest offers have fewer. Of more
/// each costs a third of a microsecond, and one and a half where the document must be replayed. Measured.
pub(crate) const FREE_OPERATIONS: u64 = 512;
/// Bytes of a record that are written for the cost of a microsecond.
pub(crate) const WRITTEN_BYTES: usize = 64;
/// What a document says, bytes in memory, to each byte of its change: about seven, measured.
pub(crate) const SAID_OF_CHANGE: usize = 8;
/// Bytes of one peer's news that are passed on, to each of a few: without a pause, and a tick. What is above them
/// the digests bring. What they cost counts too: whoever passes on all that a stranger may cost pays for it itself,
/// and has nothing left for news of others.
pub(crate) const NEWS_BYTES: [u32; 2] = [4 << 20, 256 * 1024];
/// Bytes for which a microsecond of work counts there: a fifth of what a peer may cost is passed on.
pub(crate) const WORK_AS_BYTES: u32 = 2;
/// Changes of one author that are applied a tick in the long run; a whole epoch without a pause.
pub(crate) const APPLIED_A_TICK: u32 = 8;
/// What an expert that an offer lists costs in memory, in the document, in the index and as a card that is missed,
/// bytes; and a cell of observations, with what is weighed of it. The bounds on bytes count them.
pub(crate) const EXPERT_BYTES: usize = 512;
pub(crate) const CELL_BYTES: usize = 32;
/// Proven faults after which a peer's stream is closed, and no other one of it is listened to.
pub(crate) const STRIKES: u32 = 32;
/// Different changes signed by an author that no offer can contain, after which its offer is dropped.
pub(crate) const POISONS: usize = 8;
/// Ticks without another fault after which both are forgiven.
pub(crate) const FORGIVEN_TICKS: u64 = 120;
/// Peers and authors whose faults are remembered.
pub(crate) const CONDUCTS: usize = 1024;
/// Ticks after which an unanswered question may be put to another peer.
pub(crate) const ASK_TICKS: u64 = 2;
/// Ticks for which a question that is out to a peer that left one unanswered may be put to others.
pub(crate) const DOUBT_TICKS: u64 = 20;
/// The same for one that does so again and again: each time twice as long, up to this.
pub(crate) const LONGEST_DOUBT_TICKS: u64 = 64 * DOUBT_TICKS;
/// Times a peer's stream may end with open questions within [`DOUBT_TICKS`]: a path that becomes a better one,
/// and once more.
pub(crate) const PASSED_OVER: u32 = 3;
/// Such peers remembered, connected or not.
pub(crate) const DOUBTED_PEERS: usize = 1024;
/// Times the record of an author may be written without a pause: a node's start changes its offer
/// with every expert that is loaded.
pub(crate) const CHANGE_BURST: u32 = 32;
/// Times the record of an author may be written a tick in the long run.
pub(crate) const CHANGES_A_TICK: u32 = 4;
/// How many epochs an owner may have begun before [`EPOCHS_SINCE`], and how far clocks may differ, seconds.
const EPOCHS_AHEAD: u64 = 1 << 20;
/// From when on there is one more epoch each second: 2026-01-01, Unix seconds.
const EPOCHS_SINCE: u64 = 1_767_225_600;

/// The highest epoch there can be at `unix` seconds. Who once had an owner's key can use up those until now, and
/// no more: then the owner begins the next, and newcomers take it as well as those who know the owner. What was
/// signed in advance for later epochs comes true as these do; such a key is lost, as any that another one holds.
pub(crate) const fn latest_epoch(unix: u64) -> u64 {
    unix.saturating_sub(EPOCHS_SINCE)
        .saturating_add(EPOCHS_AHEAD)
}

/// What one peer may bring of a full table: the whole divided by this.
pub(crate) const SHARES: u128 = 16;
/// Authors, or cards, that give way in one tick at most, out of each pot and to what one peer brings.
pub(crate) const EVICTIONS: usize = 64;
pub(crate) const EVICTIONS_A_PEER: usize = 8;
/// Ticks for which an author that gave way is asked for only if its offer has changed since.
pub(crate) const FORGOTTEN_TICKS: u64 = 120;
/// Ticks after which the record of an author that is connected says anew when it was seen.
pub(crate) const NOTED_TICKS: u64 = 120;
/// Such records written a tick.
pub(crate) const NOTES_A_TICK: usize = 16;
/// Missing cards asked for in one tick, of others than those whose own offers name them.
pub(crate) const MISSING_A_TICK: usize = 4096;
/// Peers remembered as waiting for one card that is itself still on its way.
pub(crate) const CARD_WAITERS: usize = 32;
/// Cards for which one peer is remembered as waiting, and all peers together.
pub(crate) const CARD_WAITS: usize = 512;
pub(crate) const ALL_CARD_WAITS: usize = 8192;
/// Documents kept live; a live one costs about 20 KB, all others are kept as signed changes.
pub(crate) const HOT_DOCUMENTS: usize = 16;

/// Bounds on charter documents. They are the same on all nodes: what counts must not depend on settings.
pub(crate) struct CharterLimits {
    /// Admins, those who resigned included.
    pub(crate) admins: usize,
    /// Entries in one document, those that say nothing included.
    pub(crate) entries: usize,
    /// Experts of a category.
    pub(crate) experts: usize,
    /// A role's name, bytes.
    pub(crate) role_bytes: usize,
    /// A name of an alias, a category, a codebook, bytes.
    pub(crate) name_bytes: usize,
    /// An expert's id or name, bytes.
    pub(crate) expert_bytes: usize,
    /// The highest count: what fits a JSON number.
    pub(crate) last_count: u64,
    pub(crate) document_bytes: usize,
    pub(crate) change_bytes: usize,
    pub(crate) operations: u64,
    /// Times a record may be written without a pause, and a tick. Admins are few, and a revocation
    /// must not wait behind their other changes.
    pub(crate) burst: u32,
    pub(crate) changes_a_tick: u32,
}

pub(crate) const CHARTER: CharterLimits = CharterLimits {
    admins: 64,
    entries: 512,
    experts: 16,
    role_bytes: 32,
    name_bytes: 64,
    expert_bytes: 128,
    last_count: (1 << 53) - 1,
    document_bytes: 256 * 1024,
    change_bytes: 128 * 1024,
    operations: 4096,
    burst: 512,
    changes_a_tick: 64,
};

/// What an admin leaves free of its own document: so many entries for roles, and as many again for what
/// takes rights away.
pub(crate) struct CharterReserve {
    pub(crate) entries: usize,
    /// What such an entry takes at most: a peer id, a role, two numbers, and what refers to them.
    pub(crate) entry_bytes: usize,
    pub(crate) entry_operations: u64,
}

pub(crate) const CHARTER_RESERVE: CharterReserve = CharterReserve {
    entries: 64,
    entry_bytes: 160,
    entry_operations: 5,
};

/// Bounds on observations documents. They are the same on all nodes: what one refuses others would
/// pass on.
pub(crate) struct ObservationLimits {
    /// Cells in one document: 64 experts in 32 clusters.
    pub(crate) cells: usize,
    /// Experts in it, of all codebooks together.
    pub(crate) experts: usize,
    pub(crate) codebooks: usize,
    /// Clusters are numbered below this.
    pub(crate) clusters: u16,
    pub(crate) document_bytes: usize,
    pub(crate) change_bytes: usize,
    /// A count and a reward a cell, all of them replaced, and the maps around them.
    pub(crate) operations: u64,
    pub(crate) roll_after: usize,
    pub(crate) changes_per_epoch: usize,
    /// Changes without a pause, and ticks a change in the long run: they are slow data.
    pub(crate) burst: u32,
    pub(crate) ticks_a_change: u32,
}

pub(crate) const OBSERVED: ObservationLimits = ObservationLimits {
    cells: 2048,
    experts: 256,
    codebooks: 8,
    clusters: 1024,
    document_bytes: 192 * 1024,
    change_bytes: 96 * 1024,
    operations: 8192,
    roll_after: 16,
    changes_per_epoch: 64,
    burst: 4,
    ticks_a_change: 8,
};

/// Outcomes below which a cell is told to nobody: what one person asked must not be seen in it. A cell
/// that was told changes by as many.
pub const OBSERVED_LEAST: u32 = 5;
/// Cells that are told no longer whose last told outcomes are remembered.
pub(crate) const UNTOLD: usize = 2 * OBSERVED.cells;
/// Codebooks whose observations are weighed.
pub(crate) const CODEBOOKS: usize = 8;
/// Observers who are weighed again in one tick.
pub(crate) const REWEIGHED_A_TICK: usize = 256;
/// Ticks between two comparisons of observations with a peer.
pub(crate) const OBSERVED_TICKS: u64 = 4;

/// What the catalog keeps and accepts at most. All nodes of a mesh should hold the same limits on
/// a single document (the last seven), else some refuse what others pass on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogLimits {
    /// Authors whose offers are kept; this node's own is kept in any case.
    pub authors: usize,
    /// Bytes of signed changes kept, all authors together.
    pub offer_bytes: usize,
    /// Authors whose observations are kept; this node's own are kept in any case.
    pub observers: usize,
    /// Bytes of signed changes of observations kept, all authors together.
    pub observation_bytes: usize,
    /// Cards kept.
    pub cards: usize,
    /// Bytes of cards kept.
    pub card_bytes: usize,
    /// Peers connected at once.
    pub peers: usize,
    /// Own changes after which a fresh document (epoch + 1) is started from live state.
    pub roll_after: usize,
    /// Changes of one epoch that are accepted from an author.
    pub changes_per_epoch: usize,
    /// Bytes of all changes of one epoch.
    pub document_bytes: usize,
    /// Bytes of one change.
    pub change_bytes: usize,
    /// Operations in one change.
    pub operations: u64,
    /// Addresses in an offer, each at most 256 bytes.
    pub addresses: usize,
    /// Experts in an offer.
    pub experts: usize,
}

impl CatalogLimits {
    /// One address, bytes.
    pub const ADDRESS_BYTES: usize = 256;
    /// Software name and version, bytes.
    pub const AGENT_BYTES: usize = 128;
    /// Labels of a peer.
    pub const LABELS: usize = 16;
    /// A label's key and its value, bytes.
    pub const LABEL_BYTES: (usize, usize) = (32, 64);
}

impl Default for CatalogLimits {
    fn default() -> Self {
        Self {
            authors: 16_384,
            offer_bytes: 64 << 20,
            observers: 16_384,
            observation_bytes: 48 << 20,
            cards: 65_536,
            card_bytes: 64 << 20,
            peers: 1024,
            roll_after: 64,
            changes_per_epoch: 256,
            document_bytes: 128 * 1024,
            change_bytes: 32 * 1024,
            operations: 1024,
            addresses: 16,
            experts: 64,
        }
    }
}
