//! What was got.

use super::wish::{Part, Wish};

/// A layer, after the process was confined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// It holds.
    On {
        /// What is refused, or for capabilities what is kept.
        what: Vec<String>,
        /// What this kernel or this place could not give, for people; empty where nothing lacks.
        lacks: Vec<String>,
    },
    /// Nobody asked for it.
    Off,
    /// It could not be had.
    Missing(String),
}

/// What a process has given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confinement {
    /// What was asked for.
    pub wish: Wish,
    /// Which capabilities are kept.
    pub capabilities: Layer,
    /// Which system calls are refused.
    pub seccomp: Layer,
    /// What Landlock refuses.
    pub landlock: Layer,
    /// Version of Landlock's interface, where there is one.
    pub landlock_version: Option<u32>,
}

impl Confinement {
    /// The layers with their names.
    pub fn layers(&self) -> [(Part, &Layer); 3] {
        [
            (Part::Capabilities, &self.capabilities),
            (Part::Seccomp, &self.seccomp),
            (Part::Landlock, &self.landlock),
        ]
    }

    /// What was asked for and is not there, one line each.
    pub fn lacks(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (part, layer) in self.layers() {
            match layer {
                Layer::On { lacks, .. } => {
                    lines.extend(lacks.iter().map(|lack| format!("{}: {lack}", part.name())));
                }
                Layer::Off => {}
                Layer::Missing(why) => lines.push(format!("{}: {why}", part.name())),
            }
        }
        lines
    }
}

/// Why a process is not confined as it was to be. It has perhaps lost something already, and is to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Other threads run, which would stay as they are. Nothing was given up.
    #[error("cannot confine a process of {0} threads, the others would stay as they are")]
    Threads(usize),
    /// A call failed that every kernel has.
    #[error("cannot {operation}; `--confine=no` does without")]
    Call {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// Layers that were asked for are missing.
    #[error(
        "--confine={wish}, and this cannot be had: {}; `--confine=auto` takes what there is",
        .missing.join("; ")
    )]
    Missing {
        /// What was asked for.
        wish: Wish,
        /// One line for each.
        missing: Vec<String>,
    },
}
