//! How much confinement is asked for.

use std::fmt;
use std::str::FromStr;

/// A layer that can be asked for alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Capabilities are dropped.
    Capabilities,
    /// System calls are refused.
    Seccomp,
    /// Landlock.
    Landlock,
}

impl Part {
    /// All, in the order in which they are shown.
    pub const ALL: [Part; 3] = [Part::Capabilities, Part::Seccomp, Part::Landlock];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Part::Capabilities => "capabilities",
            Part::Seccomp => "seccomp",
            Part::Landlock => "landlock",
        }
    }
}

/// How much confinement is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Wish {
    /// What the kernel has.
    #[default]
    Auto,
    /// None.
    No,
    /// All of it, or the process does not start.
    Required,
    /// These layers, or the process does not start; not the others.
    Only(Vec<Part>),
}

/// What is no wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("auto, no, required, or some of capabilities,seccomp,landlock")]
pub struct WishError;

impl FromStr for Wish {
    type Err = WishError;

    fn from_str(text: &str) -> Result<Wish, WishError> {
        match text {
            "auto" => return Ok(Wish::Auto),
            "no" => return Ok(Wish::No),
            "required" => return Ok(Wish::Required),
            _ => {}
        }
        let part = |name: &str| Part::ALL.into_iter().find(|part| part.name() == name);
        let parts: Option<Vec<Part>> = text.split(',').map(part).collect();
        let mut parts = parts.ok_or(WishError)?;
        parts.sort_unstable();
        parts.dedup();
        Ok(Wish::Only(parts))
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wish::Auto => f.write_str("auto"),
            Wish::No => f.write_str("no"),
            Wish::Required => f.write_str("required"),
            Wish::Only(parts) => {
                let names: Vec<&str> = parts.iter().map(|part| part.name()).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl Wish {
    /// Is this layer asked for?
    pub fn wants(&self, part: Part) -> bool {
        match self {
            Wish::Auto | Wish::Required => true,
            Wish::No => false,
            Wish::Only(parts) => parts.contains(&part),
        }
    }

    /// Is a layer that is asked for and missing an error?
    pub fn insists(&self) -> bool {
        match self {
            Wish::Auto | Wish::No => false,
            Wish::Required | Wish::Only(_) => true,
        }
    }
}
