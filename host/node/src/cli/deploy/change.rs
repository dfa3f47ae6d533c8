//! Changes of single settings: `limits.body_bytes_max=1024`.

use std::str::FromStr;

use holdfast_model::Settings;
use serde_json::Value;

/// A setting and the value that it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Names, from the outermost.
    path: Vec<String>,
    value: String,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("--set {change}: {message}")]
    Invalid { change: String, message: String },
    #[error(transparent)]
    OutOfBounds(#[from] holdfast_model::module::OutOfBounds),
}

impl FromStr for Change {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (path, value) = text
            .split_once('=')
            .ok_or("it must look like limits.memory_bytes_max=1048576")?;
        // What a config key is called is the handler's business: it may have dots.
        let parts = if path.starts_with("config.") {
            2
        } else {
            usize::MAX
        };
        let path: Vec<String> = path.splitn(parts, '.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err("the setting has no name".to_owned());
        }
        Ok(Self {
            path,
            value: value.to_owned(),
        })
    }
}

/// The settings with all changes made.
pub(super) fn apply(settings: &Settings, changes: &[Change]) -> Result<Settings, Error> {
    let mut settings = settings.clone();
    for change in changes {
        let mut value = serde_json::to_value(&settings).expect("settings are JSON");
        let invalid = |message: String| Error::Invalid {
            change: format!("{}={}", change.path.join("."), change.value),
            message,
        };
        set(&mut value, &change.path, &change.value).map_err(invalid)?;
        settings = serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
    }
    settings.limits.check()?;
    Ok(settings)
}

fn set(settings: &mut Value, path: &[String], text: &str) -> Result<(), String> {
    let mut place = settings;
    for name in path {
        // An unknown name is refused afterwards, with a list of the known ones.
        place = match place {
            Value::Object(fields) => fields.entry(name).or_insert(Value::Null),
            _ => return Err(format!("there is no setting `{name}`")),
        };
    }
    *place = match &*place {
        Value::Object(_) => return Err("it has settings of its own; name one of them".to_owned()),
        _ if path[0] == "config" => Value::from(text),
        Value::Array(_) => text
            .split(',')
            .filter(|item| !item.is_empty())
            .map(Value::from)
            .collect(),
        _ => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Result<Settings, String> {
        let changes: Result<Vec<Change>, String> = changes.iter().map(|c| c.parse()).collect();
        apply(&Settings::default(), &changes?).map_err(|error| error.to_string())
    }

    #[test]
    fn every_kind_of_setting_can_be_changed() {
        let settings = changed(&[
            "limits.body_bytes_max=1024",
            "grants.http=a.example:443,10.0.0.0/8:*",
            "config.a.b=1",
            "lane=fiber",
        ])
        .unwrap();
        assert_eq!(settings.limits.body_bytes_max, 1024);
        assert_eq!(settings.grants.http.len(), 2);
        assert_eq!(settings.config["a.b"], "1");
        assert_eq!(settings.lane, Some(holdfast_model::Lane::Fiber));
        assert_eq!(changed(&["lane=null"]).unwrap(), Settings::default());
        assert_eq!(changed(&["grants.http="]).unwrap(), Settings::default());
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (change, why) in [
            ("limits", "must look like"),
            ("limits.=1", "no name"),
            ("limits=1", "settings of its own"),
            ("limits.memory=1", "unknown field `memory`"),
            ("limit.memory=1", "no setting `memory`"),
            ("colour=red", "unknown field `colour`"),
            ("limits.body_bytes_max=much", "invalid type"),
            ("limits.body_bytes_max=0", "must be 1 to"),
            ("grants.http=nonsense", "grants.http=nonsense"),
        ] {
            let error = changed(&[change]).unwrap_err();
            assert!(error.contains(why), "{change}: {error}");
        }
    }
}
