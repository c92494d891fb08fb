//! The program `doppelfs`: hands the command line to the library.

use doppelfs::cli;
use doppelfs::daemon;
use std::process::ExitCode;

fn main() -> ExitCode {
    let entrances = cli::Entrances {
        probe: daemon::probe_source,
        source: daemon::run_source,
        target: daemon::run_target,
    };
    cli::run(std::env::args_os(), &entrances)
}
