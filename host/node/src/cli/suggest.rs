//! What was probably meant by a name that does not exist.
//!
//! Asked of the node only once something failed, in bounded time and in silence: what cannot be found
//! out costs nobody their error.

use std::time::Duration;

use anyhow::anyhow;
use holdfast_model::{
    ModuleName,
    api::{Problem, ProblemKind, ResourcesQuery},
};

use super::{
    failure::{self, Failure},
    output::Output,
};
use crate::client::{self, Client};

/// The error, with the names that are like the one that does not exist.
pub(super) async fn what_was_meant(error: anyhow::Error, client: &Client) -> anyhow::Error {
    let problem = error.chain().find_map(|cause| {
        let error = cause.downcast_ref::<client::Error>()?;
        error.problem()
    });
    let Some(problem) = problem else {
        return error;
    };
    let Ok(Some(hint)) = tokio::time::timeout(PATIENCE, hint(problem, client)).await else {
        return error;
    };
    let told = Failure::of_problem(failure::message(&error), problem);
    anyhow!(told.hint(hint))
}

/// Warns of a module that does not exist, where that is no error: it may have existed, or is to come.
pub(super) async fn warn_of_unknown(module: Option<&ModuleName>, client: &Client, output: Output) {
    let Some(module) = module else {
        return;
    };
    let Ok(Some(known)) = tokio::time::timeout(PATIENCE, modules(client)).await else {
        return;
    };
    if !known.iter().any(|known| known == module.as_str()) {
        let question = did_you_mean(&alike(module.as_str(), known));
        let question = question.map_or_else(String::new, |question| format!("; {question}"));
        output.warn(&format!("there is no module {module} now{question}"));
    }
}

async fn hint(problem: &Problem, client: &Client) -> Option<String> {
    let named = |member: &str| problem.extensions.get(member)?.as_str();
    let module = named("module")?;
    let meant = match problem.kind {
        ProblemKind::UnknownModule => alike(module, modules(client).await?),
        ProblemKind::UnknownResource => {
            let id = named("resource")?;
            let found = alike(id, resources(client, &module.parse().ok()?).await?);
            let in_module = |id| format!("{module}/{id}");
            found.into_iter().map(in_module).collect()
        }
        _ => return None,
    };
    did_you_mean(&meant)
}

/// A question, if there is something to ask.
pub(super) fn did_you_mean(names: &[String]) -> Option<String> {
    let (last, others) = names.split_last()?;
    Some(match others.is_empty() {
        true => format!("did you mean {last}?"),
        false => format!("did you mean {} or {last}?", others.join(", ")),
    })
}

/// The names of all modules.
pub(super) async fn modules(client: &Client) -> Option<Vec<String>> {
    let list = client.modules().await.ok()?;
    let names = list.modules.iter().map(|info| info.module.to_string());
    Some(names.collect())
}

/// The ids of a module's resources, the first of them where there are many.
async fn resources(client: &Client, module: &ModuleName) -> Option<Vec<String>> {
    let mut query = ResourcesQuery {
        limit: Some(ResourcesQuery::LIMIT_MAX),
        ..ResourcesQuery::default()
    };
    let mut ids = Vec::new();
    for _ in 0..PAGES_MAX {
        let page = client.resources(module, &query).await.ok()?;
        ids.extend(page.resources.into_iter().map(|info| info.id.to_string()));
        match page.next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => break,
        }
    }
    Some(ids)
}

/// The names that are most like this one, the likest first; few, and none that is another word.
pub(super) fn alike(name: &str, known: impl IntoIterator<Item = String>) -> Vec<String> {
    let distance = |known: &String| {
        // A beginning, or more than was needed, is as good as one wrong letter.
        let (short, long) = match name.len() <= known.len() {
            true => (name, known.as_str()),
            false => (known.as_str(), name),
        };
        match short.chars().count() >= BEGINNING_CHARS_MIN && long.starts_with(short) {
            true => 1,
            false => strsim::osa_distance(&name.to_lowercase(), &known.to_lowercase()),
        }
    };
    let farthest = name.chars().count().div_ceil(3).min(DISTANCE_MAX);
    let mut found: Vec<(usize, String)> = known
        .into_iter()
        .map(|known| (distance(&known), known))
        .filter(|(distance, known)| *distance <= farthest && known != name)
        .collect();
    found.sort();
    let nearest = found.first().map_or(0, |(distance, _)| *distance);
    found.retain(|(distance, _)| *distance == nearest);
    found.truncate(NAMES_MAX);
    found.into_iter().map(|(_, name)| name).collect()
}

/// How long it may take to find out.
const PATIENCE: Duration = Duration::from_secs(2);
/// Among how many pages of resources is searched.
const PAGES_MAX: usize = 10;
/// How many names are asked about.
const NAMES_MAX: usize = 3;
/// Farther than that is another word, however long both are.
const DISTANCE_MAX: usize = 3;
/// So long a beginning is no accident.
const BEGINNING_CHARS_MIN: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_like_a_name_is_found_and_nothing_else() {
        let known = ["counter", "counters", "webhook", "twin", "device-twin"];
        for (name, found) in [
            ("countr", &["counter"][..]),
            ("conuter", &["counter"]),
            ("Counter", &["counter"]),
            ("count", &["counter", "counters"]),
            ("counter-2", &["counter"]),
            ("webhok", &["webhook"]),
            ("twni", &["twin"]),
            ("my-bot", &[]),
            ("x", &[]),
            ("", &[]),
        ] {
            assert_eq!(alike(name, known.map(str::to_owned)), found, "{name}");
        }
        let many = (0..50).map(|n| format!("sensor-{n:02}"));
        assert_eq!(alike("sensor-1", many).len(), NAMES_MAX);
    }

    #[test]
    fn several_names_are_asked_about_in_one_question() {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(did_you_mean(&[]), None);
        assert_eq!(did_you_mean(&names(&["a"])).unwrap(), "did you mean a?");
        let three = did_you_mean(&names(&["a", "b", "c"])).unwrap();
        assert_eq!(three, "did you mean a, b or c?");
    }
}
