//! `holdfast modules import`: makes modules of an archive.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use holdfast_model::{
    ModuleName,
    api::{BatchRequest, ModuleInfo, ProblemKind},
};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::{
    super::{
        deploy::{self, Deadline},
        failure::{self, Exit},
        fallback::Nodes,
        human,
        output::{self, Output},
        resources::import::{self, Imported, LINES_AHEAD, Source},
    },
    archive::{self, Foot, Head, Item, ModuleHead},
};
use crate::client::{self, Client};

/// Make modules of an archive of `holdfast modules export`
///
/// Each module is deployed with its settings, and then its resources are allocated. What is there
/// already and is the same is left alone, so that an import that broke off can be repeated. A module
/// that is there with another component or other settings is left as it is, with its resources, unless
/// --replace. What fails is named, and does not keep the rest from being imported.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ImportArgs {
    /// The archive; - is standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Only these modules of it.
    #[arg(value_name = "MODULE")]
    modules: Vec<ModuleName>,

    /// Deploy over modules that are there with another component or other settings.
    #[arg(long)]
    replace: bool,

    /// How long each module may take to be deployed and to serve.
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    #[arg(value_parser = humantime::parse_duration)]
    timeout: std::time::Duration,
}

/// What came of an import.
#[derive(Debug, Serialize)]
struct ImportedArchive {
    modules: Vec<ImportedModule>,
}

#[derive(Debug, Serialize)]
struct ImportedModule {
    module: ModuleName,
    #[serde(skip_serializing_if = "Option::is_none")]
    component: Option<Deployed>,
    resources: Imported,
    /// Why the module, or the rest of its resources, is not imported.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Deployed {
    Created,
    Replaced,
    Unchanged,
}

/// A part of the archive, as its reader gives it.
enum Part {
    Head(Head),
    Module(Box<ModuleHead>, Bytes),
    /// Resources of this module, which comes before.
    Resources(ModuleName, mpsc::Receiver<BatchRequest>, Source),
    Foot(Foot),
}

pub(super) async fn run(args: ImportArgs, client: &Client, output: Output) -> anyhow::Result<Exit> {
    let (tell, mut parts) = mpsc::channel(1);
    let (ended, end) = oneshot::channel();
    // Reading blocks, standard input for as long as it likes.
    std::thread::spawn({
        let file = args.file.clone();
        move || {
            let _ = ended.send(read(&file, &tell));
        }
    });
    let mut imported = ImportedArchive {
        modules: Vec::new(),
    };
    let mut foot = None;
    let mut named = args.modules.clone();
    while let Some(part) = parts.recv().await {
        match part {
            Part::Head(head) => {
                let missing = named.iter().find(|name| !head.modules.contains(name));
                if let Some(missing) = missing {
                    let has = head.modules.iter().map(ModuleName::as_str);
                    let has = has.collect::<Vec<_>>().join(", ");
                    return Err(failure::Failure::new(format!(
                        "{} has no module {missing}; it has {has}",
                        args.file.display()
                    ))
                    .exit(Exit::NotFound)
                    .into());
                }
                if named.is_empty() {
                    named.clone_from(&head.modules);
                }
            }
            Part::Module(head, component) if named.contains(&head.module) => {
                let module = head.module.clone();
                let deployed = deploy(client, *head, component, &args).await;
                let (component, error) = match deployed {
                    Ok(deployed) => (Some(deployed), None),
                    Err(error) => (None, Some(failure::in_line(&error))),
                };
                imported.modules.push(ImportedModule {
                    module,
                    component,
                    resources: Imported::default(),
                    error,
                });
            }
            Part::Resources(module, lines, source) => {
                // Of a module that is not wanted, or failed, nothing is allocated: what is dropped
                // here, the reader passes over.
                if let Some(present) = imported.modules.last_mut()
                    && present.module == module
                    && present.component.is_some()
                {
                    resources(client, present, lines, &source).await;
                }
            }
            Part::Module(..) => {}
            Part::Foot(found) => foot = Some(found),
        }
    }
    let read = end.await.context("the reader of the archive panicked")?;
    let failed = |one: &ImportedModule| one.error.is_some() || one.resources.failed > 0;
    let all_well = !imported.modules.iter().any(failed);
    if let Err(error) = read {
        for one in &imported.modules {
            eprint!("{}", describe_one(one));
        }
        return Err(anyhow::Error::new(error).context(format!(
            "read {}: {} of it are imported; it can be repeated",
            args.file.display(),
            human::counted(imported.modules.len() as u64, "module")
        )));
    }
    debug_assert!(foot.is_some(), "an archive is read to its foot");
    output.show(&imported, |imported| {
        imported.modules.iter().map(describe_one).collect()
    })?;
    Ok(if all_well { Exit::Done } else { Exit::Failed })
}

/// Reads the archive, and gives its parts as they are taken.
fn read(file: &Path, tell: &mpsc::Sender<Part>) -> io::Result<()> {
    let input: Box<dyn Read> = match file == Path::new("-") {
        true => Box::new(io::stdin().lock()),
        false => Box::new(BufReader::new(File::open(file)?)),
    };
    let mut head: Option<Box<ModuleHead>> = None;
    let mut resources: Option<(ModuleName, mpsc::Sender<BatchRequest>, Source)> = None;
    archive::read(input, |item| {
        let part = match item {
            Item::Resource(record) => {
                let Some((module, lines, source)) = &resources else {
                    return true;
                };
                // Nobody takes any of this module any more; of the next one perhaps.
                let _ = source.take(record, module, lines);
                return true;
            }
            Item::Head(head) => Part::Head(head),
            Item::Module(found) => {
                resources = None;
                head = Some(found);
                return true;
            }
            Item::Component(component) => {
                let Some(head) = head.take() else {
                    return true;
                };
                let module = head.module.clone();
                if tell.blocking_send(Part::Module(head, component)).is_err() {
                    return false;
                }
                let source = Source::default();
                let (lines, received) = mpsc::channel(LINES_AHEAD);
                resources = Some((module.clone(), lines, source.clone()));
                Part::Resources(module, received, source)
            }
            Item::Foot(foot) => {
                resources = None;
                Part::Foot(foot)
            }
        };
        tell.blocking_send(part).is_ok()
    })
}

async fn deploy(
    client: &Client,
    head: ModuleHead,
    component: Bytes,
    args: &ImportArgs,
) -> anyhow::Result<Deployed> {
    let ModuleHead {
        module,
        digest,
        settings,
        ..
    } = head;
    let present = match client.module(&module).await {
        Ok(info) => Some(info),
        Err(client::Error::Problem(problem)) if problem.kind == ProblemKind::UnknownModule => None,
        Err(error) => return Err(error.into()),
    };
    let is_same = |info: &ModuleInfo| {
        let newest = deploy::newest(info);
        !info.removing && newest.digest == digest && newest.settings == settings
    };
    let done = match &present {
        Some(info) if is_same(info) => return Ok(Deployed::Unchanged),
        Some(_) if !args.replace => {
            anyhow::bail!(
                "it is there with another component or other settings, and is left as it is; \
                 --replace deploys over it"
            );
        }
        Some(_) => Deployed::Replaced,
        None => Deployed::Created,
    };
    let spinner = output::spinner(format!("deploying {module}"));
    let mut nodes = Nodes::of(client).await;
    let deadline = Deadline::after(args.timeout);
    let info = deploy::bring(&nodes, &module, component, Some(&settings), deadline).await?;
    deploy::follow(&mut nodes, &info, deadline, |_| ()).await?;
    spinner.finish_and_clear();
    Ok(done)
}

async fn resources(
    client: &Client,
    present: &mut ImportedModule,
    lines: mpsc::Receiver<BatchRequest>,
    source: &Source,
) {
    let module = &present.module;
    let bar = output::progress(None, format!("importing into {module}"));
    let (imported, sent) = import::send(client, module, lines, source, || bar.inc(1)).await;
    bar.finish_and_clear();
    present.resources = imported;
    present.error = sent.err().map(|error| {
        let error = failure::in_line(&error.into());
        format!("its resources are not all imported: {error}")
    });
}

fn describe_one(one: &ImportedModule) -> String {
    let module = &one.module;
    let component = match one.component {
        Some(Deployed::Created) => "is deployed",
        Some(Deployed::Replaced) => "is deployed over what was there",
        Some(Deployed::Unchanged) => "was there already",
        None => "is not imported",
    };
    let mut text = format!("{module} {component}");
    if let Some(error) = &one.error {
        text.push_str(&format!(": {error}"));
    }
    text.push('\n');
    if one.component.is_some() {
        for line in import::describe(&one.resources).lines() {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}

const AFTER_HELP: &str = "\
Examples:
  holdfast modules import backup.tar
  holdfast modules import backup.tar counter --replace
  zstd -dc backup.tar.zst | holdfast modules import -";
