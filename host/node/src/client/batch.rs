//! The batch route: requests and answers stream, so a million lines take no more memory than ten.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use holdfast_model::{
    ModuleName,
    api::{BatchAnswer, BatchRequest, NDJSON},
};
use http::{HeaderValue, Method, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;

use super::{Client, Error, Exchange, lines::Lines};

impl Client {
    /// Allocates and deallocates many resources. Lines are taken from `lines` as fast as the node
    /// takes them; `on_answer` is called for each line, in order, when it is decided. The time
    /// limit of the client counts anew with every answer.
    ///
    /// # Errors
    /// See [`Error`]. Lines whose answer was not seen may have had their effect; all of them can
    /// be sent again.
    pub async fn batch(
        &self,
        module: &ModuleName,
        lines: impl Stream<Item = BatchRequest> + Send + 'static,
        mut on_answer: impl FnMut(BatchAnswer),
    ) -> Result<(), Error> {
        let sent = Arc::new(AtomicU64::new(0));
        let counted = sent.clone();
        let frames = lines.ready_chunks(LINES_PER_FRAME).map(move |lines| {
            counted.fetch_add(lines.len() as u64, Ordering::Relaxed);
            Ok(Frame::data(encode(&lines)))
        });
        let path = format!("/v1/modules/{module}/resources:batch");
        let mut exchange = Exchange::new(Method::POST, path)
            .header(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
        exchange.body = StreamBody::new(frames).boxed_unsync();

        let response = self.within(self.timeout, self.start(exchange)).await?;
        let mut answers = Lines::new(self, response.into_body());
        let mut answered = 0;
        while let Some(answer) = answers.json::<BatchAnswer>().await? {
            answered += 1;
            on_answer(answer);
        }
        let sent = sent.load(Ordering::Relaxed);
        if answered < sent {
            return Err(self.malformed(format!("it ends after {answered} of {sent} lines")));
        }
        Ok(())
    }
}

fn encode(lines: &[BatchRequest]) -> Bytes {
    let mut text = Vec::with_capacity(lines.len() * 64);
    for line in lines {
        serde_json::to_writer(&mut text, line).expect("ids and specs are JSON; a Vec takes all");
        text.push(b'\n');
    }
    text.into()
}

const LINES_PER_FRAME: usize = 256;
