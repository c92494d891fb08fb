//! The ordered durable queue of records: append, read by cursor, trim, recover.

mod append;
mod core;
mod cursor;
mod error;
mod facts;
mod flush;
mod index;
mod reader;
mod recovery;
mod repair;
mod scan;
mod segment;
mod space;
mod survey;
mod trim;

pub use self::core::{CatalogueEntry, Journal, Options, SealedEnd, Usage};
pub use error::{Damage, Error};
pub use reader::Reader;
pub use recovery::Recovery;
