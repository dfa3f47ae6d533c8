//! SIGHUP: reads again what was given by a file, and logs by the filter of the command line again.
//!
//! The API token is the only file so far that may change under a node that runs. What cannot be read
//! stays as it is, and is told.

use std::{path::PathBuf, sync::mpsc, thread};

use tracing::{info, warn};

use crate::{
    modules::chain,
    telemetry::LogFilter,
    token::{self, Token},
};

/// What is read again.
pub(super) struct Reload {
    /// The file of the API token, where it came from one.
    pub(super) token_file: Option<PathBuf>,
    pub(super) token: token::Current,
    /// What is logged, and the filter that the command line gave.
    pub(super) log: Option<LogFilter>,
    pub(super) filter: String,
}

impl Reload {
    /// Reloads at each wish, on a thread of its own: files may be slow.
    pub(super) fn at(self, wishes: mpsc::Receiver<()>) -> std::io::Result<()> {
        // Ends with the process.
        thread::Builder::new()
            .name("reload".to_owned())
            .spawn(move || wishes.into_iter().for_each(|()| self.reload()))?;
        Ok(())
    }

    fn reload(&self) {
        if let Some(log) = &self.log
            && log.text() != self.filter
        {
            match log.change(&self.filter) {
                Ok(()) => info!(filter = self.filter, "logging by the filter of --log again"),
                Err(error) => warn!(error = chain(&error), "the log filter stays as it is"),
            }
        }
        let Some(file) = &self.token_file else {
            info!("reloaded; no file was given that could have changed");
            return;
        };
        match Token::read(file) {
            Ok(token) => {
                let changed = self.token.replace(token);
                info!(token.file = %file.display(), token.changed = changed, "reloaded");
            }
            Err(error) => warn!(
                error = chain(&error),
                "not reloaded: the API token stays as it is"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_token_counts_from_now_on_and_one_that_cannot_be_read_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let token = token::Current::new(Some(Token::new("the-first-token-of-all").unwrap()));
        let reload = Reload {
            token_file: Some(file.clone()),
            token: token.clone(),
            log: None,
            filter: "info".to_owned(),
        };
        let is = |shown: &[u8]| token.load().as_deref().is_some_and(|token| token.is(shown));
        for unusable in [None, Some("short")] {
            if let Some(text) = unusable {
                std::fs::write(&file, text).unwrap();
            }
            reload.reload();
            assert!(is(b"the-first-token-of-all"), "{unusable:?}");
        }
        std::fs::write(&file, "the-second-token-of-all\n").unwrap();
        reload.reload();
        assert!(is(b"the-second-token-of-all"));
        assert!(!is(b"the-first-token-of-all"));
    }
}
