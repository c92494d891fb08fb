//! Rooms through their doors, without a mount.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(
    unreachable_pub,
    reason = "support is shared by the modules of one binary"
)]

mod activity;
mod activity_log;
mod alerts;
mod applier_confined;
mod applier_cuts;
mod applier_kills;
mod applier_mirror;
mod applier_model;
mod applier_quota;
mod applier_real;
mod applier_reborn;
mod applier_rig;
mod applier_rows;
mod applier_stream;
mod applier_traps;
mod applier_withheld;
mod applier_world;
mod capture;
mod capture_images;
mod capture_takeover;
mod cli_commands;
mod cli_help;
mod cli_manual;
mod cli_mount8;
mod cli_render;
mod cli_render_states;
mod cli_scratch;
mod cli_top;
mod cli_umount;
mod codec;
mod config;
mod config_files;
mod config_fstab;
mod confine;
mod confine_calls;
mod confine_child;
mod confine_parts;
mod confine_target;
#[cfg(target_arch = "x86_64")]
mod confine_traced;
mod control;
mod control_access;
mod control_filter;
mod control_http;
mod control_openapi;
mod digest_equal;
mod digest_kinds;
mod digest_walk;
mod fuzz;
mod journal_ahead;
mod journal_basic;
mod journal_full_disk;
mod journal_model;
mod journal_recovery;
mod journal_support;
mod keys;
mod link_cuts;
mod link_flow;
mod link_holds;
mod link_support;
mod live;
mod metrics;
mod mirror_asks;
#[path = "../support/openapi.rs"]
mod openapi;
mod packaging;
mod passthrough;
mod receiver_door;
mod receiver_keys;
mod receiver_pairing;
mod remap;
#[path = "../support/scratch.rs"]
mod scratch;
mod sender_effort;
mod sender_session;
mod simulation;
mod simulation_driver;
mod simulation_log;
mod simulation_mirror;
mod simulation_planted;
mod simulation_source;
mod simulation_steps;
mod simulation_target;
mod simulation_taste;
mod stats;
mod supervisor;
mod sync;
mod sys;
mod sys_hide;
mod sys_private;
mod systemd_units;
mod trees;
mod types;
mod wire_codec;
mod wire_tls;
