//! Answers that go on line by line, read as they come.

use std::ops::Range;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::{Client, Error};

/// The lines of an answer, read as they come.
pub(super) struct Lines<'a> {
    client: &'a Client,
    body: Incoming,
    /// What came and is not taken yet begins at `start`.
    read: Vec<u8>,
    start: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn new(client: &'a Client, body: Incoming) -> Self {
        Self {
            client,
            body,
            read: Vec::new(),
            start: 0,
        }
    }

    /// The next line that is not empty, as JSON; none at the end. The time limit of the client counts
    /// anew with all that arrives.
    pub(super) async fn json<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        while let Some(line) = self.line().await? {
            if !self.read[line.clone()].is_empty() {
                let value = serde_json::from_slice(&self.read[line]);
                let value = value.map_err(|error| self.client.malformed(error.to_string()))?;
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The next line, empty ones too, as text; none at the end.
    pub(super) async fn text(&mut self) -> Result<Option<&str>, Error> {
        let Some(line) = self.line().await? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&self.read[line]);
        let text = text.map_err(|error| self.client.malformed(error.to_string()))?;
        Ok(Some(text))
    }

    /// Where the next line is in what was read, without white space around it.
    async fn line(&mut self) -> Result<Option<Range<usize>>, Error> {
        loop {
            let rest = &self.read[self.start..];
            if let Some(len) = rest.iter().position(|byte| *byte == b'\n') {
                let (start, end) = (self.start, self.start + len);
                self.start = end + 1;
                let line = &self.read[start..end];
                let before = line.len() - line.trim_ascii_start().len();
                let start = start + before;
                return Ok(Some(start..start + line.trim_ascii().len()));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
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

/// Longest line of an answer.
const LINE_BYTES_MAX: usize = 1 << 20;
