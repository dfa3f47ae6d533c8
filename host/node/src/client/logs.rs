//! The route of logs, whose answer may go on for ever.

use holdfast_model::api::{LogLine, LogsQuery};
use http::Method;

use super::{Client, Error, Exchange, lines::Lines};

impl Client {
    /// What handlers say: `on_line` is called for each line, as it comes, until there are no more or
    /// it fails.
    ///
    /// # Errors
    /// See [`Error`]; and what `on_line` says.
    pub async fn logs<E: From<Error>>(
        &self,
        query: &LogsQuery,
        mut on_line: impl FnMut(LogLine) -> Result<(), E>,
    ) -> Result<(), E> {
        let exchange = Exchange::new(Method::GET, "/v1/logs").query(query);
        let response = self.within(self.timeout, self.start(exchange)).await?;
        let mut lines = Lines::new(self, response.into_body());
        while let Some(line) = lines.json().await? {
            on_line(line)?;
        }
        Ok(())
    }
}
