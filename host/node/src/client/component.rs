//! The route of components, whose bytes are read as they come.

use bytes::Bytes;
use holdfast_model::{
    Digest, ModuleName,
    api::{ComponentQuery, VERSION_HEADER},
};
use http::{HeaderMap, HeaderName, Method, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::{Client, Error, Exchange, routes::module_path};

/// A component on its way.
#[derive(Debug)]
pub struct Download<'a> {
    client: &'a Client,
    body: Incoming,
    digest: Digest,
    version: u64,
    size: u64,
    read: u64,
}

impl Client {
    /// Begins to download a component of a module.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn component(
        &self,
        module: &ModuleName,
        query: &ComponentQuery,
    ) -> Result<Download<'_>, Error> {
        let path = format!("{}/component", module_path(module));
        let exchange = Exchange::new(Method::GET, path).query(query);
        let response = self.within(self.timeout, self.start(exchange)).await?;
        let (head, body) = response.into_parts();
        let digest = text(&head.headers, header::ETAG)
            .and_then(|tag| tag.trim_matches('"').parse().ok())
            .ok_or_else(|| self.malformed("a component without its digest as ETag"))?;
        let number = |name| text(&head.headers, name).and_then(|text| text.parse().ok());
        let version = number(HeaderName::from_static(VERSION_HEADER))
            .ok_or_else(|| self.malformed("a component without the number of its version"))?;
        let size = number(header::CONTENT_LENGTH)
            .ok_or_else(|| self.malformed("a component without its length"))?;
        Ok(Download {
            client: self,
            body,
            digest,
            version,
            size,
            read: 0,
        })
    }
}

impl Download<'_> {
    /// The digest that the bytes will have. Whoever keeps them compares.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The number of the module's version that it is.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many bytes come in all.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes; none when all have come. The time limit of the client counts anew with each.
    ///
    /// # Errors
    /// See [`Error`]; also when there are fewer than said.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = async { Ok(self.body.frame().await) };
            let frame = self.client.within(self.client.timeout, frame).await?;
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.read += data.len() as u64;
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    return Err(Error::Broken {
                        url: self.client.server.clone(),
                        source: Box::new(error),
                    });
                }
                None if self.read == self.size => return Ok(None),
                None => {
                    let (read, size) = (self.read, self.size);
                    let ends = format!("a component ends after {read} of {size} bytes");
                    return Err(self.client.malformed(ends));
                }
            }
        }
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}
