//! What one command writes another one reads: backups, by the commands of OPERATING.md.

use std::{fs, path::Path, process::Command};

use holdfast_model::{
    Digest,
    api::{ClusterSettings, ModuleInfo, ResourceInfo, ResourceList},
};
use holdfast_tests::{Api, Cluster, LONG, Probe, component, probe::ids};
use serde_json::{Value, json};

use crate::BIN;

/// The commands of the blocks of a section of OPERATING.md, block by block.
fn blocks(section: &str) -> Vec<Vec<String>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/OPERATING.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let begin = page.find(section).expect("the section is there") + section.len();
    let text = &page[begin..];
    let text = &text[..text.find("\n## ").unwrap_or(text.len())];
    let blocks = text.split("```console\n").skip(1);
    let commands = |block: &str| {
        let block = block.split("```").next().expect("a split has a first part");
        let lines = block.lines().filter_map(|line| line.strip_prefix("$ "));
        lines.map(str::to_owned).collect()
    };
    blocks.map(commands).collect()
}

/// Runs commands in a folder, against a node, and gives the exit code and all that was printed.
fn run(commands: &[String], folder: &Path, cluster: &Cluster) -> (i32, String) {
    let bin = Path::new(BIN).display();
    let script = format!(
        "set -e\nholdfast() {{ '{bin}' \"$@\"; }}\n{}",
        commands.join("\n")
    );
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder)
        .env(
            "HOLDFAST_SERVER",
            format!("http://{}", cluster.listening(0).http),
        )
        .env_remove("HOLDFAST_TEST_PROCESS")
        .output()
        .expect("bash can be started");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.code().expect("it ends by itself"), text)
}

#[track_caller]
fn run_well(commands: &[String], folder: &Path, cluster: &Cluster) -> String {
    let (code, text) = run(commands, folder, cluster);
    assert_eq!(code, 0, "{commands:?}: {text}");
    text
}

fn one(command: &str) -> [String; 1] {
    [command.to_owned()]
}

/// What a backup is to bring back of a module.
fn essence(api: &Api, module: &str) -> Value {
    let ModuleInfo { version, .. } = api.module(module);
    let mut resources = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/modules/{module}/resources?limit=1000{cursor}");
        let page: ResourceList = api.get(&path).answer().expect(200).json();
        let of = |info: ResourceInfo| json!([info.id, info.spec]);
        resources.extend(page.resources.into_iter().map(of));
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    json!({"digest": version.digest, "settings": version.settings, "resources": resources})
}

#[test]
fn a_backup_is_restored_by_the_commands_of_the_manual() {
    let lost = Cluster::builder(BIN).start();
    let api = lost.api(0);
    Probe::deploy(&api, "my-bot", lost.collector());
    Probe::deploy(&api, "other", lost.collector());
    let many = ids("r", 2_500);
    let spec = json!({"note": "ä\u{202e}\"\n", "deep": [{"n": 1.5}]});
    api.allocate_all_as("my-bot", &many, &spec);
    api.allocate_all("other", &["a/b c%2F".to_owned(), "日本語".to_owned()]);
    let changed = api
        .ask("PATCH", "/v1/cluster/settings")
        .json(&json!({"stable_after_ms": 2_500}));
    let _ = changed.answer().expect(200);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let [backup, restore, resources] = &blocks("\n## Backups\n")[..] else {
        panic!("the section has another form");
    };
    run_well(backup, folder, &lost);

    let new = Cluster::builder(BIN).nodes(2).beside(&lost).start();
    run_well(restore, folder, &new);
    for module in ["my-bot", "other"] {
        assert_eq!(essence(&new.api(1), module), essence(&api, module));
    }
    let settings: ClusterSettings = new.api(0).get("/v1/cluster/settings").answer().json();
    assert_eq!(settings.stable_after_ms, 2_500);

    // Again: nothing is new, whatever broke off before.
    let _ = new.api(0).deallocate("my-bot", "r7").answer().expect(204);
    let again = run_well(restore, folder, &new);
    assert!(again.contains("my-bot was there already"), "{again}");
    assert!(
        again.contains("1 created, 0 changed, 2,499 unchanged"),
        "{again}"
    );

    // Resources alone, by what lists print.
    run_well(resources, folder, &new);
    let page =
        one("holdfast resources list other --format json | holdfast resources import other -");
    let done = run_well(&page, folder, &new);
    assert!(done.contains("2 unchanged, 0 failed"), "{done}");
    let single = one(
        "holdfast resources get other/日本語 --format json | holdfast resources import other -",
    );
    let done = run_well(&single, folder, &new);
    assert!(done.contains("1 unchanged, 0 failed"), "{done}");
}

#[test]
fn an_import_names_what_it_leaves_and_does_the_rest() {
    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    Probe::deploy(&api, "kept", cluster.collector());
    Probe::deploy(&api, "lost", cluster.collector());
    api.allocate_all("kept", &ids("k", 3));
    api.allocate_all("lost", &ids("l", 3));
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run_well(
        &one("holdfast modules export -o - > all.tar"),
        folder,
        &cluster,
    );
    let before = essence(&api, "kept");

    // One is there with other settings, the other one is not there.
    let other = json!({"limits": {"call_timeout_ms": 5_000}});
    let changed = api.deploy("kept", component::probe(), &other);
    let _ = changed.answer().expect(201);
    let gone = api.ask("DELETE", "/v1/modules/lost?force=true&wait=gone");
    let _ = gone.patience(LONG).answer().expect(204);
    let (code, text) = run(&one("holdfast modules import all.tar"), folder, &cluster);
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("kept is not imported: it is there with another component"),
        "{text}"
    );
    assert!(text.contains("lost is deployed"), "{text}");
    assert_eq!(
        essence(&api, "lost")["resources"].as_array().unwrap().len(),
        3
    );
    let replaced = run_well(
        &one("holdfast modules import all.tar kept --replace"),
        folder,
        &cluster,
    );
    assert!(replaced.contains("kept is deployed over"), "{replaced}");
    assert_eq!(essence(&api, "kept"), before);

    // What is cut off says so, and an export that fails leaves no file.
    let whole = fs::read(folder.join("all.tar")).unwrap();
    fs::write(folder.join("half.tar"), &whole[..whole.len() / 2]).unwrap();
    let (code, text) = run(&one("holdfast modules import half.tar"), folder, &cluster);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("it can be repeated"), "{text}");
    let none = one("holdfast modules export kept nobody --output none.tar");
    let (code, text) = run(&none, folder, &cluster);
    assert_eq!(code, 3, "{text}");
    assert!(!folder.join("none.tar").exists());
}

#[test]
fn a_component_is_downloaded_from_any_node() {
    let cluster = Cluster::builder(BIN).nodes(2).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let component = component::probe();
    let digest = Digest::of(&component);
    let tag = format!("\"{digest}\"");
    for node in [0, 1] {
        let api = cluster.api(node);
        for query in [
            String::new(),
            "?version=1".to_owned(),
            format!("?digest={digest}"),
        ] {
            let path = format!("/v1/modules/probe/component{query}");
            let answer = api.get(&path).answer().expect(200);
            assert_eq!(answer.header("etag"), Some(tag.as_str()));
            assert_eq!(answer.header("holdfast-version"), Some("1"));
            assert_eq!(answer.body, component);
            let known = api.get(&path).header("if-none-match", &tag).answer();
            assert!(known.expect(304).body.is_empty());
        }
        let path = "/v1/modules/probe/component";
        let answer = api.get(&format!("{path}?version=2")).answer();
        answer.problem(404, "not-found").names(&["version 2", "1"]);
        let other = Digest::of(b"another one");
        let answer = api.get(&format!("{path}?digest={other}")).answer();
        answer.problem(404, "not-found").names(&["sha256:"]);
        let answer = api.get("/v1/modules/nobody/component").answer();
        answer.problem(404, "unknown-module");
    }
    // One that has lost its file fetches it.
    let file = cluster
        .data_dir(1)
        .join("modules")
        .join(format!("{}.wasm", digest.hex()));
    fs::remove_file(&file).unwrap();
    let again = cluster.api(1).get("/v1/modules/probe/component").answer();
    assert_eq!(again.expect(200).body, component);
    assert!(file.exists());
}
