//! Left and right.

use std::fmt;

/// One of the two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first argument: what should be.
    Left,
    /// The second argument: what is compared with it.
    Right,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Left => "left",
            Side::Right => "right",
        })
    }
}

/// The same thing of both trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair<T> {
    pub(super) left: T,
    pub(super) right: T,
}

impl<T> Pair<T> {
    /// Makes each half by `make`.
    pub(super) fn try_of<E>(mut make: impl FnMut(Side) -> Result<T, E>) -> Result<Pair<T>, E> {
        Ok(Pair {
            left: make(Side::Left)?,
            right: make(Side::Right)?,
        })
    }

    /// The half of this side.
    pub(super) fn of(&self, side: Side) -> &T {
        match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        }
    }
}
