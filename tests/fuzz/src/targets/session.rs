//! What both sides make of the positions that the other one says.

use doppelfs::codec::{Draft, Frame};
use doppelfs::receiver::Way;
use doppelfs::sender::{Beginning, Line, is_possible, marks_after, marks_at};
use doppelfs::types::{Body, Fork, History, Marks, Op};
use doppelfs::wire::{Ack, PROTOCOL, Start, TargetState, Welcome};

use super::draw::Draw;
use super::frame::Sealed;

fn history(draw: &mut Draw<'_>) -> History {
    History(u128::from(draw.byte() % 4))
}

fn welcome(draw: &mut Draw<'_>) -> Welcome {
    Welcome {
        protocol: PROTOCOL,
        history: (!draw.one_in(4)).then(|| history(draw)),
        received: draw.seq(),
        applied: draw.seq(),
        durable: draw.seq(),
        mirror: draw.one_in(3).then(|| draw.number()),
        replica_path: String::new(),
        state: TargetState::Ok,
        remap: None,
        next_key: None,
    }
}

fn assert_in_order(marks: Marks) {
    let fine = marks.durable <= marks.applied
        && marks.applied <= marks.received
        && marks.received <= marks.sent;
    assert!(fine, "{marks:?}");
}

/// Either side.
pub fn session(bytes: &[u8]) {
    let mut draw = Draw(bytes);
    match draw.byte() % 2 {
        0 => source(&mut draw),
        _ => target(&mut draw),
    }
}

/// A source with a hostile target.
fn source(draw: &mut Draw<'_>) {
    let fork = |draw: &mut Draw<'_>| Fork {
        history: history(draw),
        end: draw.seq(),
    };
    let forks: Vec<Fork> = (0..draw.below(3)).map(|_| fork(draw)).collect();
    let before_first = draw.seq();
    let line = Line {
        history: history(draw),
        forks: &forks,
        before_first,
        end: before_first.max(draw.seq()),
    };
    let welcome = welcome(draw);
    if !is_possible(&welcome) {
        return;
    }
    let start = match line.beginning(&welcome, draw.one_in(8)) {
        Beginning::GoesOn { start, durable } => {
            assert!(start.after >= line.before_first && start.after <= line.end);
            assert!(durable >= line.before_first && durable <= start.after);
            assert!(
                Way::of(&welcome, &start).is_some(),
                "we say what we would take"
            );
            start
        }
        Beginning::Mirror(_) => line.jump_to(line.end),
    };
    let mut marks = marks_at(Marks::default(), &welcome, &start);
    assert_in_order(marks);
    while !draw.is_empty() {
        marks.sent = marks.sent.max(draw.seq().min(line.end));
        let ack = Ack {
            received: draw.seq(),
            applied: draw.seq(),
            durable: draw.seq(),
            ..Ack::default()
        };
        if let Some(fresh) = marks_after(marks, &ack) {
            assert_in_order(fresh);
            marks = fresh;
        }
    }
}

/// A target with a hostile source.
fn target(draw: &mut Draw<'_>) {
    let welcome = welcome(draw);
    let start = Start {
        history: history(draw),
        after: draw.seq(),
        jump: draw.one_in(2),
        fork: draw.one_in(2).then(|| history(draw)),
        next_key: None,
    };
    let Some(way) = Way::of(&welcome, &start) else {
        return;
    };
    let _ = way.gate(&start, draw.seq());
    let body = Body::of(Op::MirrorEnd { mirror: 1 });
    let draft = Draft::new(&body, b"");
    let sealed = Sealed {
        kind: draft.kind().number(),
        meta: draft.meta(),
        payload: b"",
        seq: draw.number(),
        prev_seq: start.after.0,
        time_ns: 0,
        flags: 0,
    };
    if let Ok(frame) = Frame::from_vec(sealed.bytes()) {
        assert!(way != Way::Continues || !way.is_set_by(&start, &frame));
    }
}
