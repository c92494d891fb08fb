//! The journal in normal running. Method: small segments, plain sequences.

use crate::journal_support::{Scratch, append, contents, open};
use doppelfs::types::Seq;

#[test]
fn records_come_back_in_order_across_segments_and_restart() {
    let scratch = Scratch::new("order");
    let mut wanted = Vec::new();
    for round in 0..3u64 {
        let (journal, recovery) = open(&scratch.queue());
        assert_eq!(recovery.letters, if round == 0 { "A" } else { "B" });
        for i in 0..50u64 {
            let payload = vec![(round * 50 + i) as u8; 1000 + i as usize];
            if journal.cursors().is_empty() {
                journal.register("one", Seq(0)).unwrap();
            }
            let seq = append(&journal, &payload);
            assert_eq!(seq, Seq(round * 50 + i + 1));
            wanted.push((seq.0, payload));
        }
        assert!(journal.catalogue().len() > 1);
        assert_eq!(contents(&journal, Seq(0)), wanted);
        assert_eq!(contents(&journal, Seq(37)), wanted[37..]);
    }
}
