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
use hyper::body::{Frame, Incoming};

use super::{Client, Error, Exchange};

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
        let mut answers = Answers::new(self, response.into_body());
        let mut answered = 0;
        while let Some(answer) = answers.next().await? {
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

/// The lines of an answer, read as they come.
struct Answers<'a> {
    client: &'a Client,
    body: Incoming,
    /// What came and is not parsed yet begins at `start`.
    read: Vec<u8>,
    start: usize,
}

impl<'a> Answers<'a> {
    fn new(client: &'a Client, body: Incoming) -> Self {
        Self {
            client,
            body,
            read: Vec::new(),
            start: 0,
        }
    }

    async fn next(&mut self) -> Result<Option<BatchAnswer>, Error> {
        loop {
            while let Some(line) = self.line() {
                if line.is_empty() {
                    continue;
                }
                let answer = serde_json::from_slice(line)
                    .map_err(|error| self.client.malformed(error.to_string()))?;
                return Ok(Some(answer));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    fn line(&mut self) -> Option<&[u8]> {
        let rest = &self.read[self.start..];
        let len = rest.iter().position(|byte| *byte == b'\n')?;
        let start = self.start;
        self.start += len + 1;
        Some(self.read[start..start + len].trim_ascii())
    }

    /// Reads more; false at the end.
    async fn fill(&mut self) -> Result<bool, Error> {
        self.read.drain(..self.start);
        self.start = 0;
        if self.read.len() > LINE_BYTES_MAX {
            return Err(self.client.malformed("a line is too long"));
        }
        let frame = async {
            self.body
                .frame()
                .await
                .transpose()
                .map_err(|error| Error::Broken {
                    url: self.client.server.clone(),
                    source: Box::new(error),
                })
        };
        let Some(frame) = self.client.within(self.client.timeout, frame).await? else {
            if self.read.trim_ascii().is_empty() {
                return Ok(false);
            }
            // The last line may come without its newline.
            self.read.push(b'\n');
            return Ok(true);
        };
        if let Ok(data) = frame.into_data() {
            self.read.extend_from_slice(&data);
        }
        Ok(true)
    }
}

const LINES_PER_FRAME: usize = 256;
/// Longest line of an answer, which at worst repeats an id and explains a problem.
const LINE_BYTES_MAX: usize = 1 << 20;
