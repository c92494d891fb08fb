//! What `status --json` says, as far as tests ask.

use serde_json::Value;

/// A set.
#[derive(Debug, Clone)]
pub(crate) struct SetView(pub(crate) Value);

/// One connection of a set.
#[derive(Debug, Clone)]
pub(crate) struct Connection(pub(crate) Value);

/// One stream of a target.
#[derive(Debug, Clone)]
pub(crate) struct StreamView(pub(crate) Value);

fn number(value: &Value, path: &str) -> u64 {
    let found = value.pointer(path).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("no number {path} in {value}"))
}

fn text(value: &Value, path: &str) -> String {
    let found = value.pointer(path).and_then(Value::as_str);
    found
        .unwrap_or_else(|| panic!("no text {path} in {value}"))
        .to_owned()
}

impl SetView {
    /// The text at a JSON pointer.
    pub(crate) fn text(&self, path: &str) -> String {
        text(&self.0, path)
    }

    pub(crate) fn state(&self) -> String {
        text(&self.0, "/state")
    }

    pub(crate) fn captured_seq(&self) -> u64 {
        number(&self.0, "/captured_seq")
    }

    pub(crate) fn worker_pid(&self) -> u64 {
        number(&self.0, "/worker_pid")
    }

    /// Worker and supervisor, those that there are.
    pub(crate) fn pids(&self) -> Vec<u64> {
        let pids = ["/worker_pid", "/supervisor_pid"].map(|path| number(&self.0, path));
        pids.into_iter().filter(|&pid| pid > 1).collect()
    }

    /// A number of the kernel's: `nodes`, `lookups`, `lookups_unknown`, `open_files`, `open_dirs`.
    pub(crate) fn kernel(&self, what: &str) -> u64 {
        number(&self.0, &format!("/kernel/{what}"))
    }

    /// Whose positions they are.
    pub(crate) fn history(&self) -> String {
        text(&self.0, "/history")
    }

    /// What was in doubt when it was mounted.
    pub(crate) fn resync(&self) -> doppelfs::control::status::ResyncStatus {
        let told = self.0.get("resync").cloned().unwrap_or_default();
        serde_json::from_value(told).expect("the resync of a set")
    }

    pub(crate) fn queue_ops(&self) -> u64 {
        number(&self.0, "/queue/ops")
    }

    pub(crate) fn queue_disk_bytes(&self) -> u64 {
        number(&self.0, "/queue/disk_bytes")
    }

    pub(crate) fn connection(&self) -> Connection {
        let first = self.0.pointer("/connections/0").cloned();
        Connection(first.unwrap_or_else(|| panic!("no connection in {}", self.0)))
    }

    /// What it says the administrator should know.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let all = self.0.pointer("/warnings").and_then(Value::as_array);
        let all = all.unwrap_or_else(|| panic!("no warnings in {}", self.0));
        all.iter()
            .map(|warning| warning.as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Everything that it says is wrong, in lower case.
    pub(crate) fn complaints(&self) -> String {
        let of_connection = self
            .0
            .pointer("/connections/0/error")
            .and_then(Value::as_str);
        let of_set = self.0.pointer("/error").and_then(Value::as_str);
        let all = format!(
            "{} {}",
            of_set.unwrap_or_default(),
            of_connection.unwrap_or_default()
        );
        all.trim().to_lowercase()
    }
}

impl Connection {
    pub(crate) fn data_state(&self) -> String {
        text(&self.0, "/data_state")
    }

    pub(crate) fn target_state(&self) -> String {
        text(&self.0, "/target_state")
    }

    pub(crate) fn mirror_state(&self) -> String {
        text(&self.0, "/mirror/state")
    }

    pub(crate) fn mirror_bytes(&self) -> u64 {
        number(&self.0, "/mirror_bytes")
    }

    /// The watermarks, which must not rise from left to right: sent, received, applied, durable.
    pub(crate) fn marks(&self) -> [u64; 4] {
        ["/sent_seq", "/received_seq", "/applied_seq", "/durable_seq"]
            .map(|path| number(&self.0, path))
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.0.get("connected_since").is_some_and(|v| !v.is_null())
    }
}

impl StreamView {
    /// The number at a JSON pointer.
    pub(crate) fn number(&self, path: &str) -> u64 {
        number(&self.0, path)
    }

    /// The text at a JSON pointer.
    pub(crate) fn text(&self, path: &str) -> String {
        text(&self.0, path)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.0
            .get("connected")
            .and_then(Value::as_bool)
            .unwrap_or(true)
    }

    /// Whose positions they are.
    pub(crate) fn history(&self) -> String {
        text(&self.0, "/history")
    }

    /// Does it hold what it has received, until a mirror is there in whole?
    pub(crate) fn is_staged(&self) -> bool {
        self.0.pointer("/staged").and_then(Value::as_bool) == Some(true)
    }

    pub(crate) fn data_state(&self) -> String {
        text(&self.0, "/data_state")
    }

    /// (received, applied).
    pub(crate) fn positions(&self) -> (u64, u64) {
        (
            number(&self.0, "/received_seq"),
            number(&self.0, "/applied_seq"),
        )
    }
}
