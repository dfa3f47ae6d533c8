//! What a connection is doing: whether a request has come, is being answered, or is waited for.
//!
//! hyper has a timer for that, which it makes anew for each request; here one timer wakes up rarely
//! and looks whether anything has happened meanwhile.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio_util::sync::CancellationToken;

/// Of one connection.
#[derive(Clone, Default)]
pub(super) struct Activity(Arc<Counts>);

#[derive(Default)]
struct Counts {
    /// Requests whose head has been read.
    begun: AtomicU64,
    /// Those of them whose answer is written, or will never be.
    ended: AtomicU64,
    first: CancellationToken,
}

impl Activity {
    /// A request has come; it is being answered until what this gives is dropped.
    pub(super) fn begin(&self) -> Answering {
        if self.0.begun.fetch_add(1, Relaxed) == 0 {
            self.0.first.cancel();
        }
        Answering(self.clone())
    }

    /// Waits for the first request.
    pub(super) async fn first(&self) {
        self.0.first.cancelled().await;
    }

    /// Waits until no request has come for `time`, twice that at most, while none is being answered.
    pub(super) async fn idle(&self, time: Duration) {
        loop {
            let begun = self.0.begun.load(Relaxed);
            tokio::time::sleep(time).await;
            let now = self.0.begun.load(Relaxed);
            if now == begun && now == self.0.ended.load(Relaxed) {
                return;
            }
        }
    }
}

/// A request that is being answered.
pub(super) struct Answering(Activity);

impl Answering {
    /// The answer, which ends this when it is written.
    pub(super) fn with<B>(self, body: B) -> Answer<B> {
        Answer {
            body,
            _answering: self,
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.ended.fetch_add(1, Relaxed);
    }
}

/// The body of an answer.
pub(super) struct Answer<B> {
    body: B,
    _answering: Answering,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const TIME: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn who_asks_nothing_is_idle_and_who_is_answered_is_not() {
        let activity = Activity::default();
        activity.idle(TIME).await;

        let answer = activity.begin().with(());
        assert!(timeout(10 * TIME, activity.idle(TIME)).await.is_err());
        drop(answer);
        activity.idle(TIME).await;
    }

    #[tokio::test]
    async fn a_request_since_the_last_look_counts_though_it_has_its_answer() {
        let activity = Activity::default();
        let mut idle = std::pin::pin!(activity.idle(TIME));
        assert!(futures_util::poll!(idle.as_mut()).is_pending());
        drop(activity.begin());
        tokio::time::sleep(2 * TIME).await;
        assert!(futures_util::poll!(idle.as_mut()).is_pending());
        idle.await;
    }
}
