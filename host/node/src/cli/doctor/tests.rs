use super::*;

fn findings() -> Vec<Finding> {
    vec![
        Finding::ok("rust", "rustc 1.95.0, cargo 1.95.0"),
        Finding::warning("open-files", "1,024, fewer than a node may use", "raise it"),
        Finding::failure(
            "data-dir",
            format!("/var/lib/{}: Permission denied", "long/".repeat(30)),
            "make it, and give it to the user that runs the node, ".repeat(3),
        ),
    ]
}

#[test]
fn only_a_failure_fails() {
    let all = findings();
    assert_eq!(exit_of(&all), Exit::Failed);
    assert_eq!(exit_of(&all[..2]), Exit::Done);
    assert_eq!(exit_of(&[]), Exit::Done);
}

#[test]
fn people_get_a_table_and_the_remedies_below_within_80_columns() {
    let text = describe(Output::plain(), &findings());
    let wide = text.lines().find(|line| line.chars().count() > 80);
    assert_eq!(wide, None, "{text}");
    for expected in [
        "CHECK       STATUS   FOUND\n",
        "rust        ok       rustc 1.95.0, cargo 1.95.0\n",
        "open-files  warning  1,024, fewer than a node may use\n",
        "\nopen-files: raise it\n",
        "\ndata-dir: make it, and give it to the user",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    assert!(!text.contains("rust: "), "{text}");
}

#[test]
fn programs_get_one_document() {
    let document = serde_json::to_value(findings()).unwrap();
    let first = serde_json::json!({
        "check": "rust", "status": "ok", "found": "rustc 1.95.0, cargo 1.95.0", "remedy": null,
    });
    assert_eq!(document[0], first);
    let second = serde_json::json!({
        "check": "open-files", "status": "warning",
        "found": "1,024, fewer than a node may use", "remedy": "raise it",
    });
    assert_eq!(document[1], second);
    assert_eq!(document[2]["status"], "failure");
}
