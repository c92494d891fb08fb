//! One answer, as it comes.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Bytes, HttpBody};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::access::Access;
use super::message::{HEARTBEAT, Message};
use super::server::{Answer, Items};
use super::{Item, Refusal, Reply};

/// Items under way to a client that is slow.
const ITEMS_MAX: usize = 64;

/// An answer under way, message by message. Dropping it ends it unfinished.
pub(super) struct Telling {
    items: mpsc::Receiver<Item>,
    /// None: it has ended.
    answer: Option<Answer>,
    /// How it ended; none: it has been told.
    last: Option<Result<Reply, Refusal>>,
    beat: Interval,
    access: Access,
}

impl Telling {
    /// Begins an answer for somebody with this access.
    pub(super) fn begin(access: Access, begin: impl FnOnce(Items) -> Answer) -> Telling {
        let (sender, items) = mpsc::channel(ITEMS_MAX);
        let mut beat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Telling {
            items,
            answer: Some(begin(Items::new(sender))),
            last: None,
            beat,
            access,
        }
    }

    /// The next message; `None` after the last.
    pub(super) async fn next(&mut self) -> Option<Message> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Message>> {
        if let Some(item) = self.poll_item(context) {
            return Poll::Ready(Some(Message::Item(item)));
        }
        if let Some(answer) = &mut self.answer
            && let Poll::Ready(last) = answer.as_mut().poll(context)
        {
            self.answer = None;
            self.last = Some(match self.access {
                Access::Act => last,
                Access::Look => last.map(Reply::without_names),
            });
        }
        if self.answer.is_none() {
            // What it sent before it ended comes first.
            if let Some(item) = self.poll_item(context) {
                return Poll::Ready(Some(Message::Item(item)));
            }
            let last = self.last.take();
            return Poll::Ready(last.map(|last| last.map_or_else(Message::Refused, Message::Done)));
        }
        self.beat.poll_tick(context).map(|_| Some(Message::Alive))
    }

    fn poll_item(&mut self, context: &mut Context<'_>) -> Option<Item> {
        match self.items.poll_recv(context) {
            Poll::Ready(item) => item,
            Poll::Pending => None,
        }
    }
}

/// A message as a line.
pub(super) fn line_of(message: &Message) -> std::io::Result<Bytes> {
    let mut line = serde_json::to_vec(message).map_err(std::io::Error::other)?;
    line.push(b'\n');
    Ok(line.into())
}

/// The body of an answer in lines.
pub(super) struct Lines {
    /// What is told first.
    pub(super) first: Option<Message>,
    /// What is told then.
    pub(super) rest: Telling,
}

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let next = match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => self.rest.poll_next(context),
        };
        next.map(|message| message.map(|message| line_of(&message).map(Frame::data)))
    }
}
