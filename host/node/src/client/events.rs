//! The route of events, whose answer goes on for ever.

use holdfast_model::api::{Event, EventsQuery};
use http::{HeaderName, HeaderValue, Method};

use super::{Client, Error, Exchange, lines::Lines};

impl Client {
    /// What happens in the cluster: `on_event` is called for each event, with its id, until the node
    /// ends or it fails; and with an id alone when the node says from where to go on. `after` is the
    /// last id that was seen before.
    ///
    /// # Errors
    /// See [`Error`]; and what `on_event` says.
    pub async fn events<E: From<Error>>(
        &self,
        query: &EventsQuery,
        after: Option<&str>,
        mut on_event: impl FnMut(&str, Option<Event>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut exchange = Exchange::new(Method::GET, "/v1/events").query(query);
        if let Some(id) = after {
            let invalid = |_| Error::InvalidHeader {
                name: LAST_EVENT_ID,
                value: id.to_owned(),
            };
            let value = HeaderValue::try_from(id).map_err(invalid)?;
            exchange = exchange.header(HeaderName::from_static(LAST_EVENT_ID), value);
        }
        let response = self.within(self.timeout, self.start(exchange)).await?;
        let mut lines = Lines::new(self, response.into_body());
        let (mut id, mut event) = (String::new(), None);
        while let Some(line) = lines.text().await? {
            // The type is in the data too.
            match line.split_once(": ") {
                Some(("id", text)) => text.clone_into(&mut id),
                Some(("data", json)) => {
                    let read = serde_json::from_str(json);
                    event = Some(read.map_err(|error| self.malformed(error.to_string()))?);
                }
                // An event is whole with the empty line after it.
                None if line.is_empty() && !id.is_empty() => on_event(&id, event.take())?,
                _ => {}
            }
        }
        Ok(())
    }
}

const LAST_EVENT_ID: &str = "last-event-id";
