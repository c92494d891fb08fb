//! Goal: whatever the link does, every record arrives once and in order. Method: a proxy between
//! both ends cuts each connection after a random number of bytes; the source goes on meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rand::Rng;
use rand::RngCore;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::link_support::{Site, Source, seeded};

/// Forwards connections and cuts them.
pub struct Cutter {
    pub address: SocketAddr,
    pub cuts: Arc<AtomicU64>,
    /// Cuts are made while this is set.
    pub is_cutting: Arc<AtomicBool>,
}

impl Cutter {
    pub fn start(site: &Site, seed: u64) -> Cutter {
        let listener = site.runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.unwrap();
        let address = listener.local_addr().unwrap();
        let cuts = Arc::new(AtomicU64::new(0));
        let is_cutting = Arc::new(AtomicBool::new(true));
        let (counter, flag) = (Arc::clone(&cuts), Arc::clone(&is_cutting));
        let target = site.address();
        site.runtime.spawn(async move {
            let mut rng = StdRng::seed_from_u64(seed);
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(target).await else {
                    continue;
                };
                // Most are cut early; some let the largest image through, or nothing would move.
                let bytes_max = match rng.random_range(0..100) {
                    0..15 => 600,
                    15..85 => 20_000,
                    _ => 1_000_000,
                };
                let limit = rng.random_range(0..bytes_max);
                let (counter, flag) = (Arc::clone(&counter), Arc::clone(&flag));
                tokio::spawn(forward(near, far, limit, counter, flag));
            }
        });
        Cutter {
            address,
            cuts,
            is_cutting,
        }
    }
}

async fn forward(
    near: TcpStream,
    far: TcpStream,
    limit: u64,
    cuts: Arc<AtomicU64>,
    flag: Arc<AtomicBool>,
) {
    let budget = AtomicU64::new(limit);
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let pump = async |mut from: tokio::net::tcp::OwnedReadHalf,
                      mut to: tokio::net::tcp::OwnedWriteHalf| {
        let mut buffer = vec![0u8; 16 << 10];
        loop {
            let Ok(count @ 1..) = from.read(&mut buffer).await else {
                return;
            };
            let mut pass = count;
            if flag.load(Ordering::SeqCst) {
                let left = budget.load(Ordering::SeqCst);
                pass = count.min(usize::try_from(left).unwrap());
                budget.store(left - pass as u64, Ordering::SeqCst);
            }
            if to.write_all(&buffer[..pass]).await.is_err() {
                return;
            }
            if pass < count {
                cuts.fetch_add(1, Ordering::SeqCst);
                return;
            }
        }
    };
    tokio::select! {
        () = pump(near_read, far_write) => {}
        () = pump(far_read, near_write) => {}
    }
}

#[test]
fn every_record_passes_once_through_two_hundred_cuts() {
    let Some(site) = Site::new("cuts") else {
        return;
    };
    let mut rng = seeded();
    let cutter = Cutter::start(&site, rng.random());
    let source = Source::new(&site.scratch.dir("queue"), 1);
    for name in ["a", "b", "c"] {
        source.create(name);
    }
    let sender = source.connect(cutter.address, &site.runtime);
    let mut number = 0u32;
    while cutter.cuts.load(Ordering::SeqCst) < 200 {
        // No faster than the link lets through.
        let room = 40u64.saturating_sub(sender.state().lags.applied.ops);
        for _ in 0..rng.random_range(0..=room) {
            number += 1;
            let mut data = number.to_le_bytes().to_vec();
            data.resize(4 + rng.random_range(0..2_000), 0);
            // So that compression does not make the link fast.
            rng.fill_bytes(&mut data[4..]);
            let name = ["a", "b", "c"][rng.random_range(0..3)];
            source.write(name, &data);
            if rng.random_bool(0.3) {
                source.swap("a", "b");
            }
            if rng.random_bool(0.1) {
                source.unlink("c");
                source.create("c");
            }
        }
        let before = cutter.cuts.load(Ordering::SeqCst);
        site.await_state(&sender, "cut or catching up", |state| {
            cutter.cuts.load(Ordering::SeqCst) > before
                || state.marks.applied == source.journal.end()
        });
    }
    cutter.is_cutting.store(false, Ordering::SeqCst);
    let state = site.await_caught_up(&source, &sender);
    assert_eq!(site.files(), source.files());
    assert_eq!(state.marks.durable, source.journal.end());
    assert!(state.sessions > 100, "{} sessions", state.sessions);
    println!("{number} writes, {} sessions", state.sessions);
}

#[test]
fn cuts_and_target_restarts_together_lose_nothing() {
    let Some(mut site) = Site::new("cuts-restarts") else {
        return;
    };
    let mut rng = seeded();
    let cutter = Cutter::start(&site, rng.random());
    let source = Source::new(&site.scratch.dir("queue"), 1);
    source.create("a");
    source.create("b");
    let sender = source.connect(cutter.address, &site.runtime);
    for round in 0..8u32 {
        for number in 0..100u32 {
            source.write("a", &(round * 1000 + number).to_le_bytes());
            source.swap("a", "b");
        }
        let cuts = cutter.cuts.load(Ordering::SeqCst);
        site.await_state(&sender, "cut or catching up", |state| {
            cutter.cuts.load(Ordering::SeqCst) > cuts || state.marks.applied == source.journal.end()
        });
        site.restart();
    }
    cutter.is_cutting.store(false, Ordering::SeqCst);
    site.await_caught_up(&source, &sender);
    assert_eq!(site.files(), source.files());
}
