//! Words of the command line and of `-o`.

use std::path::Path;

use doppelfs::config::{
    MountOptions, Settings, TargetOptions, parse_bytes, parse_duration, parse_percent,
    parse_switch, split_options,
};
use doppelfs::types::SetName;
use doppelfs::wire::TargetAddr;

/// A text in each of its roles.
pub fn options(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    drop(parse_bytes("key", text));
    drop(parse_duration("key", text));
    drop(parse_percent("key", text));
    drop(parse_switch("key", text));
    if let Ok(name) = SetName::new(text) {
        assert!(!name.as_str().contains('/') && !name.as_str().starts_with('.'));
    }
    address(text);
    if let Ok(options) = TargetOptions::new(Some(text), None, None, None, true) {
        assert!(options.listen.ip().is_loopback());
    }
    drop(split_options(text));
    let mut settings = Settings::default();
    if settings.add_options(text).is_err() {
        return;
    }
    if let Ok(options) = MountOptions::new(Path::new("/srv/data"), None, &settings) {
        assert!(options.state_dir.is_absolute() && options.queue_dir.is_absolute());
        let is_near = options.targets.iter().all(TargetAddr::is_loopback);
        assert!(is_near || !options.insecure_loopback);
        drop(options.remap_from());
    }
}

fn address(text: &str) {
    let Ok(address) = text.parse::<TargetAddr>() else {
        return;
    };
    if let Some(path) = &address.path {
        let fine = |part: &str| !part.is_empty() && part != "." && part != "..";
        assert!(
            path.split('/').all(fine) && !path.contains('\0'),
            "{path:?}"
        );
    }
    let shown = address.to_string();
    assert_eq!(shown.parse().as_ref(), Ok(&address), "shown as {shown:?}");
}
