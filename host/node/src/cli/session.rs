//! Which node the commands talk to, as whom, and how results are shown.

use std::path::PathBuf;

use anyhow::Context as _;

use super::output::{Format, Output};
use crate::client::Client;

/// Arguments that every command takes.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Session {
    /// The node to talk to; any node of the cluster will do.
    #[arg(long, global = true, value_name = "URL", env = "HOLDFAST_SERVER")]
    #[arg(default_value = Self::SERVER_DEFAULT)]
    pub server: String,

    /// The API token. Others on this machine can see it: prefer --token-file or the variable.
    #[arg(long, global = true, value_name = "TOKEN", env = "HOLDFAST_TOKEN")]
    #[arg(hide_env_values = true)]
    pub token: Option<String>,

    /// A file with the API token; goes before --token.
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// How results are shown.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub format: Format,
}

impl Session {
    /// The node that is talked to unless another is named.
    pub const SERVER_DEFAULT: &str = "http://127.0.0.1:7300";

    /// The API token, if any.
    ///
    /// # Errors
    /// When its file cannot be read or is empty.
    pub fn token(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.token_file else {
            let token = self.token.as_deref().map(str::trim);
            return Ok(token.filter(|token| !token.is_empty()).map(str::to_owned));
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("read the API token from {}", path.display()))?;
        let token = text.trim();
        anyhow::ensure!(!token.is_empty(), "{} has no token", path.display());
        Ok(Some(token.to_owned()))
    }

    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let client = Client::new(&self.server)?;
        match self.token()? {
            Some(token) => Ok(client.with_token(&token)?),
            None => Ok(client),
        }
    }

    pub(super) fn output(&self) -> Output {
        Output::new(self.format)
    }
}
