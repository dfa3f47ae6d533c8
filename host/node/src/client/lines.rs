//! Answers of newline-delimited JSON, read as they come.

use std::marker::PhantomData;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::{Client, Error};

/// The lines of an answer, read as they come.
pub(super) struct Lines<'a, T> {
    client: &'a Client,
    body: Incoming,
    /// What came and is not parsed yet begins at `start`.
    read: Vec<u8>,
    start: usize,
    of: PhantomData<T>,
}

impl<'a, T: DeserializeOwned> Lines<'a, T> {
    pub(super) fn new(client: &'a Client, body: Incoming) -> Self {
        Self {
            client,
            body,
            read: Vec::new(),
            start: 0,
            of: PhantomData,
        }
    }

    /// The next line that is not empty; none at the end. The time limit of the client counts anew
    /// with all that arrives.
    pub(super) async fn next(&mut self) -> Result<Option<T>, Error> {
        loop {
            while let Some(line) = self.line() {
                if line.is_empty() {
                    continue;
                }
                let value = serde_json::from_slice(line)
                    .map_err(|error| self.client.malformed(error.to_string()))?;
                return Ok(Some(value));
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

/// Longest line of an answer.
const LINE_BYTES_MAX: usize = 1 << 20;
