//! `holdfast modules export`: modules with all that they are made of, as an archive.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use holdfast_model::{
    Digest, ModuleName,
    api::{ComponentQuery, ModuleInfo, ResourcesQuery},
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{
    super::{
        failure::Failure,
        human,
        output::{self, Output},
    },
    archive::{FORMAT, Foot, Head, ModuleHead, Writer},
};
use crate::{client::Client, clock::now_ms};

/// Write modules to an archive: component, settings and resources
///
/// What `holdfast modules import` makes the modules of again, in this cluster or another. It is a tar
/// file; docs/OPERATING.md says what is in it. Resources that are allocated or deallocated meanwhile
/// are in it or not. A file is there when it is complete, and replaces one that was there only then.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ExportArgs {
    /// The modules; all of them unless given.
    modules: Vec<ModuleName>,

    /// The archive; - is standard output.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

/// What was exported.
#[derive(Debug, Serialize)]
struct Exported {
    modules: Vec<ExportedModule>,
}

#[derive(Debug, Serialize)]
struct ExportedModule {
    module: ModuleName,
    version: u64,
    digest: Digest,
    resources: u64,
}

pub(super) async fn run(args: ExportArgs, client: &Client, output: Output) -> anyhow::Result<()> {
    let mut modules = Vec::new();
    if args.modules.is_empty() {
        modules = client.modules().await?.modules;
    }
    for name in &args.modules {
        modules.push(client.module(name).await?);
    }
    let whole = args.output == Path::new("-");
    if whole {
        let exported = write(client, &modules, io::stdout().lock(), output)
            .await?
            .0;
        // Standard output is the archive's.
        for one in &exported.modules {
            eprintln!("{}", describe_one(one));
        }
        return Ok(());
    }
    let at = || format!("write {}", args.output.display());
    let folder = match args.output.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    // Specs and settings may have secrets: whoever may read them is up to whoever moves the file.
    let mut draft = tempfile::NamedTempFile::new_in(folder).with_context(at)?;
    let (exported, _) = write(client, &modules, draft.as_file_mut(), output).await?;
    draft.as_file().sync_all().with_context(at)?;
    draft.persist(&args.output).with_context(at)?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(at)?;
    output.show(&exported, |exported| {
        let lines = exported.modules.iter().map(describe_one);
        lines.collect::<Vec<_>>().join("\n")
    })
}

async fn write<W: Write>(
    client: &Client,
    modules: &[ModuleInfo],
    out: W,
    output: Output,
) -> anyhow::Result<(Exported, W)> {
    let cluster = client.cluster().await?;
    let head = Head {
        format: FORMAT,
        holdfast: env!("CARGO_PKG_VERSION").to_owned(),
        exported_at_ms: now_ms(),
        cluster: cluster.id,
        cluster_name: cluster.name,
        modules: modules.iter().map(|info| info.module.clone()).collect(),
    };
    let out = BufWriter::new(out);
    let mut writer = Writer::new(out, &head).context(NOT_WRITTEN)?;
    let mut exported = Exported {
        modules: Vec::new(),
    };
    let mut foot = Foot::default();
    for info in modules {
        let module = &info.module;
        if info.removing {
            return Err(Failure::new(format!("{module} is being removed"))
                .hint("name the modules that are to be exported")
                .into());
        }
        if let Some(rollout) = &info.rollout {
            let (tried, serves) = (rollout.version.number, info.version.number);
            output.warn(&format!(
                "version {tried} of {module} is being tried: version {serves}, which serves, is exported"
            ));
        }
        let bar = output::progress(Some(info.resources), format!("exporting {module}"));
        component(client, &mut writer, info)
            .await
            .with_context(|| format!("export the component of {module}"))?;
        let resources = resources(client, &mut writer, module, || bar.inc(1))
            .await
            .with_context(|| format!("export the resources of {module}"))?;
        bar.finish_and_clear();
        foot.modules += 1;
        foot.resources += resources;
        exported.modules.push(ExportedModule {
            module: module.clone(),
            version: info.version.number,
            digest: info.version.digest,
            resources,
        });
    }
    let out = writer.finish(foot).context(NOT_WRITTEN)?;
    let out = out.into_inner().map_err(io::IntoInnerError::into_error);
    Ok((exported, out.context(NOT_WRITTEN)?))
}

async fn component<W: Write>(
    client: &Client,
    writer: &mut Writer<W>,
    info: &ModuleInfo,
) -> anyhow::Result<()> {
    let version = &info.version;
    let query = ComponentQuery {
        version: Some(version.number),
        digest: Some(version.digest),
    };
    let mut download = client.component(&info.module, &query).await?;
    writer
        .module(&ModuleHead {
            module: info.module.clone(),
            version: version.number,
            digest: version.digest,
            size_bytes: download.size(),
            settings: version.settings.clone(),
        })
        .context(NOT_WRITTEN)?;
    writer
        .component(&info.module, download.size())
        .context(NOT_WRITTEN)?;
    let mut hasher = Sha256::new();
    while let Some(piece) = download.next().await? {
        hasher.update(&piece);
        writer.piece(&piece).context(NOT_WRITTEN)?;
    }
    let came = Digest(hasher.finalize().into());
    anyhow::ensure!(came == version.digest, "what came is {came}");
    Ok(())
}

/// Writes all resources of a module, and says how many there are.
async fn resources<W: Write>(
    client: &Client,
    writer: &mut Writer<W>,
    module: &ModuleName,
    mut written: impl FnMut(),
) -> anyhow::Result<u64> {
    let mut query = ResourcesQuery {
        limit: Some(ResourcesQuery::LIMIT_MAX),
        ..ResourcesQuery::default()
    };
    let (mut count, mut pieces, mut lines) = (0, 0, Vec::new());
    loop {
        let page = client.resources(module, &query).await?;
        for info in &page.resources {
            let line = serde_json::json!({"id": info.id, "spec": info.spec});
            serde_json::to_writer(&mut lines, &line)?;
            lines.push(b'\n');
            count += 1;
            written();
        }
        query.cursor = page.next_cursor;
        let last = query.cursor.is_none();
        if lines.len() >= PIECE_BYTES || (last && !lines.is_empty()) {
            pieces += 1;
            writer
                .resources(module, pieces, &lines)
                .context(NOT_WRITTEN)?;
            lines.clear();
        }
        if last {
            return Ok(count);
        }
    }
}

fn describe_one(one: &ExportedModule) -> String {
    format!(
        "{} is exported: version {}, {}",
        one.module,
        one.version,
        human::counted(one.resources, "resource")
    )
}

const NOT_WRITTEN: &str = "write the archive";

/// How much of the resources is gathered before it is written.
const PIECE_BYTES: usize = 4 << 20;

const AFTER_HELP: &str = "\
Examples:
  holdfast modules export --output backup.tar
  holdfast modules export counter --output counter.tar
  holdfast modules export --output - | zstd > backup.tar.zst";
