//! What a peer sends: the conversation, and batches of frames.

use std::time::Duration;

use doppelfs::wire::{
    BATCH_RAW_BYTES_MAX, Kind, Message, MessageReader, Packer, Phase, Unpacker, write_preface,
};

use super::draw::Draw;
use super::frame;

thread_local! {
    static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
}

fn phase(draw: &mut Draw<'_>) -> Phase {
    [Phase::Handshake, Phase::FromSource, Phase::FromTarget][draw.below(3)]
}

/// A conversation: with its first bytes or without, as it comes or with lengths made right.
pub fn stream(bytes: &[u8]) {
    let mut draw = Draw(bytes);
    let mode = draw.byte();
    let (phase, has_preface) = (phase(&mut draw), mode & 1 != 0);
    let rest = match mode & 2 {
        0 => draw.rest().to_vec(),
        _ => messages(&mut draw),
    };
    RUNTIME.with(|runtime| runtime.block_on(converse(&rest, phase, has_preface)));
}

/// Messages of any type with any body, each with its length.
fn messages(draw: &mut Draw<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !draw.is_empty() {
        let kind = draw.byte() % 12;
        let body = match draw.byte() {
            255 => draw.rest(),
            _ => draw.bytes(255),
        };
        stream.extend_from_slice(&(body.len() as u32 + 1).to_le_bytes());
        stream.push(kind);
        stream.extend_from_slice(body);
    }
    stream
}

async fn converse(bytes: &[u8], first: Phase, has_preface: bool) {
    let mut reader = MessageReader::new(bytes, Duration::from_secs(3600));
    if has_preface && reader.preface().await.is_err() {
        return;
    }
    let mut phase = first;
    let mut unpacker = Unpacker::new();
    loop {
        let Ok(message) = reader.next(phase).await else {
            return;
        };
        check(&message);
        match message {
            Message::Batch(body) => open(&mut unpacker, &body),
            Message::Hello(_) => write_preface(&mut Vec::new()).await.expect("into memory"),
            Message::Start(_) => phase = Phase::FromSource,
            Message::Welcome(_) => phase = Phase::FromTarget,
            _ => {}
        }
    }
}

/// What was understood is understood again when we say it.
fn check(message: &Message) {
    let bytes = message.encode();
    assert_eq!(Kind::from_number(bytes[4]), Some(message.kind()));
    let again = Message::decode(message.kind(), bytes[5..].to_vec());
    assert_eq!(&again.expect("a message of ours"), message);
}

fn open(unpacker: &mut Unpacker, body: &[u8]) {
    let Ok(frames) = unpacker.open(body) else {
        return;
    };
    let mut raw_bytes = 0;
    for frame in frames.flatten() {
        raw_bytes += frame.bytes().len();
        frame::check(&frame);
    }
    assert!(raw_bytes <= BATCH_RAW_BYTES_MAX);
}

/// Bodies of batches in a row, through one unpacker: any, compressed by somebody, and ours.
pub fn batch(bytes: &[u8]) {
    let mut draw = Draw(bytes);
    let mut unpacker = Unpacker::new();
    match draw.byte() % 4 {
        0 => open(&mut unpacker, draw.rest()),
        1 => {
            // Says how long it becomes, and says anything else after.
            let mut body = vec![1];
            body.extend_from_slice(&draw.word().to_le_bytes());
            body.extend_from_slice(draw.rest());
            open(&mut unpacker, &body);
        }
        2 => {
            while !draw.is_empty() {
                let mut packed = vec![draw.byte()];
                let repeats = usize::from(draw.byte());
                let raw = draw.bytes(255).repeat(repeats);
                packed.extend_from_slice(
                    &(raw.len() as u32)
                        .wrapping_sub(u32::from(draw.one_in(16)))
                        .to_le_bytes(),
                );
                packed.extend(zstd::bulk::compress(&raw, 1).expect("into memory"));
                open(&mut unpacker, &packed);
            }
        }
        _ => {
            let raw = frame::sealed(&mut draw);
            let packed = Packer::new().pack(&raw);
            let frames = unpacker.open(&packed.bytes[5..]).expect("a batch of ours");
            let found: Vec<u8> = frames.flatten().flat_map(|f| f.bytes().to_vec()).collect();
            assert!(raw.starts_with(&found));
        }
    }
}
