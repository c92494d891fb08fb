//! `doppelfs target serve`.

use anyhow::{Context, bail};

use super::log::start_log;
use super::run::{Entrances, Outcome};
use crate::config::{Role, StateOwner, TargetOptions, claim_state};
use crate::supervisor::Ready;

pub(super) fn serve(mut options: TargetOptions, entrances: &Entrances) -> anyhow::Result<Outcome> {
    let root = &options.root;
    let found = std::fs::metadata(root)
        .with_context(|| format!("root directory {}; create it first", root.display()))?;
    if !found.is_dir() {
        bail!(
            "root {} is not a directory; name one with --root",
            root.display()
        );
    }
    options.root = std::fs::canonicalize(root)
        .with_context(|| format!("root directory {}", root.display()))?;
    if options.state_dir.starts_with(&options.root) {
        bail!(
            "the state directory {} lies inside the root {}, among the replicas; move it with \
             --state",
            options.state_dir.display(),
            options.root.display()
        );
    }
    let owner = StateOwner::new(Role::Target, "target", &options.root);
    claim_state(&options.state_dir, &owner)?;
    start_log(None);
    (entrances.target)(options, Ready::on_stdout())?;
    Ok(Outcome::Yes)
}
