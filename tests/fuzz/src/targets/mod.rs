//! One function for each door that takes bytes from outside. It takes any bytes and returns, or there is
//! a finding; what must hold of an answer is asserted here, too.
//!
//! Compiled twice: for the fuzzer, and into `tests/it`, which runs the inputs that are checked in.

mod applier;
mod control;
mod disk;
mod draw;
mod frame;
mod options;
mod pairing;
mod session;
mod texts;
mod tree;
mod wire;

/// A target by its name.
#[derive(Clone, Copy)]
pub struct Target {
    /// As `scripts/fuzz` and the directories of inputs call it.
    pub name: &'static str,
    /// Takes one input.
    pub run: fn(&[u8]),
}

/// All of them, in the order in which they run.
pub const ALL: [Target; 11] = [
    target("frame", frame::frame),
    target("body", frame::body),
    target("wire", wire::stream),
    target("batch", wire::batch),
    target("session", session::session),
    target("control", control::control),
    target("options", options::options),
    target("pairing", pairing::pairing),
    target("texts", texts::texts),
    target("disk", disk::disk),
    target("applier", applier::applier),
];

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}
