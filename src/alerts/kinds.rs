//! The table of alerts.

/// How much an alert needs somebody; the numbers are those of syslog(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Data is in danger.
    Critical = 2,
    /// It does not go on by itself, or data has gone another way than it should.
    Error = 3,
    /// It goes on, but somebody should know.
    Warning = 4,
    /// It is as it should be again, or was wanted.
    Notice = 5,
}

impl Severity {
    /// The word that lists show.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Notice => "notice",
        }
    }
}

/// Of a journal's `MESSAGE_ID`s: all but the number.
const MESSAGE_ID_BEGINNING: &str = "0d0bbe1f5a6e4c2b9a31c7d2e8f40";

macro_rules! kinds {
    ($($number:literal $variant:ident $name:literal $severity:ident, $means:literal, $todo:literal;)*) => {
        /// What can be told.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $(#[doc = $means] $variant,)*
        }

        impl Kind {
            /// All of them, by number.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),*];

            /// Its number, which never changes.
            pub fn number(self) -> u16 {
                match self { $(Kind::$variant => $number,)* }
            }

            /// Its name, which never changes.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$variant => $name,)* }
            }

            /// How much it needs somebody.
            pub fn severity(self) -> Severity {
                match self { $(Kind::$variant => Severity::$severity,)* }
            }

            /// What it means.
            pub fn means(self) -> &'static str {
                match self { $(Kind::$variant => $means,)* }
            }

            /// What to do.
            pub fn todo(self) -> &'static str {
                match self { $(Kind::$variant => $todo,)* }
            }
        }
    };
}

kinds! {
    101 ConnectionLost "connection-lost" Error,
        "The source has had no session with a target for longer than a few seconds. The queue keeps what is captured.",
        "The text says why. Check that the target runs and can be reached; the connection is made again by itself.";
    102 ConnectionBack "connection-back" Notice,
        "A session that was lost is there again.",
        "Nothing.";
    103 Paused "paused" Notice,
        "Somebody paused a connection: the replica stands, or will stand, at a mark, and the queue keeps what comes.",
        "`doppelfs resume SET` when the backup is done; watch the queue meanwhile.";
    104 Resumed "resumed" Notice,
        "A pause has ended.",
        "Nothing.";
    105 Stopped "stopped" Warning,
        "Somebody disconnected a target or stopped the replication: nothing is sent.",
        "`doppelfs connect SET` or `doppelfs replication start SET` when it is to go on.";
    106 Started "started" Notice,
        "A connection that somebody had stopped is wanted again.",
        "Nothing.";
    111 MirrorRequired "mirror-required" Warning,
        "A replica is no state of the source any more, or never was one; a mirror has to make it one.",
        "It begins by itself as soon as the target is reached. If it comes again, give the queue more room.";
    112 MirrorBegun "mirror-begun" Notice,
        "A mirror is under way; until its end the replica is no state of one moment.",
        "Nothing; `doppelfs status` shows how far it is.";
    113 MirrorDone "mirror-done" Notice,
        "The replica is a state of the source again.",
        "Nothing.";
    121 QueueFilling "queue-filling" Warning,
        "The queue has filled the share of its room that `queue-alert` names.",
        "Mend the connection or give the queue more room; when it is full, the backlog is given up for a mirror.";
    122 QueueDrained "queue-drained" Notice,
        "The queue has room again.",
        "Nothing.";
    123 BacklogGivenUp "backlog-given-up" Error,
        "The queue was full, and its backlog was given up: the targets need a mirror, which begins by itself.",
        "Give the queue more room (`queue-disk-max`, `queue-free-min`, another disk) if it comes again.";
    131 FilesInDoubt "files-in-doubt" Warning,
        "After a loss of power, or a time without a mount, files may differ from the replica and are sent again.",
        "Nothing; the set is synchronising until they have been.";
    132 NotRecorded "not-recorded" Error,
        "Operations were done and could not be recorded: the files that they concern are sent again.",
        "The text says why, most often the queue's disk. Make room or repair it.";
    141 WorkerRestarted "worker-restarted" Warning,
        "Another worker took over a set, and programs waited for a moment: the last one died or was killed, or somebody ran `doppelfs restart`.",
        "If nobody did, look into log/worker.log in the set's state directory for the reason, and report it.";
    142 SupervisorLost "supervisor-lost" Error,
        "The supervisor of a set has died: should the worker die too, the mount ends with it.",
        "Unmount the set and mount it again at a quiet moment.";
    151 StateFailing "state-failing" Critical,
        "The set's state cannot be used, and memory stands in for it: a crash now costs a full mirror.",
        "Repair the disk of the state directory; the set goes back to it by itself.";
    152 BelowFailing "below-failing" Critical,
        "The file system below could not write what programs wrote.",
        "Look into the kernel's log, repair the disk, mount the set again.";
    190 AlertsLost "alerts-lost" Warning,
        "More alerts came than could be delivered.",
        "`doppelfs status` shows how things are now.";
    201 ReplicaHeld "replica-held" Error,
        "A target cannot apply an operation, or store what comes, and tries again: the replica stands still.",
        "The text says why: a full disk, a quota, a replica changed by hand.";
    202 ReplicaGoesOn "replica-goes-on" Notice,
        "What held a replica is gone.",
        "Nothing.";
    203 TargetFull "target-full" Error,
        "A replica is held because the target's disk is full or its source has used up its quota.",
        "Make room on the target, or raise the quota with `doppelfs peers set`.";
    211 SourceLost "source-lost" Warning,
        "The source of a replica has been gone for longer than a few seconds.",
        "Look at the source; the replica stays at the last operation received.";
    212 SourceBack "source-back" Notice,
        "A source that was gone is there again.",
        "Nothing.";
    213 SourceRefused "source-refused" Warning,
        "Connections to the target were refused since the last look.",
        "`doppelfs peers list` shows who came and why it was not let in.";
    221 ReplicaPaused "replica-paused" Notice,
        "Somebody paused a replica on the target: what comes is kept and not applied.",
        "`doppelfs target resume` when it is to go on; watch the target's queue meanwhile.";
    222 ReplicaResumed "replica-resumed" Notice,
        "A pause on the target has ended.",
        "Nothing.";
}

impl Kind {
    /// What a journal knows it by (sd-journal's `MESSAGE_ID`): 128 bits in hexadecimal.
    pub fn message_id(self) -> String {
        format!("{MESSAGE_ID_BEGINNING}{:03}", self.number())
    }

    /// The alert with this number.
    pub fn from_number(number: u16) -> Option<Kind> {
        Kind::ALL
            .iter()
            .copied()
            .find(|kind| kind.number() == number)
    }
}
