use std::{fs, path::Path};

use super::{super::command_named, *};

fn page() -> String {
    let mut command = command_named();
    command.build();
    reference(command.find_subcommand("start").unwrap())
}

#[test]
fn the_page_in_docs_is_the_one_that_the_command_prints() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/CONFIGURATION.md");
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let page = page();
    let differs = page.lines().zip(kept.lines()).find(|(new, old)| new != old);
    assert!(
        page == kept,
        "docs/CONFIGURATION.md is not what the code says, first here: {differs:?}. Look whether the \
         change is meant, and write it anew: cargo run -- config > docs/CONFIGURATION.md"
    );
}

#[test]
fn every_option_of_a_node_is_on_the_page_and_no_other() {
    let page = page();
    for expected in [
        "| `--data-dir DIR` |  | must be given |",
        "| `--listen ADDR` |  | `127.0.0.1:7301` |",
        "| `--seed HOST:PORT` |  |  |",
        "| `--bootstrap` |  | off |",
        "| `--fast-failover BOOL` |  | `true` |",
        "| `--secret-file FILE` | `HOLDFAST_SECRET` |  |",
        "| `--token TOKEN` | `HOLDFAST_TOKEN` |  |",
        "| `--log FILTER` | `HOLDFAST_LOG` | `info` |",
        "\n### `--lease-ttl DURATION`\n",
        "\n- `reserve`: They end here",
    ] {
        assert!(page.contains(expected), "{expected} is not in {page}");
    }
    for other in ["--server", "--exit-with-stdin", "--help"] {
        assert!(!page.contains(&format!("`{other}")), "{other}");
    }
}

#[test]
fn every_limit_is_on_the_page_with_its_bounds_and_default() {
    let line = "| `limits.queue_calls_max` | 1 to 1,048,576 | `128` | calls that may wait for one \
                resource | bursts get 429 | ";
    assert!(page().contains(line), "{}", page());
    let line = "| `limits.memory_bytes_max` | 65,536 to 4,294,967,296 | `67108864` (64.0 MiB) | ";
    assert!(page().contains(line), "{}", page());
}
