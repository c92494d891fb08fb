//! Opening a stream's applier on its replica.

use std::sync::Arc;

use tracing::info;

use crate::applier::{self, Applier, Backlog, FsReplica, Metered, Replica as _, Withholding};
use crate::types::History;

use super::error::Error;
use super::site::{self, Ask, Missing};
use super::stream::Stream;

/// The applier of a stream: on a real file system, by the terms of its source.
pub(super) type StreamApplier = Applier<Metered<Withholding<FsReplica>>>;

/// An applier that was opened.
pub(super) struct Opened {
    pub(super) applier: StreamApplier,
    /// Journal and map belong together.
    pub(super) settled: bool,
}

/// Finds the replica and opens the applier; what a crash left is redone here.
pub(super) fn open(stream: &Arc<Stream>) -> Result<Opened, Error> {
    let record = stream.record();
    let set = &record.set;
    let names = site::components(&record.source, set, Some(&record.path))?;
    let site = site::settle(
        &names,
        Ask {
            root: &stream.places.root,
            place: None,
            missing: Missing::Fail,
            hidden: &stream.places.hidden,
        },
    )?;
    let failed = |source| Error::Applier { source };
    let replica = FsReplica::open(site.replica, site.hidden).map_err(failed)?;
    let lease = &stream.places.lease;
    let counting = |source| {
        failed(applier::Error::Open {
            operation: "count what is used in",
            path: stream.places.root.join(&record.path),
            source,
        })
    };
    let replica = Withholding::new(replica, lease.clone()).map_err(counting)?;
    let mut replica = Metered::new(replica, lease.clone()).map_err(counting)?;
    replica.set_remap(record.remap.clone());
    let (state, table) = (stream.applier_dir()?, stream.table_dir()?);
    let journal = &stream.journal;
    let history = record.history.filter(|_| record.settled).map(History);
    let backlog = Backlog {
        history,
        end: journal.end(),
        after: Box::new(|seq| {
            let mut reader = journal.reader(seq)?;
            let frames = std::iter::from_fn(move || reader.next().map_err(Into::into).transpose());
            Ok(Box::new(frames))
        }),
    };
    let (applier, recovered) = Applier::open(replica, &state, &table, backlog).map_err(failed)?;
    info!(stream = stream.number, ?recovered, "applier opened");
    Ok(Opened {
        applier,
        settled: record.settled,
    })
}
