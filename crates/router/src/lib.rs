//! Which expert, which replica, what next; sans-IO
