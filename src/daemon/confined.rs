//! The confinement of the target: where, what is logged of it, and how `status` shows it.

use std::path::Path;

use tracing::{info, warn};

use crate::config::TargetOptions;
use crate::confine::{self, Confinement, Layer, Places};
use crate::control::status::{ConfinementStatus, LayerState};

/// Confines this process, which has one thread and all that it needs. `tables` is the directory of the
/// receiver's tables.
pub(super) fn confine_target(
    options: &TargetOptions,
    tables: &Path,
) -> Result<Confinement, confine::Error> {
    let places = Places {
        root: &options.root,
        own: &[&options.state_dir, &options.run_dir, tables],
    };
    let got = confine::confine(&options.confine, &places)?;
    for lack in got.lacks() {
        warn!(%lack, "the target is confined less than it could be");
    }
    info!(asked = %got.wish, "confined; `doppelfs status` shows how");
    Ok(got)
}

fn state(layer: &Layer) -> LayerState {
    match layer {
        Layer::On { .. } => LayerState::On,
        Layer::Off => LayerState::Off,
        Layer::Missing(_) => LayerState::Missing,
    }
}

fn what(layer: &Layer) -> Vec<String> {
    match layer {
        Layer::On { what, .. } => what.clone(),
        Layer::Off | Layer::Missing(_) => Vec::new(),
    }
}

/// As `status` shows it.
pub(super) fn shown(got: &Confinement) -> ConfinementStatus {
    ConfinementStatus {
        asked: got.wish.to_string(),
        capabilities: state(&got.capabilities),
        capabilities_kept: what(&got.capabilities),
        seccomp: state(&got.seccomp),
        landlock: state(&got.landlock),
        landlock_version: got.landlock_version,
        landlock_refuses: what(&got.landlock),
        lacks: got.lacks(),
    }
}
